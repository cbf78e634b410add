"""Chains against the same layers in float64."""

from __future__ import annotations

import pytest
import torch

import mbv1_kernels
from mbv1_kernels import Chain, Window
from mbv1_kernels.chain import in_huge_pages
from tests.cases import DTYPES
from tests.chains import LAYOUTS, NETS, STRASSEN, expectation, make


@pytest.mark.parametrize("strassen", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("net", NETS)
def test_is_as_accurate_as_torch(net: str, dtype: str, layout: str, strassen: bool) -> None:
    """With any number of threads."""
    x, weights, activations, windows = make(net, DTYPES[dtype], layout)
    exact, allowed = expectation(x, weights, activations, windows)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            chain = Chain(weights, activations, strassen=strassen)
            y = chain(x, chain.numbers(windows))
            assert y.is_contiguous(memory_format=torch.channels_last)
            assert (y.double() - exact).abs().max().item() <= allowed * (STRASSEN if strassen else 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_with_a_head(dtype: str, bias: bool) -> None:
    """It is pool_linear's of the features, which has tests of its own."""
    x, weights, activations, windows = make("from_x", DTYPES[dtype], "nhwc")
    chain = Chain(weights, activations)
    numbers = chain.numbers(windows)
    head = (torch.randn(11, 17).to(x.dtype), torch.randn(22)[::2].to(x.dtype) if bias else None)
    y = chain(x, numbers, *head)
    torch.testing.assert_close(y, mbv1_kernels.pool_linear(chain(x, numbers), *head), rtol=0, atol=0)
    torch.library.opcheck(torch.ops.mbv1.chain, (x, chain._packed, numbers, *head))
    assert chain(x[:0], numbers, *head).shape == (0, 11)


@pytest.mark.parametrize("sizes", [(0,), (100, 28), (2**20,), (3 * 2**20 + 5, 0, 7), (2**22,)])
def test_huge_pages_hold_what_was_joined(sizes: tuple[int, ...]) -> None:
    """Whether the system has any: less than one, one of which half is used, and a rest that gets none."""
    parts = [torch.randint(0, 256, (size,), dtype=torch.uint8) for size in sizes]
    joined = torch.ops.mbv1.in_huge_pages(parts)
    assert torch.equal(joined, torch.cat(parts))
    weight = torch.randn(30, 20)[:, ::2].bfloat16()
    assert torch.equal(in_huge_pages(weight), weight)


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
    parts = [Chain([layer], activations[:1])._packed for layer in weights]
    run = torch.ops.mbv1.chain
    for message, call in {
        r"packed\[0\]: expected the result of chain_pack": lambda: run(x.double(), packed, numbers),
        r"packed\[1\]: expected the result of chain_pack": lambda: run(
            x, torch.cat([parts[0], parts[2], *parts[2:]]), numbers
        ),
        r"packed\[2\]: expected": lambda: run(x, torch.cat([*parts[:2], parts[2][:-64]]), numbers),
        r"packed\[3\]: expected": lambda: run(x, packed[:-64], numbers),
        r"packed\[3\]: expected.*other weights": lambda: run(x, torch.cat([packed, packed[:1]]), numbers),
        r"packed: expected a contiguous 1-D uint8 tensor on the CPU, got .* strided": lambda: run(
            x, torch.cat([packed, packed])[::2], numbers
        ),
        "packed: expected data at a multiple of 4 bytes, got 1 behind one": lambda: run(
            x, torch.cat([packed[:1], packed])[1:], numbers
        ),
        "layers: expected 13 integers for each of 1 to 64": lambda: run(x, packed, numbers[:-1]),
        "layers: expected 13 integers .*got 0": lambda: run(x, packed, []),
        r"parts: expected a contiguous 1-D uint8 tensor on the CPU, got \(.*\) float32 on cpu": lambda: (
            torch.ops.mbv1.in_huge_pages([x])
        ),
        "x: expected a 4-D": lambda: run(x[0], packed, numbers),
        "padded height >= window": lambda: run(x[:, :, :1, :], packed, [3, 2, 2, 1, 0, 0, 0, 0, *numbers[8:]]),
        "activation: expected 0 to 4": lambda: run(x, packed, [*numbers[:-1], 5]),
        "stride: expected 2 integers": lambda: run(x, packed, [3, 2, 0, *numbers[3:]]),
        "activation: expected one of": lambda: Chain(weights, [("relu", "gelu")] * 4),
        "layers: expected 1 to 64": lambda: Chain(weights, activations[:1]),
        "windows: expected 4": lambda: chain.numbers(windows[:1]),
        "dw_bias: expected shape": lambda: Chain([(weights[1][0], x[0, 0, 0], *weights[1][2:])], activations[:1]),
        "weight: expected shape .*1": lambda: chain(x, numbers, torch.zeros(3, 7)),
        "bias: expected shape": lambda: chain(x, numbers, torch.zeros(3, 1), torch.zeros(4)),
        "a separable block behind the first": lambda: run(
            x,
            torch.cat([parts[0], Chain([(None, None, torch.zeros(19, 7, 3, 3), None)], activations[:1])._packed]),
            numbers[:26],
        ),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            call()


def test_strassen_can_be_refused() -> None:
    """It takes other weights, and makes of one NaN several pixels; without it, a pixel's values are its own."""
    torch.manual_seed(0)
    x = torch.randn(1, 128, 4, 6)
    weights = [(torch.randn(128, 1, 1, 1), None, torch.randn(128, 128, 1, 1), None)]
    x[0, 5, 0, 0] = torch.nan
    bad = {}
    for strassen in (True, False):
        chain = Chain(weights, [("none", "none")], strassen=strassen)
        bad[strassen] = chain(x, chain.numbers([Window()])).isnan().any(1).sum().item()
    assert bad == {True: 2, False: 1}
