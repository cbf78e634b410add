"""Torch eager with cuDNN's choice of algorithm measured instead of guessed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..workload import Workload
from . import CudaPeer


class CudnnBenchmark(CudaPeer):
    name = "cudnn bench"
    title = "torch eager, batch norm folded, torch.backends.cudnn.benchmark = True"

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        eager, cudnn = workload.eager(workload.folded), torch.backends.cudnn

        # The flag belongs to this peer alone, and setting it costs far less than a launch.
        def run() -> Tensor:
            cudnn.benchmark = True
            try:
                return eager()
            finally:
                cudnn.benchmark = False

        return run


PEERS = [CudnnBenchmark()]
