"""``mbv1::dwconv2d_triton``: depthwise convolution, bias and activation."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .. import backends
from ..layout import is_channels_last, new_output
from . import unsupported
from .common import Launch, across, activate, power_of_2, register, round_to, sizes, strides, wrap_triton

__all__ = ["dwconv2d_triton", "plan", "unsupported"]

# Taps in flight: a row of the kernel, but not more than this many. Unrolled as a whole, 7x7 kernels spill
# registers on sm_90.
MAX_UNROLLED = 5


@triton.jit
def depthwise_tap(
    acc, x_ptrs, w_ptrs, h, w, in_height, in_width,
    x_stride_h, x_stride_w, w_stride_h, w_stride_w, dilation_h, dilation_w, pixel_mask, channel_mask, i, j,
):  # fmt: skip
    """``acc + weight[c, i, j] * x[n, c, h + i * dilation_h, w + j * dilation_w]``, x being 0 outside."""
    down = i * dilation_h
    right = j * dilation_w
    inside = (h + down >= 0) & (h + down < in_height) & (w + right >= 0) & (w + right < in_width)
    x = tl.load(
        x_ptrs + (tl.cast(down, tl.int64) * x_stride_h + tl.cast(right, tl.int64) * x_stride_w),
        mask=inside & pixel_mask & channel_mask,
        other=0.0,
    )
    weight = tl.load(
        w_ptrs + (tl.cast(i, tl.int64) * w_stride_h + tl.cast(j, tl.int64) * w_stride_w),
        mask=channel_mask,
        other=0.0,
    )
    return acc + x.to(tl.float32) * weight.to(tl.float32)


@triton.jit
def depthwise_tile(
    acc, x_ptr, w_ptr, n, h, w, c, in_height, in_width,
    x_stride_n, x_stride_c, x_stride_h, x_stride_w, w_stride_c, w_stride_h, w_stride_w,
    dilation_h, dilation_w, pixel_mask, channel_mask,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """``acc[p, c] + sum_ij weight[c, i, j] * x[n_p, c, h_p + i * dilation_h, w_p + j * dilation_w]``.

    The tile lies either way: pixels ``n, h, w, pixel_mask`` and channels ``c, channel_mask`` are broadcast.
    """
    x_ptrs = x_ptr + (
        n * x_stride_n + h.to(tl.int64) * x_stride_h + w.to(tl.int64) * x_stride_w + c.to(tl.int64) * x_stride_c
    )
    w_ptrs = w_ptr + c.to(tl.int64) * w_stride_c
    for tap in tl.range(0, KH * KW, loop_unroll_factor=UNROLL):
        acc = depthwise_tap(
            acc, x_ptrs, w_ptrs, h, w, in_height, in_width,
            x_stride_h, x_stride_w, w_stride_h, w_stride_w, dilation_h, dilation_w,
            pixel_mask, channel_mask, tap // KW, tap % KW,
        )  # fmt: skip
    return acc


@triton.jit(do_not_specialize=["pad_top", "pad_left", "in_height", "in_width", "out_height", "out_width"])
def dwconv2d_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr,
    channels, in_height, in_width, out_height, out_width,
    x_stride_n, x_stride_c, x_stride_h, x_stride_w,
    w_stride_c, w_stride_h, w_stride_w, bias_stride,
    y_stride_n, y_stride_c, y_stride_h, y_stride_w,
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr,
    HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y[n, c, oh, ow] = act(bias[c] + sum_ij weight[c, i, j] * x[n, c, ih, iw])
    ih = oh * stride_h - pad_top + i * dilation_h, iw = ow * stride_w - pad_left + j * dilation_w

    A program makes BLOCK_H * BLOCK_W pixels of one image for BLOCK_C channels. Memory order decides how the
    tile lies: NHWC as [pixels, channels], NCHW as [channels, pixels], so that neighbours in a warp are
    neighbours in memory.
    """
    PIXELS: tl.constexpr = 0 if CHANNELS_LAST else 1
    CHANNELS: tl.constexpr = 1 - PIXELS
    tiles_w = tl.cdiv(out_width, BLOCK_W)
    tiles_h = tl.cdiv(out_height, BLOCK_H)
    tiles_c = tl.cdiv(channels, BLOCK_C)
    pid = tl.program_id(0)
    tile_w = pid % tiles_w
    pid = pid // tiles_w
    tile_h = pid % tiles_h
    pid = pid // tiles_h
    n = (pid // tiles_c).to(tl.int64)

    pixel = across(tl.arange(0, BLOCK_H * BLOCK_W), PIXELS)
    h = tile_h * BLOCK_H + pixel // BLOCK_W
    w = tile_w * BLOCK_W + pixel % BLOCK_W
    c = (pid % tiles_c) * BLOCK_C + across(tl.arange(0, BLOCK_C), CHANNELS)
    pixel_mask = (h < out_height) & (w < out_width)
    channel_mask = c < channels

    if CHANNELS_LAST:
        acc = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    else:
        acc = tl.zeros((BLOCK_C, BLOCK_H * BLOCK_W), tl.float32)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + c.to(tl.int64) * bias_stride, mask=channel_mask, other=0.0).to(tl.float32)
    acc = depthwise_tile(
        acc, x_ptr, w_ptr, n, h * stride_h - pad_top, w * stride_w - pad_left, c, in_height, in_width,
        x_stride_n, x_stride_c, x_stride_h, x_stride_w, w_stride_c, w_stride_h, w_stride_w,
        dilation_h, dilation_w, pixel_mask, channel_mask, KH, KW, UNROLL,
    )  # fmt: skip
    y = round_to(activate(acc, ACTIVATION), y_ptr.dtype.element_ty)
    y_ptrs = y_ptr + (
        n * y_stride_n + h.to(tl.int64) * y_stride_h + w.to(tl.int64) * y_stride_w + c.to(tl.int64) * y_stride_c
    )
    tl.store(y_ptrs, y, mask=pixel_mask & channel_mask)


