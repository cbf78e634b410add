"""Tests that need a CUDA device: a GPU, or the emulated one of tools/cudacpu (see tests/test_cuda_executor.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

EMULATED = "CUDACPU_KERNELS" in os.environ

# Without a device, tests/test_cuda_executor.py runs this folder in a process that has the emulated one.
collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]


@pytest.fixture(autouse=True)
def aten_on_the_cpu() -> Iterator[None]:
    """On the emulated device only our kernels run; torch's own operators fall back to the CPU."""
    if not EMULATED:
        yield
        return
    from cudacpu.fallback import CpuFallbackMode

    with CpuFallbackMode():
        yield


@pytest.fixture(autouse=True)
def strict_float32() -> Iterator[None]:
    """Torch allows TF32 in convolutions unless told otherwise; the tests of TF32 allow it themselves."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before
