"""Memory-format rules shared by every backend: which layout an input has, which one its output gets."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether the strides of a 4-D tensor describe NHWC memory (torch's ``channels_last``).

    Torch's own rule (``c10::is_channels_last_strides_2d``): strides ascend in the order C, W, H, N, where
    ambiguous shapes such as (N, 1, H, W) count as NCHW. The CPU and CUDA bindings apply the same rule in
    ``csrc/common/binding.h``, so that fake tensors get the strides of the real ones.
    """
    sizes, strides = x.shape, x.stride()
    if strides[1] == 0:
        return False
    smallest = 0
    for d in (1, 3, 2, 0):
        if sizes[d] == 0 or strides[d] < smallest:
            return False
        if d == 0 and smallest == strides[1]:
            return False
        smallest = strides[d]
        if sizes[d] > 1:
            smallest *= sizes[d]
    return True


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format that an op's output takes from its 4-D input ``x``."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def new_output(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor of ``size`` with the dtype, device and layout of ``x``."""
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))
