"""Whole nets as CUDA graphs: one launch for all their kernels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..graphs import capture
from ..workload import Workload
from . import MOBILENET, CudaPeer


class Mbv1Graph(CudaPeer):
    name = "mbv1 graph"
    title = "this project in a CUDA graph"
    ours = True
    benchmarks = frozenset({MOBILENET})
    allocates_in_torch = False  # its memory is the graph's own, for good
    capturable = False

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        return capture(workload.ours())


class TorchGraph(CudaPeer):
    name = "graph"
    title = "torch eager, batch norm folded, in a CUDA graph"
    benchmarks = frozenset({MOBILENET})
    allocates_in_torch = False  # its memory is the graph's own, for good
    capturable = False

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        return capture(workload.eager(workload.folded))


PEERS = [Mbv1Graph(), TorchGraph()]
