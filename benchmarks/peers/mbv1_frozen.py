"""This project, the net's weights fixed: what the files of other inference libraries are, too."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..workload import Workload
from . import MOBILENET, BasePeer


class Mbv1Frozen(BasePeer):
    name = "mbv1 frozen"
    title = "this project, mbv1.frozen(net): follows no change of the weights"
    ours = True
    benchmarks = frozenset({MOBILENET})

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        return workload.frozen()


PEERS = [Mbv1Frozen()]
