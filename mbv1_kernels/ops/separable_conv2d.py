"""Depthwise-separable convolution: depthwise and pointwise in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import checks, layout, reference
from ..backends import OPS, Op, run
from ._gradients import FROM_OUTPUT, activation_backward, conv2d_backward
from ._register import register
from .dwconv2d import check_depthwise
from .pwconv2d import allow_tf32, check_pointwise

_NAME = "separable_conv2d"


def separable_conv2d(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor | None,
    pw_weight: Tensor,
    pw_bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    dw_activation: str = "none",
    activation: str = "none",
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """A depthwise and a pointwise convolution in one kernel: the tensor between them never reaches memory.

    Equivalent to ``pwconv2d(dwconv2d(x, dw_weight, dw_bias, …, activation=dw_activation), pw_weight, pw_bias,
    activation=activation, residual=residual)``; the values between the two are rounded to the dtype of ``x``.

    Args:
        x: (N, C, H, W), contiguous, ``channels_last`` or of any other strides; float32, float16 or bfloat16,
            and float64 on the CPU.
        dw_weight: (C, 1, KH, KW), any kernel size, dtype and device of ``x``.
        dw_bias: (C,), or None.
        pw_weight: (O, C, 1, 1).
        pw_bias: (O,), or None.
        stride, dilation: of the depthwise part: one integer >= 1, or [vertical, horizontal].
        padding: zeros around the input: one integer >= 0, [vertical, horizontal] or [top, bottom, left, right].
        dw_activation, activation: after each part: ``"none"``, ``"relu"``, ``"relu6"``, ``"hardswish"`` or
            ``"silu"``.
        residual: (N, O, OH, OW) of any strides, added before the last activation, or None.
        backend: ``"auto"``, ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"torch"``; ``auto`` never fails where
            torch could run, a forced one raises the reason.

    Returns:
        (N, O, OH, OW) in the dtype and memory format of ``x``. Sums are made in float32 (float64 for float64).

    Raises:
        RuntimeError: for an argument that does not fit; it names the op, the argument, what was expected and
            what came.
    """
    args = _arguments(
        x,
        dw_weight,
        dw_bias,
        pw_weight,
        pw_bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        dw_activation=dw_activation,
        activation=activation,
        residual=residual,
    )
    return run(_OP, backend, args)


def _arguments(
    x: Tensor,
    dw_weight: Tensor,
    dw_bias: Tensor | None,
    pw_weight: Tensor,
    pw_bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    dw_activation: str = "none",
    activation: str = "none",
    residual: Tensor | None = None,
) -> tuple[Any, ...]:
    stride, dilation = checks.pair(_NAME, "stride", stride), checks.pair(_NAME, "dilation", dilation)
    window = stride, checks.padding4(_NAME, padding), dilation
    weights = dw_weight, dw_bias, pw_weight, pw_bias
    return x, *weights, *window, dw_activation, activation, residual, allow_tf32(x)


def _check(
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
) -> tuple[int, ...]:
    size = check_depthwise(_NAME, "dw_", x, dw_weight, dw_bias, stride, padding, dilation, dw_activation)
    return check_pointwise(_NAME, "pw_", x, size, pw_weight, pw_bias, activation, residual)


def _fake(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return layout.new_output(x, _check(x, *args, **kwargs))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, dw_weight, dw_bias, pw_weight, pw_bias, *window, ctx.dw_activation, ctx.activation, residual, tf32 = inputs
    ctx.window, ctx.allow_tf32 = window, tf32
    keep = ctx.activation in FROM_OUTPUT
    ctx.save_for_backward(
        x, dw_weight, dw_bias, pw_weight, pw_bias, None if keep else residual, output if keep else None
    )


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Recomputes the tensor between the two parts, which the forward never stored."""
    x, dw_weight, dw_bias, pw_weight, pw_bias, residual, output = ctx.saved_tensors
    needs = ctx.needs_input_grad

    def depthwise(activation: str) -> Tensor:
        return run(OPS["dwconv2d"], "auto", (x, dw_weight, dw_bias, *ctx.window, activation))

    middle = depthwise(ctx.dw_activation)

    def preactivation() -> Tensor:
        return run(OPS["pwconv2d"], "auto", (middle, pw_weight, pw_bias, "none", residual, ctx.allow_tf32))

    grad = activation_backward(grad, ctx.activation, output, preactivation)
    middle_needed = any(needs[:3])
    grad_middle, grad_pw_weight, grad_pw_bias = conv2d_backward(
        grad, middle, pw_weight, (1, 1), (0, 0, 0, 0), (1, 1), 1, (middle_needed, needs[3], needs[4])
    )
    grad_x = grad_dw_weight = grad_dw_bias = None
    if grad_middle is not None:
        grad_middle = activation_backward(grad_middle, ctx.dw_activation, middle, lambda: depthwise("none"))
        stride, padding, dilation = ctx.window
        grad_x, grad_dw_weight, grad_dw_bias = conv2d_backward(
            grad_middle, x, dw_weight, stride, padding, dilation, x.shape[1], needs[:3]
        )
    grad_residual = grad if needs[10] else None
    weights = grad_dw_weight, grad_dw_bias, grad_pw_weight, grad_pw_bias
    return grad_x, *weights, None, None, None, None, None, grad_residual, None


_OP = OPS[_NAME] = Op(_NAME, _arguments, _check, reference.separable_conv2d, has_triton=True)
register(_NAME, _fake, _backward, _setup_context, has_triton=True)
