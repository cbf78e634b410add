"""Pointwise (1x1) convolution with bias, residual and activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks, layout, reference
from ..backends import OPS, Op, run
from ._gradients import FROM_OUTPUT, activation_backward, conv2d_backward
from ._register import register

_NAME = "pwconv2d"


def pwconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """1x1 convolution (a matrix product), bias, residual and activation in one pass over memory.

    Equivalent to ``act(F.conv2d(x, weight, bias) + residual)``. On CUDA, float32 factors are rounded to TF32
    where torch allows it for convolutions (``torch.backends.cudnn.conv.fp32_precision``).

    Args:
        x: (N, C, H, W), contiguous, ``channels_last`` or of any other strides; float32, float16 or bfloat16,
            and float64 on the CPU.
        weight: (O, C, 1, 1), dtype and device of ``x``.
        bias: (O,), or None.
        activation: ``"none"``, ``"relu"``, ``"relu6"``, ``"hardswish"`` or ``"silu"``.
        residual: (N, O, H, W) of any strides, added before the activation, or None.
        backend: ``"auto"``, ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"torch"``; ``auto`` never fails where
            torch could run, a forced one raises the reason.

    Returns:
        (N, O, H, W) in the dtype and memory format of ``x``. Sums are made in float32 (float64 for float64).

    Raises:
        RuntimeError: for an argument that does not fit; it names the op, the argument, what was expected and
            what came.
    """
    return run(_OP, backend, _arguments(x, weight, bias, activation=activation, residual=residual))


def _torch_allows_tf32() -> bool:
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


# Dynamo cannot trace torch's setting: it takes the value at compile time. This is what the decorator
# torch.compiler.assume_constant_result does, which would import the compiler (over a second) here.
_torch_allows_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def allow_tf32(x: Tensor) -> bool:
    """Whether torch's settings allow a convolution of ``x`` to use TF32."""
    return x.is_cuda and x.dtype == torch.float32 and _torch_allows_tf32()


def _arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> tuple[Any, ...]:
    return x, weight, bias, activation, residual, allow_tf32(x)


def check_pointwise(
    op: str,
    prefix: str,
    x: Tensor,
    size: tuple[int, int, int, int],
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
) -> tuple[int, int, int, int]:
    """The output size of a 1x1 convolution of an input of ``size``, with dtype and device of ``x``."""
    batch, channels, height, width = size
    checks.check_weight(op, f"{prefix}weight", weight, 4, "(O, C, 1, 1)")
    out_channels = weight.shape[0]
    checks.check_like(op, f"{prefix}weight", weight, x, (out_channels, channels, 1, 1))
    checks.check_like(op, f"{prefix}bias", bias, x, (out_channels,))
    checks.check_like(op, "residual", residual, x, (batch, out_channels, height, width))
    checks.check_activation(op, "activation", activation)
    return batch, out_channels, height, width


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    allow_tf32: bool = False,
) -> tuple[int, ...]:
    checks.check_input(_NAME, x)
    batch, channels, height, width = x.shape
    return check_pointwise(_NAME, "", x, (batch, channels, height, width), weight, bias, activation, residual)


def _fake(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return layout.new_output(x, _check(x, *args, **kwargs))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.activation, residual, ctx.allow_tf32 = inputs
    keep = ctx.activation in FROM_OUTPUT
    ctx.save_for_backward(x, weight, bias, None if keep else residual, output if keep else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight, bias, residual, output = ctx.saved_tensors

    def preactivation() -> Tensor:
        return run(_OP, "auto", (x, weight, bias, "none", residual, ctx.allow_tf32))

    grad = activation_backward(grad, ctx.activation, output, preactivation)
    grads = conv2d_backward(grad, x, weight, (1, 1), (0, 0, 0, 0), (1, 1), 1, ctx.needs_input_grad[:3])
    return *grads, None, grad if ctx.needs_input_grad[4] else None, None


_OP = OPS[_NAME] = Op(_NAME, _arguments, _check, reference.pwconv2d, has_triton=True)
register(_NAME, _fake, _backward, _setup_context, has_triton=True)
