"""Batch norm folded into the convolution before it.

In evaluation, batch norm after a convolution is an affine map of each channel, so that

    scale  = gamma / sqrt(running_var + eps)
    weight = conv.weight * scale                                  (per output channel)
    bias   = beta + (conv.bias - running_mean) * scale            (conv.bias = 0 where there is none)

give ``conv(x; weight, bias) = bn(conv(x))``. The fold is computed in float32 (float64 for float64 parameters)
and cast once to the dtype that the net runs in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: (weight, bias) of one folded convolution.
Folded = tuple[Tensor, Tensor]


def fold_conv_bn(conv: nn.Conv2d, bn: _BatchNorm, dtype: torch.dtype | None = None) -> Folded:
    """``(weight, bias)`` of the one convolution that equals ``bn(conv(x))`` in evaluation.

    Differentiable in every parameter. ``dtype`` is the result's, by default that of ``conv.weight``. A
    depthwise weight keeps its shape (C, 1, KH, KW) but lies tap by tap in memory, (KH, KW, C), so that the
    kernels for channels-last inputs load the C weights of one tap with consecutive lanes.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("fold_conv_bn: bn: expected one with running statistics, got one without")
    dtype = dtype or conv.weight.dtype
    wide = torch.float64 if conv.weight.dtype == torch.float64 else torch.float32
    scale = bn.weight.to(wide) * torch.rsqrt(bn.running_var.to(wide) + bn.eps)
    shift = -bn.running_mean.to(wide) if conv.bias is None else conv.bias.to(wide) - bn.running_mean.to(wide)
    weight = (conv.weight.to(wide) * scale.view(-1, 1, 1, 1)).to(dtype)
    bias = (bn.bias.to(wide) + shift * scale).to(dtype)
    if conv.groups == conv.in_channels > 1 and weight.shape[1] == 1:
        weight = weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    return weight, bias
