"""Chains against the same layers in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import mbv1_kernels
from mbv1_kernels import Chain, Window

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}

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
    "one": ((1, 130, 7, 7), "separable", [((3, 3), 70, Window((1, 1), SAME))]),
    "wide_padding": ((1, 8, 3, 4), "separable", [((3, 3), 9, Window((1, 1), (5, 4, 3, 6)))]),
}
ACTIVATIONS = [("relu", "relu6"), ("silu", "hardswish"), ("none", "relu"), ("relu", "none"), ("relu6", "relu")]


def make(net: str, dtype: torch.dtype, layout: str) -> tuple[Tensor, list[Any], list[tuple[str, str]], list[Window]]:
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
    return x, weights, ACTIVATIONS[: len(layers)], [window for _, _, window in layers]


def by_ops(x: Tensor, weights: Sequence[Any], activations: Sequence[tuple[str, str]], windows: Sequence[Window]):
    """The same layers in plain torch, each value between two rounded to the dtype of ``x``."""
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


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "strided"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("net", NETS)
def test_is_as_accurate_as_torch(net: str, dtype: str, layout: str) -> None:
    """With any number of threads: at most twice torch's error, and a unit of the largest value, as tests/cases.py."""
    x, weights, activations, windows = make(net, DTYPES[dtype], layout)
    wide = [tuple(None if t is None else t.double() for t in layer) for layer in weights]
    exact = by_ops(x.double(), wide, activations, windows)
    torch_error = (by_ops(x, weights, activations, windows).double() - exact).abs().max().item()
    unit = 64 * 2**-52 if x.dtype == torch.float64 else torch.finfo(x.dtype).eps
    allowed = 2 * torch_error + unit * exact.abs().max().item()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            chain = Chain(weights, activations)
            y = chain(x, chain.numbers(windows))
            assert y.is_contiguous(memory_format=torch.channels_last)
            assert (y.double() - exact).abs().max().item() <= allowed
    finally:
        torch.set_num_threads(before)


def test_opcheck_and_empty_batch() -> None:
    x, weights, activations, windows = make("small", torch.float32, "nhwc")
    chain = Chain(weights, activations)
    numbers = chain.numbers(windows)
    torch.library.opcheck(torch.ops.mbv1.chain, (x, chain._packed, numbers))
    assert chain(x[:0], numbers).shape == (0, *chain(x, numbers).shape[1:])


def test_errors_name_the_argument() -> None:
    x, weights, activations, windows = make("small", torch.float32, "nhwc")
    chain = Chain(weights, activations)
    numbers, packed = chain.numbers(windows), chain._packed
    run = torch.ops.mbv1.chain
    for message, call in {
        r"packed\[0\]: expected the result of chain_pack": lambda: run(x.double(), packed, numbers),
        r"packed\[1\]: expected the result of chain_pack": lambda: run(
            x, [packed[0], packed[2], *packed[2:]], numbers
        ),
        r"packed\[2\]: expected": lambda: run(x, [*packed[:2], packed[2][:-64], packed[3]], numbers),
        r"packed\[3\]: expected": lambda: run(x, [*packed[:3], torch.zeros(4096, dtype=torch.uint8)], numbers),
        "layers: expected 52 integers": lambda: run(x, packed, numbers[:-1]),
        "packed: expected 1 to 64 layers": lambda: run(x, [], []),
        "x: expected a 4-D": lambda: run(x[0], packed, numbers),
        "padded height >= window": lambda: run(x[:, :, :1, :], packed, [3, 2, 2, 1, 0, 0, 0, 0, *numbers[8:]]),
        "activation: expected 0 to 4": lambda: run(x, packed, [*numbers[:-1], 5]),
        "stride: expected 2 integers": lambda: run(x, packed, [3, 2, 0, *numbers[3:]]),
        "activation: expected one of": lambda: Chain(weights, [("relu", "gelu")] * 4),
        "layers: expected 1 to 64": lambda: Chain(weights, activations[:1]),
        "windows: expected 4": lambda: chain.numbers(windows[:1]),
        "dw_bias: expected shape": lambda: Chain([(weights[1][0], x[0, 0, 0], *weights[1][2:])], activations[:1]),
        "a separable block behind the first": lambda: run(
            x,
            [packed[0], *Chain([(None, None, torch.zeros(19, 7, 3, 3), None)], activations[:1])._packed, *packed[2:]],
            numbers,
        ),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            call()
