"""The contenders: one file each, of which ``PEERS`` lists one or more variants.

A new peer is a new file here, found by itself. It takes the form of the workload that suits it
(``workload.folded``, ``workload.unfolded``, ``workload.x``, …) and returns a callable that runs it once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Protocol

import torch

from ..workload import Workload

DWCONV, MOBILENET = "dwconv", "mobilenet"


class Peer(Protocol):
    """A contender. ``name`` heads a column (13 characters at most), ``title`` explains it."""

    name: str
    title: str
    #: Whether it is this project.
    ours: bool
    #: The benchmarks that it takes part in.
    benchmarks: frozenset[str]

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        """Why it takes part only when asked for (``--peers``); None where it always does."""

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        """Why it cannot run there; None where it can."""

    def prepare(self, workload: Workload) -> Callable[[], torch.Tensor]:
        """Everything that a user does once; the callable is what gets timed. May raise ``Unavailable``."""

    def finish(self) -> None:
        """Called when the workload is done with, for what outlives the callable."""


class BasePeer:
    """The defaults: a peer of every benchmark that runs everywhere."""

    ours = False
    benchmarks = frozenset({DWCONV, MOBILENET})

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return None

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        return None

    def finish(self) -> None:
        pass


class CudaPeer(BasePeer):
    """A peer that runs on GPUs alone."""

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        return None if device.type == "cuda" else "needs a CUDA device"


def find_peers(benchmark: str) -> list[Peer]:
    """All contenders of ``benchmark``: this project's first, ``mbv1`` before its variants."""
    found: list[Peer] = []
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            found += importlib.import_module(f"{__name__}.{module.name}").PEERS
    return sorted((p for p in found if benchmark in p.benchmarks), key=lambda p: (not p.ours, p.name != "mbv1"))