def _tile(channels_last: bool, channels: int, height: int, width: int) -> tuple[int, int, int]:
    """(BLOCK_H, BLOCK_W, BLOCK_C): 1024 outputs, 8 a thread of 4 warps, in the shape that loads best.

    NHWC: channels first, up to 64 (a 128-byte line of 16-bit values), then a patch of pixels about as high as
    wide, whose taps overlap in L1. NCHW: a row of up to 64 first, then rows, then channels for small planes.
    """
    outputs = 1024
    if channels_last:
        block_c = power_of_2(channels, 1, 64)
        block_w = power_of_2(width, 1, 8)
        return power_of_2(height, 1, outputs // (block_c * block_w)), block_w, block_c
    block_w = power_of_2(width, 1, 64)
    block_h = power_of_2(height, 1, outputs // block_w)
    return block_h, block_w, power_of_2(channels, 1, outputs // (block_w * block_h))


def plan(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
    y: Tensor,
) -> Launch:
    """The launch that fills ``y``, from checked arguments. Reads shapes and strides only."""
    batch, channels, height, width = y.shape
    channels_last = is_channels_last(x)
    block_h, block_w, block_c = _tile(channels_last, channels, height, width)
    kh, kw = weight.shape[2:]
    tiles = triton.cdiv(height, block_h) * triton.cdiv(width, block_w) * triton.cdiv(channels, block_c)
    args = {
        "x_ptr": x,
        "w_ptr": weight,
        "bias_ptr": x if bias is None else bias,
        "y_ptr": y,
        "channels": channels,
        **sizes("in", x),
        **sizes("out", y),
        **strides("x", x),
        "w_stride_c": weight.stride(0),
        "w_stride_h": weight.stride(2),
        "w_stride_w": weight.stride(3),
        "bias_stride": 0 if bias is None else bias.stride(0),
        **strides("y", y),
        "stride_h": stride[0],
        "stride_w": stride[1],
        "pad_top": padding[0],
        "pad_left": padding[2],
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "KH": kh,
        "KW": kw,
        "UNROLL": min(kw, MAX_UNROLLED),
        "HAS_BIAS": bias is not None,
        "ACTIVATION": activation,
        "CHANNELS_LAST": channels_last,
        "BLOCK_H": block_h,
        "BLOCK_W": block_w,
        "BLOCK_C": block_c,
    }
    return Launch("dwconv2d", (batch * tiles,), args, num_warps=4, num_stages=1)


@register(
    "dwconv2d",
    "Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, str activation",
)
def dwconv2d_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str,
) -> Tensor:
    """As ``torch.ops.mbv1.dwconv2d``, on a CUDA device."""
    args = (x, weight, bias, stride, padding, dilation, activation)
    y = new_output(x, backends.OPS["dwconv2d"].check(*args))
    if y.numel() > 0:
        plan(*args, y)(wrap_triton(dwconv2d_kernel), y)
    return y
