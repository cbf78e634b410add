"""The first convolution of a net: dense, few input channels, with bias and activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import checks, layout, reference
from ..backends import OPS, Op, run
from ._gradients import FROM_OUTPUT, activation_backward, conv2d_backward
from ._register import register

_NAME = "stem_conv2d"
_NO_DILATION = (1, 1)


def stem_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    activation: str = "none",
    backend: str = "auto",
) -> Tensor:
    """Dense convolution, bias and activation in one pass, made for inputs of few channels (images).

    Equivalent to ``act(F.conv2d(F.pad(x, …), weight, bias, stride))``.

    Args:
        x: (N, C, H, W), contiguous, ``channels_last`` or of any other strides; float32, float16 or bfloat16,
            and float64 on the CPU. Right for any C, fast for C <= 4.
        weight: (O, C, KH, KW), dtype and device of ``x``.
        bias: (O,), or None.
        stride: one integer >= 1, or [vertical, horizontal].
        padding: zeros around the input: one integer >= 0, [vertical, horizontal] or [top, bottom, left, right].
        activation: ``"none"``, ``"relu"``, ``"relu6"``, ``"hardswish"`` or ``"silu"``.
        backend: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"torch"``; ``auto`` never fails where torch could run, a
            forced one raises the reason.

    Returns:
        (N, O, OH, OW) in the dtype and memory format of ``x``. Sums are made in float32 (float64 for float64).

    Raises:
        RuntimeError: for an argument that does not fit; it names the op, the argument, what was expected and
            what came.
    """
    args = _arguments(x, weight, bias, stride=stride, padding=padding, activation=activation)
    return run(_OP, backend, args)


def _arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    activation: str = "none",
) -> tuple[Any, ...]:
    return x, weight, bias, checks.pair(_NAME, "stride", stride), checks.padding4(_NAME, padding), activation


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    activation: str,
) -> tuple[int, ...]:
    checks.check_input(_NAME, x)
    checks.check_weight(_NAME, "weight", weight, 4, "(O, C, KH, KW)")
    checks.check_like(_NAME, "weight", weight, x, (weight.shape[0], x.shape[1], *weight.shape[2:]))
    checks.check_like(_NAME, "bias", bias, x, (weight.shape[0],))
    size = checks.conv_output_size(_NAME, x.shape[2:], weight.shape[2:], stride, padding)
    checks.check_activation(_NAME, "activation", activation)
    return x.shape[0], weight.shape[0], *size


def _fake(x: Tensor, *args: Any) -> Tensor:
    return layout.new_output(x, _check(x, *args))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding, ctx.activation = inputs
    ctx.save_for_backward(x, weight, bias, output if ctx.activation in FROM_OUTPUT else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias, output = ctx.saved_tensors

    def preactivation() -> Tensor:
        return run(_OP, "auto", (x, weight, bias, ctx.stride, ctx.padding, "none"))

    grad = activation_backward(grad, ctx.activation, output, preactivation)
    grads = conv2d_backward(grad, x, weight, ctx.stride, ctx.padding, _NO_DILATION, 1, ctx.needs_input_grad[:3])
    return *grads, None, None, None


_OP = OPS[_NAME] = Op(_NAME, _arguments, _check, reference.stem_conv2d, has_triton=False)
register(_NAME, _fake, _backward, _setup_context, has_triton=False)
