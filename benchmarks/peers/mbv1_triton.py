"""This project's Triton kernels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..workload import Workload
from . import CudaPeer


class Mbv1Triton(CudaPeer):
    name = "mbv1 triton"
    title = "this project, backend triton"
    ours = True

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        return workload.ours("triton")

    def kernel(self, workload: Workload) -> str | None:
        return workload.kernel("triton")


PEERS = [Mbv1Triton()]
