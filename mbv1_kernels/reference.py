"""Each op in plain torch: the definition that every kernel is tested against, and the ``torch`` backend.

The functions take normalized arguments (see :mod:`mbv1_kernels.checks`): ``stride`` and ``dilation`` as
[vertical, horizontal], ``padding`` as [top, bottom, left, right].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
}

#: The names that every ``activation`` argument takes.
ACTIVATIONS: tuple[str, ...] = tuple(_ACTIVATIONS)


def activate(x: Tensor, activation: str) -> Tensor:
    """Equivalent to ``torch.nn.functional.<activation>(x)``; ``"none"`` returns ``x``."""
    return _ACTIVATIONS[activation](x)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Equivalent to ``F.conv2d(F.pad(x, [left, right, top, bottom]), …)``, without the pad where it can."""
    top, bottom, left, right = padding
    if top == bottom and left == right:
        symmetric = [top, left]
    else:
        x, symmetric = F.pad(x, [left, right, top, bottom]), [0, 0]
    return F.conv2d(x, weight, bias, list(stride), symmetric, list(dilation), groups)


def dwconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> Tensor:
    """Equivalent to ``activation(F.conv2d(pad(x), weight, bias, stride, 0, dilation, groups=C))``."""
    return activate(conv2d(x, weight, bias, stride, padding, dilation, x.shape[1]), activation)


def pwconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    allow_tf32: bool = False,
) -> Tensor:
    """Equivalent to ``activation(F.conv2d(x, weight, bias) + residual)``.

    ``allow_tf32`` is there for the kernels: torch's convolution follows torch's own setting.
    """
    y = F.conv2d(x, weight, bias)
    return activate(y if residual is None else y + residual, activation)


def separable_conv2d(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor | None,
    pw_weight: Tensor,
    pw_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    dw_activation: str,
    activation: str,
    residual: Tensor | None,
    allow_tf32: bool = False,
) -> Tensor:
    """Equivalent to ``pwconv2d(dwconv2d(x, dw_weight, dw_bias, …), pw_weight, pw_bias, …)``."""
    middle = dwconv2d(x, dw_weight, dw_bias, stride, padding, dilation, dw_activation)
    return pwconv2d(middle, pw_weight, pw_bias, activation, residual)


def stem_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str,
) -> Tensor:
    """Equivalent to ``activation(F.conv2d(pad(x), weight, bias, stride))``."""
    return activate(conv2d(x, weight, bias, stride, padding), activation)


def pool_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Equivalent to ``F.linear(x.mean((2, 3)), weight, bias)``."""
    return F.linear(torch.mean(x, (2, 3)), weight, bias)
