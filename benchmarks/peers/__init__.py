"""The contenders: one file each, of which ``PEERS`` lists one or more variants.

A new peer is a new file here, found by itself. It takes the form of the workload that suits it
(``workload.folded``, ``workload.unfolded``, ``workload.x``, …) and returns a callable that runs it once.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ..quiet import quiet
from ..workload import Workload

#: The benchmarks: one layer at a time, and whole nets.
DWCONV, PWCONV, SEPARABLE, MOBILENET = "dwconv", "pwconv", "separable", "mobilenet"
BENCHMARKS = (DWCONV, PWCONV, SEPARABLE, MOBILENET)


class Peer(Protocol):
    """A contender. ``name`` heads a column (13 characters at most), ``title`` explains it."""

    name: str
    title: str
    #: Whether it is this project.
    ours: bool
    #: The benchmarks that it takes part in.
    benchmarks: frozenset[str]
    #: Whether torch's allocator sees the activations of a call.
    allocates_in_torch: bool
    #: Whether its calls can be captured in a CUDA graph; not where they replay one.
    capturable: bool

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        """Why it takes part only when asked for (``--peers``); None where it always does."""

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        """Why it cannot run there; None where it can."""

    def prepare(self, workload: Workload) -> Callable[[], torch.Tensor]:
        """Everything that a user does once; the callable is what gets timed. May raise ``Unavailable``."""

    def kernel(self, workload: Workload) -> str | None:
        """The name of the kernel that it runs, where that is one and known."""

    def finish(self) -> None:
        """Called when the workload is done with, for what outlives the callable."""


class BasePeer:
    """The defaults: a peer of every benchmark that runs everywhere."""

    ours = False
    benchmarks = frozenset(BENCHMARKS)
    allocates_in_torch = True
    capturable = True

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return None

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        return None

    def kernel(self, workload: Workload) -> str | None:
        return None

    def finish(self) -> None:
        pass


def missing(needs: Sequence[str], extra: str) -> str | None:
    """Which of the modules ``needs`` are not installed, and the extra of this project that has them."""
    absent = [name for name in needs if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)} (pip install '.[{extra}]')" if absent else None


class CudaPeer(BasePeer):
    """A peer that runs on GPUs alone."""

    #: Modules that it imports, all of them in the extra ``peers-cuda``.
    needs: tuple[str, ...] = ()

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        return missing(self.needs, "peers-cuda") if device.type == "cuda" else "needs a CUDA device"


class LibraryPeer(BasePeer, ABC):
    """Another inference library on the CPU, which runs a model file made of ``workload.folded_float32``.

    Takes and gives its own memory layout, whatever the workload's: converting between them is not timed. Its number
    of threads is torch's when it is prepared.
    """

    #: Modules that it imports, all of them in the extra ``peers``.
    needs: tuple[str, ...] = ()
    allocates_in_torch = False
    dtypes: frozenset[torch.dtype] = frozenset({torch.float32})

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return "another library, seconds to make its model file"

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        if device.type != "cpu":
            return "compared on the CPU only"
        if dtype not in self.dtypes:
            return f"not compared in {str(dtype).removeprefix('torch.')}"
        return missing(self.needs, "peers")

    def prepare(self, workload: Workload) -> Callable[[], torch.Tensor]:
        with quiet():
            return self.load(workload)

    @abstractmethod
    def load(self, workload: Workload) -> Callable[[], torch.Tensor]:
        """:meth:`Peer.prepare`, during which nothing is printed."""


def find_peers(benchmark: str) -> list[Peer]:
    """All contenders of ``benchmark``: this project's first, ``mbv1`` before its variants."""
    found: list[Peer] = []
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found += importlib.import_module(f"{__name__}.{module.name}").PEERS
    return sorted((p for p in found if benchmark in p.benchmarks), key=lambda p: (not p.ours, p.name != "mbv1"))
