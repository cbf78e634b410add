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
            y = chain(x, chain.plan(windows, x.shape[2:]))
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
    plan = chain.plan(windows, x.shape[2:])
    head = (torch.randn(11, 17).to(x.dtype), torch.randn(22)[::2].to(x.dtype) if bias else None)
    y = chain(x, plan, *head)
    torch.testing.assert_close(y, mbv1_kernels.pool_linear(chain(x, plan), *head), rtol=0, atol=0)
    torch.library.opcheck(torch.ops.mbv1.chain, (x, chain._packed, *plan, *head))
    assert chain(x[:0], plan, *head).shape == (0, 11)


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
    plan = chain.plan(windows, x.shape[2:])
    torch.library.opcheck(torch.ops.mbv1.chain, (x, chain._packed, *plan))
    assert chain(x[:0], plan).shape == (0, *chain(x, plan).shape[1:])


def test_errors_name_the_argument() -> None:
    x, weights, activations, windows = make("small", torch.float32, "nhwc")
    chain = Chain(weights, activations)
    plan, packed = chain.plan(windows, x.shape[2:]), chain._packed
    layers, size = plan
    parts = [Chain([layer], activations[:1])._packed for layer in weights]
    run = torch.ops.mbv1.chain

    def run_with(first: int, *numbers: int) -> torch.Tensor:
        changed = layers.clone()
        changed[0, first : first + len(numbers)] = torch.tensor(numbers)
        return run(x, packed, changed, size)

    for message, call in {
        r"packed\[0\]: expected the result of chain_pack": lambda: run(x.double(), packed, *plan),
        r"packed\[1\]: expected the result of chain_pack": lambda: run(
            x, torch.cat([parts[0], parts[2], *parts[2:]]), *plan
        ),
        r"packed\[2\]: expected": lambda: run(x, torch.cat([*parts[:2], parts[2][:-64]]), *plan),
        r"packed\[3\]: expected": lambda: run(x, packed[:-64], *plan),
        r"packed\[3\]: expected.*other weights": lambda: run(x, torch.cat([packed, packed[:1]]), *plan),
        r"packed: expected a contiguous 1-D uint8 tensor on the CPU, got .* strided": lambda: run(
            x, torch.cat([packed, packed])[::2], *plan
        ),
        "packed: expected data at a multiple of 4 bytes, got 1 behind one": lambda: run(
            x, torch.cat([packed[:1], packed])[1:], *plan
        ),
        r"layers: expected .* got Long \(4, 12\)": lambda: run(x, packed, layers[:, :-1].contiguous(), size),
        r"layers: expected .* got Long \(0, 13\)": lambda: run(x, packed, layers[:0], size),
        r"layers: expected .*1 to 64.* got Long \(68, 13\)": lambda: run(x, packed, layers.repeat(17, 1), size),
        r"layers: expected .* got Long \(13,\)": lambda: run(x, packed, layers[0], size),
        r"layers: expected .* got Int \(4, 13\)": lambda: run(x, packed, layers.int(), size),
        r"layers: expected .* got Long \(4, 13\), strided": lambda: run(x, packed, layers.repeat(1, 2)[:, ::2], size),
        r"size: expected \(1, .*\), got \(1, 2\)": lambda: run(x, packed, layers, [1, 2]),
        r"size: expected \(1, .*\), got \(2, ": lambda: run(x, packed, layers, [2, *size[1:]]),
        r"a padded feature map of at most 2\^50 elements, got \(3, 7, 2147483651": lambda: run_with(
            4, *[2**31 - 1] * 4
        ),
        r"parts: expected a contiguous 1-D uint8 tensor on the CPU, got \(.*\) float32 on cpu": lambda: (
            torch.ops.mbv1.in_huge_pages([x])
        ),
        "x: expected a 4-D": lambda: run(x[0], packed, *plan),
        "padded height >= window": lambda: run(x[:, :, :1], packed, *plan),
        "activation: expected 0 to 4": lambda: run_with(12, 5),
        "stride: expected 2 integers": lambda: run_with(2, 0),
        "activation: expected one of": lambda: Chain(weights, [("relu", "gelu")] * 4),
        "layers: expected 1 to 64": lambda: Chain(weights, activations[:1]),
        "windows: expected 4": lambda: chain.plan(windows[:1], (9, 11)),
        "stride: expected integers >= 1": lambda: chain.plan([Window((0, 1)), *windows[1:]], (9, 11)),
        "padding: expected integers >= 0": lambda: chain.plan([Window((1, 1), (0, 0, 0, -1))] * 4, (9, 11)),
        "padded width >= window 2, got 1": lambda: chain.plan(windows, (9, 0)),
        "dw_bias: expected shape": lambda: Chain([(weights[1][0], x[0, 0, 0], *weights[1][2:])], activations[:1]),
        "weight: expected shape .*1": lambda: chain(x, plan, torch.zeros(3, 7)),
        "bias: expected shape": lambda: chain(x, plan, torch.zeros(3, 1), torch.zeros(4)),
        "a separable block behind the first": lambda: run(
            x,
            torch.cat([parts[0], Chain([(None, None, torch.zeros(19, 7, 3, 3), None)], activations[:1])._packed]),
            layers[:2],
            size,
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
        bad[strassen] = chain(x, chain.plan([Window()], (4, 6))).isnan().any(1).sum().item()
    assert bad == {True: 2, False: 1}
