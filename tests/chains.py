"""Chains of layers, for every test that runs them: what they are made of, and what is right within which error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mbv1_kernels
from mbv1_kernels import Window
from tests.cases import allowed_error

# (kernel, output channels, window) of each layer, from the input's channels on; a leading "dense" makes the first
# layer a dense convolution.
SAME = (1, 1, 1, 1)
NETS: dict[str, tuple[tuple[int, int, int, int], str, list[tuple[tuple[int, int], int, Window]]]] = {
    # Groups of several layers, whose bands move down: planes of more than 256 KB.
    "depth_first": (
        (1, 3, 160, 160),
        "dense",
        [
            ((3, 3), 32, Window((2, 2), SAME)),
            ((3, 3), 64, Window((1, 1), SAME)),
            ((3, 3), 128, Window((2, 2), SAME)),
            ((3, 3), 128, Window((1, 1), SAME)),
            ((3, 3), 40, Window((2, 2), SAME)),
        ],
    ),
    "from_x": (
        (2, 48, 90, 101),
        "separable",
        [
            ((3, 3), 50, Window((1, 1), SAME)),
            ((5, 5), 33, Window((2, 2), (2, 1, 1, 2))),
            ((3, 5), 17, Window((1, 2), (2, 2, 2, 2), (2, 1))),
        ],
    ),
    "small": (
        (3, 5, 9, 11),
        "dense",
        [
            ((3, 2), 7, Window((2, 1), (0, 1, 0, 1))),
            ((3, 3), 19, Window((1, 1), SAME)),
            ((7, 7), 65, Window((2, 2), (3, 3, 3, 3))),
            ((1, 1), 1, Window()),
        ],
    ),
    # By Strassen's algorithm: quads of tiles of every height, halves that differ, fewer rows than a tile has.
    "strassen": (
        (2, 3, 23, 31),
        "dense",
        [
            ((3, 3), 128, Window((1, 1), SAME)),
            ((3, 3), 192, Window((1, 1), SAME)),
            ((3, 3), 128, Window((2, 2), SAME)),
            ((3, 3), 256, Window((2, 2), SAME)),
            ((3, 3), 64, Window((2, 2), SAME)),
        ],
    ),
    "strassen_heights": (
        (1, 128, 7, 9),
        "separable",
        [((1, 1), 128, Window()), *[((2, 2), 128, Window())] * 5, ((2, 1), 128, Window()), ((1, 3), 128, Window())],
    ),
    "one": ((1, 130, 7, 7), "separable", [((3, 3), 70, Window((1, 1), SAME))]),
    "wide_padding": ((1, 8, 3, 4), "separable", [((3, 3), 9, Window((1, 1), (5, 4, 3, 6)))]),
}
ACTIVATIONS = [("relu", "relu6"), ("silu", "hardswish"), ("none", "relu"), ("relu", "none"), ("relu6", "relu")]


LAYOUTS = ("nchw", "nhwc", "strided")
# What Strassen's algorithm may add to rounding errors: the bound is three times that of the usual product.
STRASSEN = 3


def make(net: str, dtype: torch.dtype, layout: str) -> tuple[Tensor, list[Any], list[tuple[str, str]], list[Window]]:
    """Input, weights, activations and windows of a net of :data:`NETS`."""
    torch.manual_seed(0)
    shape, first, layers = NETS[net]
    x = torch.randn(shape).to(dtype)
    if layout == "nhwc":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        x = torch.randn(shape[0], shape[1], shape[2] + 1, shape[3] * 2).to(dtype)[:, :, 1:, ::2]
    channels, weights = shape[1], []
    for i, (kernel, out, _) in enumerate(layers):
        bias = torch.randn(out) if i != 1 else None
        if i == 0 and first == "dense":
            scale = (channels * kernel[0] * kernel[1]) ** -0.5
            parts = [None, None, torch.randn(out, channels, *kernel) * scale, bias]
        else:
            dw = torch.randn(channels, 1, *kernel) * (kernel[0] * kernel[1]) ** -0.5
            parts = [dw, torch.randn(channels), torch.randn(out, channels, 1, 1) * channels**-0.5, bias]
        weights.append(tuple(None if p is None else p.to(dtype) for p in parts))
        channels = out
    activations = (ACTIVATIONS * 2)[: len(layers)]
    return x, weights, activations, [window for _, _, window in layers]


def by_ops(x: Tensor, weights: Sequence[Any], activations: Sequence[tuple[str, str]], windows: Sequence[Window]):
    """A chain's layers in plain torch, each value between two rounded to the dtype of ``x``."""
    for (dw, dw_bias, weight, bias), (dw_activation, activation), w in zip(
        weights, activations, windows, strict=True
    ):
        window: dict[str, Any] = {
            "stride": w.stride,
            "padding": w.padding,
            "activation": activation,
            "backend": "torch",
        }
        if dw is None:
            x = mbv1_kernels.stem_conv2d(x, weight, bias, **window)
        else:
            window.update(dilation=w.dilation, dw_activation=dw_activation)
            x = mbv1_kernels.separable_conv2d(x, dw, dw_bias, weight, bias, **window)
    return x


def expectation(
    x: Tensor, weights: Sequence[Any], activations: Sequence[tuple[str, str]], windows: Sequence[Window]
) -> tuple[Tensor, float]:
    """The right result in float64, and the error that is allowed: as for one op that makes all the sums."""
    wide = [tuple(None if t is None else t.double() for t in layer) for layer in weights]
    exact = by_ops(x.double(), wide, activations, windows)
    depth = sum(weight[0].numel() for _, _, weight, _ in weights)
    return exact, allowed_error(by_ops(x, weights, activations, windows), exact, depth)
