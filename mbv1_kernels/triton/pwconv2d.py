"""``mbv1::pwconv2d_triton``: 1x1 convolution (a matrix product), bias, residual and activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import backends
from ..layout import is_channels_last, new_output
from . import unsupported
from .common import (
    Launch,
    across,
    activate,
    dot,
    is_wide,
    pixels,
    power_of_2,
    register,
    round_to,
    strides,
    wrap_triton,
)

__all__ = ["plan", "pwconv2d_triton", "unsupported"]


@triton.jit
def pointwise_epilogue(
    acc, bias_ptr, residual_ptr, y_ptr, o, bias_stride, residual_stride_c, y_stride_c,
    residual_offset, y_offset, pixel_mask, out_mask,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """``y = act(acc + bias[o] + residual)``; the offsets are those of the pixels."""
    o = o.to(tl.int64)
    mask = pixel_mask & out_mask
    if HAS_BIAS:
        acc += tl.load(bias_ptr + o * bias_stride, mask=out_mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        residual_ptrs = residual_ptr + (residual_offset + o * residual_stride_c)
        acc += tl.load(residual_ptrs, mask=mask, other=0.0).to(tl.float32)
    y = round_to(activate(acc, ACTIVATION), y_ptr.dtype.element_ty)
    tl.store(y_ptr + (y_offset + o * y_stride_c), y, mask=mask)


@triton.jit(do_not_specialize=["n_pixels", "height", "width"])
def pwconv2d_kernel(
    x_ptr, w_ptr, bias_ptr, residual_ptr, y_ptr,
    n_pixels, height, width, in_channels, out_channels,
    x_stride_n, x_stride_c, x_stride_h, x_stride_w,
    w_stride_o, w_stride_k, bias_stride,
    residual_stride_n, residual_stride_c, residual_stride_h, residual_stride_w,
    y_stride_n, y_stride_c, y_stride_h, y_stride_w,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, FLAT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[n, o, h, w] = act(bias[o] + sum_k weight[o, k] * x[n, k, h, w] + residual[n, o, h, w])

    A program makes BLOCK_M pixels, counted through (N, H, W), of BLOCK_N output channels. NHWC is the
    product x[pixels, k] @ weight[k, o], NCHW weight[o, k] @ x[k, pixels]: neighbours in a warp are neighbours
    in memory. FLAT: pixel p lies at p * stride_w in every tensor (see `collapse`), so that none has to be
    divided into n, h, w.
    """
    PIXELS: tl.constexpr = 0 if CHANNELS_LAST else 1
    OUTPUTS: tl.constexpr = 1 - PIXELS
    tiles_n = tl.cdiv(out_channels, BLOCK_N)
    pid = tl.program_id(0)
    start = (pid // tiles_n).to(tl.int64) * BLOCK_M
    pixel_mask = across(start + tl.arange(0, BLOCK_M) < n_pixels, PIXELS)
    if FLAT:
        w = across(start + tl.arange(0, BLOCK_M), PIXELS)
        x_offset = w * x_stride_w
        residual_offset = w * residual_stride_w
        y_offset = w * y_stride_w
    else:
        n, h, w = pixels(start, height, width, BLOCK_M, WIDE)
        n = across(n.to(tl.int64), PIXELS)
        h = across(h.to(tl.int64), PIXELS)
        w = across(w.to(tl.int64), PIXELS)
        x_offset = n * x_stride_n + h * x_stride_h + w * x_stride_w
        residual_offset = n * residual_stride_n + h * residual_stride_h + w * residual_stride_w
        y_offset = n * y_stride_n + h * y_stride_h + w * y_stride_w
    o = (pid % tiles_n) * BLOCK_N + across(tl.arange(0, BLOCK_N), OUTPUTS)
    out_mask = o < out_channels
    x_ptrs = x_ptr + x_offset
    w_ptrs = w_ptr + o.to(tl.int64) * w_stride_o

    if CHANNELS_LAST:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    else:
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for k0 in tl.range(0, in_channels, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        # k is the other axis of each factor: across from the pixels in x, across from the outputs in weight.
        k_x = across(k, OUTPUTS)
        k_w = across(k, PIXELS)
        x = tl.load(x_ptrs + k_x.to(tl.int64) * x_stride_c, mask=pixel_mask & (k_x < in_channels), other=0.0)
        weight = tl.load(w_ptrs + k_w.to(tl.int64) * w_stride_k, mask=out_mask & (k_w < in_channels), other=0.0)
        acc = dot(x, weight, acc, PRECISION) if CHANNELS_LAST else dot(weight, x, acc, PRECISION)
    pointwise_epilogue(
        acc, bias_ptr, residual_ptr, y_ptr, o, bias_stride, residual_stride_c, y_stride_c,
        residual_offset, y_offset, pixel_mask, out_mask, HAS_BIAS, HAS_RESIDUAL, ACTIVATION,
    )  # fmt: skip


def collapse(size: Sequence[int], tensors: Sequence[Tensor | None]) -> tuple[int, int, int]:
    """(N, H, W) with as few dimensions as the strides of all ``tensors`` allow: of two neighbours of which
    the outer steps over the whole inner one, the outer becomes 1. Each dimension keeps its own stride.
    """
    n, h, w = size
    present = [t for t in tensors if t is not None]
    if h == 1 or all(t.stride(2) == w * t.stride(3) for t in present):
        h, w = 1, h * w
        if n == 1 or all(t.stride(0) == w * t.stride(3) for t in present):
            n, w = 1, n * w
    return n, h, w


def precision(x: Tensor, allow_tf32: bool) -> str:
    """The ``input_precision`` of a ``tl.dot`` of ``x``; it matters for float32 only."""
    return "tf32" if allow_tf32 or x.dtype != torch.float32 else "ieee"


def _tile(n_pixels: int, out_channels: int, x: Tensor, precision: str) -> tuple[int, int, int]:
    """(BLOCK_M, BLOCK_N, BLOCK_K): 128 x 128 on tensor cores, halved until there is a program for each SM.

    128 bytes of k a step: the swizzle width of shared memory. Products in IEEE float32 run on plain FMA
    units, each factor from registers: 64 x 64 x 16 is what fits.
    """
    programs = 128
    low, high, block_k = (16, 64, 16) if precision == "ieee" else (16, 128, 128 // x.element_size())
    block_m, block_n = power_of_2(n_pixels, low, high), power_of_2(out_channels, low, high)
    while (
        max(block_m, block_n) > 32 and triton.cdiv(n_pixels, block_m) * triton.cdiv(out_channels, block_n) < programs
    ):
        if block_m >= block_n:
            block_m //= 2
        else:
            block_n //= 2
    return block_m, block_n, block_k


def plan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    allow_tf32: bool,
    y: Tensor,
) -> Launch:
    """The launch that fills ``y``, from checked arguments. Reads shapes and strides only."""
    batch, out_channels, *plane = y.shape
    n, height, width = collapse((batch, *plane), (x, residual, y))
    n_pixels = n * height * width
    in_precision = precision(x, allow_tf32)
    block_m, block_n, block_k = _tile(n_pixels, out_channels, x, in_precision)
    args = {
        "x_ptr": x,
        "w_ptr": weight,
        "bias_ptr": x if bias is None else bias,
        "residual_ptr": x if residual is None else residual,
        "y_ptr": y,
        "n_pixels": n_pixels,
        "height": height,
        "width": width,
        "in_channels": x.shape[1],
        "out_channels": out_channels,
        **strides("x", x),
        "w_stride_o": weight.stride(0),
        "w_stride_k": weight.stride(1),
        "bias_stride": 0 if bias is None else bias.stride(0),
        **strides("residual", residual),
        **strides("y", y),
        "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": residual is not None,
        "ACTIVATION": activation,
        "PRECISION": in_precision,
        "CHANNELS_LAST": is_channels_last(x),
        "FLAT": n * height == 1,
        "WIDE": is_wide(height * width),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
    }
    grid = (triton.cdiv(n_pixels, block_m) * triton.cdiv(out_channels, block_n),)
    return Launch("pwconv2d", grid, args, num_warps=8 if block_m * block_n >= 128 * 128 else 4, num_stages=3)


@register(
    "pwconv2d",
    "Tensor x, Tensor weight, Tensor? bias, str activation, Tensor? residual, bool allow_tf32=False",
)
def pwconv2d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    allow_tf32: bool = False,
) -> Tensor:
    """As ``torch.ops.mbv1.pwconv2d``, on a CUDA device."""
    args = (x, weight, bias, activation, residual, allow_tf32)
    y = new_output(x, backends.OPS["pwconv2d"].check(*args))
    if y.numel() > 0:
        plan(*args, y)(wrap_triton(pwconv2d_kernel), y)
    return y
