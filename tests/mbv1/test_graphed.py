"""What mbv1.graphed refuses on a machine without a GPU; tests/cuda/test_cuda_graphed.py has the rest."""

from __future__ import annotations

import pytest
import torch

import mbv1


def test_a_cpu_tensor_is_refused() -> None:
    net = mbv1.MobileNetV1(width_mult=0.25, fused=True).eval()
    with pytest.raises(
        ValueError, match=r"mbv1.graphed: example: expected a tensor on a CUDA device, got one on cpu"
    ):
        mbv1.graphed(net, torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"mbv1.graphed: example: expected a tensor, got list"):
        mbv1.graphed(net, [1])  # type: ignore[arg-type]
