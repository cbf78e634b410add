"""``mbv1::separable_conv2d_triton``: depthwise and pointwise convolution in one kernel."""

from __future__ import annotations

from collections.abc import Sequence

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
    sizes,
    strides,
    wrap_triton,
)
from .dwconv2d import MAX_UNROLLED, depthwise_tile
from .pwconv2d import pointwise_epilogue, precision

__all__ = ["plan", "separable_conv2d_triton", "unsupported"]


@triton.jit(do_not_specialize=["n_pixels", "in_height", "in_width", "out_height", "out_width", "pad_top", "pad_left"])
def separable_conv2d_kernel(
    x_ptr, dw_ptr, dw_bias_ptr, pw_ptr, pw_bias_ptr, residual_ptr, y_ptr,
    n_pixels, channels, out_channels, in_height, in_width, out_height, out_width,
    x_stride_n, x_stride_c, x_stride_h, x_stride_w,
    dw_stride_c, dw_stride_h, dw_stride_w, dw_bias_stride,
    pw_stride_o, pw_stride_k, pw_bias_stride,
    residual_stride_n, residual_stride_c, residual_stride_h, residual_stride_w,
    y_stride_n, y_stride_c, y_stride_h, y_stride_w,
    stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr,
    HAS_DW_BIAS: tl.constexpr, HAS_PW_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    DW_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[n, o, oh, ow] = act(pw_bias[o] + sum_c pw[o, c] * middle[n, c, oh, ow] + residual[n, o, oh, ow])
    middle[n, c, oh, ow] = dw_act(dw_bias[c] + sum_ij dw[c, i, j] * x[n, c, ih, iw])
    ih = oh * stride_h - pad_top + i * dilation_h, iw = ow * stride_w - pad_left + j * dilation_w

    A program makes BLOCK_M pixels, counted through (N, OH, OW), of BLOCK_N output channels. It walks the
    channels in slices of BLOCK_K: each slice of `middle` is made in registers, rounded to the dtype of x as
    if it had been stored, and multiplied. NHWC is the product middle[pixels, c] @ pw[c, o], NCHW
    pw[o, c] @ middle[c, pixels].
    """
    PIXELS: tl.constexpr = 0 if CHANNELS_LAST else 1
    OUTPUTS: tl.constexpr = 1 - PIXELS
    tiles_n = tl.cdiv(out_channels, BLOCK_N)
    pid = tl.program_id(0)
    start = (pid // tiles_n).to(tl.int64) * BLOCK_M
    pixel_mask = across(start + tl.arange(0, BLOCK_M) < n_pixels, PIXELS)
    n, h, w = pixels(start, out_height, out_width, BLOCK_M, WIDE)
    n = across(n.to(tl.int64), PIXELS)
    h = across(h.to(tl.int32), PIXELS)
    w = across(w.to(tl.int32), PIXELS)
    o = (pid % tiles_n) * BLOCK_N + across(tl.arange(0, BLOCK_N), OUTPUTS)
    out_mask = o < out_channels
    pw_ptrs = pw_ptr + o.to(tl.int64) * pw_stride_o

    if CHANNELS_LAST:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    else:
        acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for k0 in tl.range(0, channels, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        # k is the other axis of each factor: across from the pixels in middle, from the outputs in pw.
        c = across(k, OUTPUTS)
        k_pw = across(k, PIXELS)
        channel_mask = c < channels
        if CHANNELS_LAST:
            middle = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
        else:
            middle = tl.zeros((BLOCK_K, BLOCK_M), tl.float32)
        if HAS_DW_BIAS:
            dw_bias = tl.load(dw_bias_ptr + c.to(tl.int64) * dw_bias_stride, mask=channel_mask, other=0.0)
            middle += dw_bias.to(tl.float32)
        middle = depthwise_tile(
            middle, x_ptr, dw_ptr, n, h * stride_h - pad_top, w * stride_w - pad_left, c, in_height, in_width,
            x_stride_n, x_stride_c, x_stride_h, x_stride_w, dw_stride_c, dw_stride_h, dw_stride_w,
            dilation_h, dilation_w, pixel_mask, channel_mask, KH, KW, UNROLL,
        )  # fmt: skip
        middle = round_to(activate(middle, DW_ACTIVATION), x_ptr.dtype.element_ty)
        pw = tl.load(pw_ptrs + k_pw.to(tl.int64) * pw_stride_k, mask=out_mask & (k_pw < channels), other=0.0)
        acc = dot(middle, pw, acc, PRECISION) if CHANNELS_LAST else dot(pw, middle, acc, PRECISION)
    h = h.to(tl.int64)
    w = w.to(tl.int64)
    pointwise_epilogue(
        acc, pw_bias_ptr, residual_ptr, y_ptr, o, pw_bias_stride, residual_stride_c, y_stride_c,
        n * residual_stride_n + h * residual_stride_h + w * residual_stride_w,
        n * y_stride_n + h * y_stride_h + w * y_stride_w,
        pixel_mask, out_mask, HAS_PW_BIAS, HAS_RESIDUAL, ACTIVATION,
    )  # fmt: skip


def _tile(n_pixels: int, out_channels: int, x: Tensor, precision: str) -> tuple[int, int, int, int]:
    """(BLOCK_M, BLOCK_N, BLOCK_K, warps).

    Each of the OUT / BLOCK_N programs of a pixel tile makes `middle` again, so that BLOCK_N is as wide as the
    accumulator's registers allow: 64 x 256 over 8 warps is 64 a thread. Fewer pixels a program where that
    leaves SMs idle. IEEE float32 keeps its factors in registers too, hence half of everything.
    """
    programs = 128
    max_m, max_n, block_k = (32, 64, 16) if precision == "ieee" else (64, 256, 64 // x.element_size())
    block_n = power_of_2(out_channels, 16, max_n)
    block_m = power_of_2(n_pixels, 16, max_m)
    while block_m > 16 and triton.cdiv(n_pixels, block_m) * triton.cdiv(out_channels, block_n) < programs:
        block_m //= 2
    return block_m, block_n, block_k, 8 if block_n == 256 else 4


def plan(
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
    allow_tf32: bool,
    y: Tensor,
) -> Launch:
    """The launch that fills ``y``, from checked arguments. Reads shapes and strides only."""
    batch, out_channels, height, width = y.shape
    n_pixels = batch * height * width
    in_precision = precision(x, allow_tf32)
    block_m, block_n, block_k, num_warps = _tile(n_pixels, out_channels, x, in_precision)
    kh, kw = dw_weight.shape[2:]
    args = {
        "x_ptr": x,
        "dw_ptr": dw_weight,
        "dw_bias_ptr": x if dw_bias is None else dw_bias,
        "pw_ptr": pw_weight,
        "pw_bias_ptr": x if pw_bias is None else pw_bias,
        "residual_ptr": x if residual is None else residual,
        "y_ptr": y,
        "n_pixels": n_pixels,
        "channels": x.shape[1],
        "out_channels": out_channels,
        **sizes("in", x),
        **sizes("out", y),
        **strides("x", x),
        "dw_stride_c": dw_weight.stride(0),
        "dw_stride_h": dw_weight.stride(2),
        "dw_stride_w": dw_weight.stride(3),
        "dw_bias_stride": 0 if dw_bias is None else dw_bias.stride(0),
        "pw_stride_o": pw_weight.stride(0),
        "pw_stride_k": pw_weight.stride(1),
        "pw_bias_stride": 0 if pw_bias is None else pw_bias.stride(0),
        **strides("residual", residual),
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
        "HAS_DW_BIAS": dw_bias is not None,
        "HAS_PW_BIAS": pw_bias is not None,
        "HAS_RESIDUAL": residual is not None,
        "DW_ACTIVATION": dw_activation,
        "ACTIVATION": activation,
        "PRECISION": in_precision,
        "CHANNELS_LAST": is_channels_last(x),
        "WIDE": is_wide(height * width),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
    }
    grid = (triton.cdiv(n_pixels, block_m) * triton.cdiv(out_channels, block_n),)
    return Launch("separable_conv2d", grid, args, num_warps=num_warps, num_stages=2)


@register(
    "separable_conv2d",
    "Tensor x, Tensor dw_weight, Tensor? dw_bias, Tensor pw_weight, Tensor? pw_bias, int[] stride, "
    "int[] padding, int[] dilation, str dw_activation, str activation, Tensor? residual, "
    "bool allow_tf32=False",
)
def separable_conv2d_triton(
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
    """As ``torch.ops.mbv1.separable_conv2d``, on a CUDA device."""
    args = (
        x, dw_weight, dw_bias, pw_weight, pw_bias, stride, padding, dilation,
        dw_activation, activation, residual, allow_tf32,
    )  # fmt: skip
    y = new_output(x, backends.OPS["separable_conv2d"].check(*args))
    if y.numel() > 0:
        plan(*args, y)(wrap_triton(separable_conv2d_kernel), y)
    return y
