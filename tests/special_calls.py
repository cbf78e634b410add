"""Calls made for one question each: which sums are rounded, where, and how far offsets reach."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from mbv1_kernels import backends
from tests.cases import Call, Case, build


def cancelling(op: str, dtype: torch.dtype, layout: str, device: str = "cpu") -> tuple[Call, Tensor]:
    """A call whose sums pass 2048 on the way to a small result, and that: exact, unless sums have 16 bits."""
    case = {
        "dwconv2d": Case(op, (1, 8, 4, 4), (3, 3), bias=False),
        "pwconv2d": Case(op, (1, 96, 4, 4), out=8, bias=False),
        "separable_conv2d": Case(op, (1, 96, 4, 4), out=8, bias=False),
        "stem_conv2d": Case(op, (1, 3, 8, 8), (5, 5), out=8, bias=False),
        "pool_linear": Case(op, (1, 96, 4, 4), out=8, bias=False),
    }[op]
    call = build(case, dtype, layout).map(lambda t: t.fill_(1))
    weight = call.args[3 if op == "separable_conv2d" else 1].flatten(1).fill_(0.25)
    weight[:, 0], weight[:, -1] = 2048, -2048
    expected = torch.full(call().shape, 0.25 * (weight.shape[1] - 2), dtype=dtype)
    return call.map(lambda t: t.to(device)), expected


def _without_lost(x: Tensor) -> Tensor:
    """The values of ``x``, zero for subnormal bfloat16, which is subnormal in float32, too: AVX512-BF16 loses it."""
    return torch.where(x.abs() < torch.finfo(x.dtype).tiny, 0, x) if x.dtype is torch.bfloat16 else x


def every_16_bit_value(dtype: torch.dtype) -> tuple[Call, Tensor]:
    """A depthwise convolution that multiplies all bit patterns but subnormal bfloat16 by one, and its result."""
    x = _without_lost(torch.arange(-32768, 32768, dtype=torch.int16).view(dtype)).reshape(1, 64, 32, 32)
    return Call("dwconv2d", (x, torch.ones(64, 1, 1, 1, dtype=dtype)), {}), x


def sums_to_round(dtype: torch.dtype) -> tuple[Call, Tensor]:
    """A depthwise convolution whose sums of two lie between two values of the 16-bit ``dtype``, and its result: every
    exponent, ties, overflow, subnormals of float16."""
    wide = torch.arange(0, 2**31 - 2**23, 2**31 // 2**17 - 1, dtype=torch.int32).view(torch.float32)
    wide = wide[torch.isfinite(wide)]
    high = wide.to(dtype)
    low = _without_lost((wide - high.float()).to(dtype))
    high = _without_lost(high)
    high, low = high[torch.isfinite(high)], low[torch.isfinite(high)]
    x = torch.stack([high, low], 1).reshape(1, -1, 1, 2)
    call = Call("dwconv2d", (x, torch.ones(x.shape[1], 1, 1, 2, dtype=dtype)), {})
    return call, (high.float() + low.float()).to(dtype).reshape(1, -1, 1, 1)


def rounded_between(dtype: torch.dtype, layout: str, device: str = "cpu") -> tuple[Call, float]:
    """A separable convolution, and the value of its outputs: 1 + 3/4 unit, rounded up between the parts, minus 1."""
    unit = torch.finfo(dtype).eps
    call = build(Case("separable_conv2d", (1, 2, 3, 4), (1, 2), 2, bias=False), dtype, layout)
    call = call.map(lambda t: t.fill_(1))
    call.args[1].copy_(torch.tensor([[1, 0.75 * unit], [1, 0]]).reshape(2, 1, 1, 2))
    call.args[3].copy_(torch.tensor([1, -1]).reshape(1, 2, 1, 1))
    return call.map(lambda t: t.to(device)), unit


def _place(memory: Tensor, strides: list[int], dim: int, x: Tensor, start: int) -> Tensor:
    """The values of ``x`` in ``memory`` at ``start``, with ``strides``, of which that of ``dim`` is the far one."""
    far = memory.as_strided(x.shape, strides, start)
    for part, values in zip(far.unbind(dim), x.cpu().unbind(dim), strict=True):
        dense = torch.empty_strided(part.shape, part.stride(), dtype=x.dtype).copy_(values)
        memory[part.storage_offset() :][: dense.numel()].copy_(dense.as_strided((dense.numel(),), (1,)))
    return far


def far_apart(device: str) -> Iterator[tuple[Call, Call]]:
    """Calls whose x and residual step 2^31 elements in one dimension, each after the same call of near tensors.

    Dimensions outside that one have size 1, so that NHWC with far rows is still NHWC.
    """
    memory = torch.empty(2**31 + 4096, dtype=torch.float16, device=device)
    windows = {"pwconv2d": [(1, 1)], "pool_linear": [(1, 1)], "stem_conv2d": [(3, 3)]}
    for op, order, dim in itertools.product(backends.OPS, ((0, 1, 2, 3), (0, 2, 3, 1)), range(4)):
        outer = order[: order.index(dim)]
        channels = 2 if dim == 1 else 1 if 1 in outer else 8
        shape = tuple(1 if i in outer else (2, channels, 2, 2)[i] for i in range(4))
        strides = [2**32] * 4
        step = 1
        for i in reversed(order[len(outer) + 1 :]):
            strides[i] = step
            step *= shape[i]
        strides[dim] = 2**31
        place = partial(_place, memory, strides, dim)
        for kernel in windows.get(op, [(3, 3), (3, 1)]):
            padding = (kernel[0] // 2, kernel[1] // 2)
            options = {"padding": padding} if op not in ("pwconv2d", "pool_linear") else {}
            residual = op in ("pwconv2d", "separable_conv2d")
            case = Case(op, shape, kernel, channels, residual=residual, options=options)
            call = build(case, torch.float16, device=device)
            kwargs = {k: place(v, 2048) if k == "residual" else v for k, v in call.kwargs.items()}
            yield call, Call(op, (place(call.args[0], 0), *call.args[1:]), kwargs)
