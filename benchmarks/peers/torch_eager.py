"""Torch without a compiler: with batch norm folded, and as separate passes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..workload import Workload
from . import BasePeer


class Eager(BasePeer):
    name = "eager"
    title = "torch eager: batch norm folded beforehand, so convolution with bias, then activation"

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        return workload.eager(workload.folded)


class Passes(BasePeer):
    name = "passes"
    title = "torch eager: convolution, batch norm and activation as separate passes, as nets are written"

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        return workload.eager(workload.unfolded)


PEERS = [Eager(), Passes()]
