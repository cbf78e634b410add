"""Gradient formulas that several ops share. Built from aten ops, so they are differentiable themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Activations whose derivative is a function of their output; the others need their input.
FROM_OUTPUT = ("none", "relu", "relu6")


def activation_backward(
    grad: Tensor, activation: str, output: Tensor, recompute_input: Callable[[], Tensor]
) -> Tensor:
    """The gradient before the activation. ``recompute_input`` gives the activation's input where it is needed."""
    if activation == "none":
        return grad
    if activation == "relu":
        return torch.ops.aten.threshold_backward(grad, output, 0)
    if activation == "relu6":
        return torch.ops.aten.hardtanh_backward(grad, output, 0, 6)
    if activation == "hardswish":
        return torch.ops.aten.hardswish_backward(grad, recompute_input())
    # Not aten::silu_backward, which has no derivative of its own.
    x = recompute_input()
    sigmoid = torch.sigmoid(x)
    return grad * sigmoid * (1 + x * (1 - sigmoid))


def conv2d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias of ``reference.conv2d``; ``needed`` says which are wanted."""
    top, bottom, left, right = padding
    asymmetric = top != bottom or left != right
    padded = F.pad(x, [left, right, top, bottom]) if asymmetric else x
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        padded,
        weight,
        [weight.shape[0]],
        list(stride),
        [0, 0] if asymmetric else [top, left],
        list(dilation),
        False,
        [0, 0],
        groups,
        list(needed),
    )
    if asymmetric and needed[0]:
        grad_x = grad_x[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return (
        grad_x if needed[0] else None,
        grad_weight if needed[1] else None,
        grad_bias if needed[2] else None,
    )
