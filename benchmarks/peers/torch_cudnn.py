"""Torch eager with cuDNN: for the convolutions that torch runs without it, too, and with measured algorithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..workload import Workload
from . import CudaPeer


class CudnnFlags(CudaPeer):
    """Torch eager, batch norm folded, under settings of ``torch.backends.cudnn``."""

    def __init__(self, name: str, title: str, flags: Mapping[str, object]) -> None:
        self.name, self.title, self.flags = name, title, dict(flags)

    def unavailable(self, device: torch.device, dtype: torch.dtype, layout: str) -> str | None:
        absent = [flag for flag in self.flags if not hasattr(torch.backends.cudnn, flag)]
        lacks = f"this torch has no torch.backends.cudnn.{absent[0]}" if absent else None
        return super().unavailable(device, dtype, layout) or lacks

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        eager, cudnn, flags = workload.eager(workload.folded), torch.backends.cudnn, self.flags
        before = {flag: getattr(cudnn, flag) for flag in flags}

        # The flags belong to this peer alone, and setting them costs far less than a launch.
        def run() -> Tensor:
            for flag, value in flags.items():
                setattr(cudnn, flag, value)
            try:
                return eager()
            finally:
                for flag, value in before.items():
                    setattr(cudnn, flag, value)

        return run


PEERS = [
    CudnnFlags(
        "cudnn",
        "torch eager, batch norm folded, cuDNN for every convolution (depthwise_kernel = cudnn), by its heuristics",
        {"depthwise_kernel": "cudnn"},
    ),
    CudnnFlags(
        "cudnn bench",
        "torch eager, batch norm folded, torch.backends.cudnn.benchmark = True",
        {"benchmark": True},
    ),
]
