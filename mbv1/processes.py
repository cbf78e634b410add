"""The processes of one run: this one alone, or those that ``torchrun`` started on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

#: How long a process that is done waits for the others. One that dies ends the wait at once.
_PATIENCE = timedelta(days=30)


class World:
    """Rank and size as torchrun's environment says, and the few things that the processes tell each other.

    Objects go over gloo, pickled: nothing is shared but the network. Alone, no process group is made.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._group: dist.ProcessGroup | None = None

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator[World]:
        """This process's world, with the process group up meanwhile."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        world = cls(*(int(os.environ.get(name, alone)) for name, alone in names.items()))
        if world.size == 1:
            yield world
            return
        # torchrun's store outlives a restart, and in it are the addresses of processes that are no more.
        store, rank, size = next(iter(dist.rendezvous("env://")))
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        # Connecting has torch's own time limit: where machines cannot reach each other, that is an error soon.
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        world._group = dist.new_group(timeout=_PATIENCE)
        try:
            yield world
        finally:
            dist.destroy_process_group()

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Goes on in every process, or in none: an OSError, ValueError or RuntimeError in one ends them all.

        Rank 0 raises it, its own or the first of the others'; the others exit with code 2 and say nothing.
        """
        failure = None
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if self.size == 1:
                raise
            failure = error
        if self.size == 1:
            return
        failures: list[str | None] = [None] * self.size
        dist.all_gather_object(failures, None if failure is None else str(failure), self._group)
        for rank, text in enumerate(failures):
            if text is None:
                continue
            if self.rank:
                raise SystemExit(2)
            raise failure or RuntimeError(f"rank {rank}: {text}")

    def gather(self, value: Any) -> list[Any] | None:
        """Every process's value in the order of ranks, on rank 0; None on the others."""
        if self.size == 1:
            return [value]
        values = None if self.rank else [None] * self.size
        dist.gather_object(value, values, group=self._group)
        return values

    def scatter(self, values: Sequence[Any] | None) -> Any:
        """This process's one of the values that rank 0 has for each."""
        if self.size == 1:
            assert values is not None
            return values[0]
        received = [None]
        dist.scatter_object_list(received, None if values is None else list(values), group=self._group)
        return received[0]
