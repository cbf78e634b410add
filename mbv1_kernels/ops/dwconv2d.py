"""Depthwise 2-D convolution with bias and activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import checks, layout, reference
from ..backends import OPS, Op, run
from ._gradients import FROM_OUTPUT, activation_backward, conv2d_backward
from ._register import register

_NAME = "dwconv2d"


def dwconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    activation: str = "none",
    backend: str = "auto",
) -> Tensor:
    """Depthwise convolution, bias and activation in one pass over memory.

    Equivalent to ``act(F.conv2d(F.pad(x, …), weight, bias, stride, 0, dilation, groups=C))``.

    Args:
        x: (N, C, H, W), contiguous, ``channels_last`` or of any other strides; float32, float16 or bfloat16,
            and float64 on the CPU.
        weight: (C, 1, KH, KW), any kernel size, dtype and device of ``x``.
        bias: (C,), or None.
        stride, dilation: one integer >= 1, or [vertical, horizontal].
        padding: zeros around the input: one integer >= 0, [vertical, horizontal] or [top, bottom, left, right].
        activation: ``"none"``, ``"relu"``, ``"relu6"``, ``"hardswish"`` or ``"silu"``.
        backend: ``"auto"``, ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"torch"``; ``auto`` never fails where
            torch could run, a forced one raises the reason.

    Returns:
        (N, C, OH, OW) in the dtype and memory format of ``x``, with
        ``OH = (H + top + bottom - dilation * (KH - 1) - 1) // stride + 1``. Sums are made in float32 (float64
        for float64).

    Raises:
        RuntimeError: for an argument that does not fit; it names the op, the argument, what was expected and
            what came.
    """
    args = _arguments(x, weight, bias, stride=stride, padding=padding, dilation=dilation, activation=activation)
    return run(_OP, backend, args)


def _arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    activation: str = "none",
) -> tuple[Any, ...]:
    stride, dilation = checks.pair(_NAME, "stride", stride), checks.pair(_NAME, "dilation", dilation)
    return x, weight, bias, stride, checks.padding4(_NAME, padding), dilation, activation


def check_depthwise(
    op: str,
    prefix: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> tuple[int, int, int, int]:
    """The output size of a depthwise convolution whose arguments are called ``<prefix>weight`` and so on."""
    checks.check_input(op, x)
    checks.check_weight(op, f"{prefix}weight", weight, 4, "(C, 1, KH, KW)")
    channels = x.shape[1]
    checks.check_like(op, f"{prefix}weight", weight, x, (channels, 1, *weight.shape[2:]))
    checks.check_like(op, f"{prefix}bias", bias, x, (channels,))
    size = checks.conv_output_size(op, x.shape[2:], weight.shape[2:], stride, padding, dilation)
    checks.check_activation(op, f"{prefix}activation", activation)
    return x.shape[0], channels, *size


def _check(x: Tensor, *args: Any) -> tuple[int, ...]:
    return check_depthwise(_NAME, "", x, *args)


def _fake(x: Tensor, *args: Any) -> Tensor:
    return layout.new_output(x, _check(x, *args))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding, ctx.dilation, ctx.activation = inputs
    ctx.save_for_backward(x, weight, bias, output if ctx.activation in FROM_OUTPUT else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias, output = ctx.saved_tensors
    window = ctx.stride, ctx.padding, ctx.dilation

    def preactivation() -> Tensor:
        return run(_OP, "auto", (x, weight, bias, *window, "none"))

    grad = activation_backward(grad, ctx.activation, output, preactivation)
    grads = conv2d_backward(grad, x, weight, *window, x.shape[1], ctx.needs_input_grad[:3])
    return *grads, None, None, None, None


_OP = OPS[_NAME] = Op(_NAME, _arguments, _check, reference.dwconv2d, has_triton=True)
register(_NAME, _fake, _backward, _setup_context, has_triton=True)
