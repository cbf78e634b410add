"""Global average pooling and a linear layer in one kernel: the head of a net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import checks, reference
from ..backends import OPS, Op, run
from ._register import register

_NAME = "pool_linear"


def pool_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Mean over height and width, then a linear layer.

    Equivalent to ``F.linear(x.mean((2, 3)), weight, bias)``.

    Args:
        x: (N, C, H, W), contiguous, ``channels_last`` or of any other strides; float32, float16 or bfloat16,
            and float64 on the CPU.
        weight: (O, C), dtype and device of ``x``.
        bias: (O,), or None.
        backend: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"torch"``; ``auto`` never fails where torch could run, a
            forced one raises the reason.

    Returns:
        (N, O), contiguous, in the dtype of ``x``. The mean and the sums are float32 (float64 for float64).

    Raises:
        RuntimeError: for an argument that does not fit; it names the op, the argument, what was expected and
            what came.
    """
    return run(_OP, backend, _arguments(x, weight, bias))


def _arguments(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Any, ...]:
    return x, weight, bias


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    checks.check_input(_NAME, x)
    checks.check_weight(_NAME, "weight", weight, 2, "(O, C)")
    checks.check_like(_NAME, "weight", weight, x, (weight.shape[0], x.shape[1]))
    checks.check_like(_NAME, "bias", bias, x, (weight.shape[0],))
    return x.shape[0], weight.shape[0]


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty(_check(x, weight, bias), dtype=x.dtype, device=x.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:
        pixels = x.shape[2] * x.shape[3]
        grad_x = ((grad @ weight) / pixels)[:, :, None, None].expand(x.shape)
    if ctx.needs_input_grad[1]:
        grad_weight = grad.t() @ x.mean((2, 3))
    if ctx.needs_input_grad[2]:
        grad_bias = grad.sum(0)
    return grad_x, grad_weight, grad_bias


_OP = OPS[_NAME] = Op(_NAME, _arguments, _check, reference.pool_linear, has_triton=False)
register(_NAME, _fake, _backward, _setup_context, has_triton=False)
