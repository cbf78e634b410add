"""Every case of the table on the CPU kernels, in every dtype and layout."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import mbv1_kernels
from mbv1_kernels import backends
from mbv1_kernels.layout import is_channels_last
from tests.cases import CASES, DTYPES, LAYOUTS, Case, build, check
from tests.special_calls import cancelling, every_16_bit_value, far_apart, rounded_between, sums_to_round


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpu(case: Case, dtype: str, layout: str) -> None:
    call = build(case, DTYPES[dtype], layout)
    y = call(backend="cpu")
    check(call, y)
    if case.op != "pool_linear":
        expected = torch.channels_last if is_channels_last(call.args[0]) else torch.contiguous_format
        assert y.is_contiguous(memory_format=expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_empty_batch(case: Case) -> None:
    call = build(case, torch.float32)
    x = call.args[0][:0]
    kwargs = {k: v[:0] if k == "residual" else v for k, v in call.kwargs.items()}
    y = getattr(mbv1_kernels, case.op)(x, *call.args[1:], **kwargs)
    assert y.shape == (0, *call().shape[1:])


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "f64"])
@pytest.mark.parametrize("activation", mbv1_kernels.ACTIVATIONS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_special_values(activation: str, dtype: str, layout: str) -> None:
    """NaN and infinities go through every activation as in torch, and largest values do not overflow early."""
    special = [
        float("nan"),
        float("inf"),
        float("-inf"),
        0.0,
        -0.0,
        6.0,
        -3.0,
        3.0,
        1e-6,
        -1e-6,
        60000.0,
        -60000.0,
    ]
    x = torch.tensor(special, dtype=DTYPES[dtype]).reshape(1, 4, 1, 3)
    if layout == "nhwc":
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.ones(4, 1, 1, 1, dtype=x.dtype)
    y = mbv1_kernels.dwconv2d(x, weight, activation=activation, backend="cpu")
    expected = mbv1_kernels.dwconv2d(x, weight, activation=activation, backend="torch")
    torch.testing.assert_close(y, expected, equal_nan=True)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_values_beside_a_window_are_not_read(channels: int, dtype: str, value: float) -> None:
    """Windows whose rows have an odd number of values, which a kernel that multiplies pairs has to end."""
    x = torch.randn(1, channels, 21, 41).to(DTYPES[dtype]).contiguous(memory_format=torch.channels_last)
    x[..., 13] = x[..., -1] = value
    weight = torch.randn(16, channels, 3, 3).to(x.dtype)
    y = mbv1_kernels.stem_conv2d(x, weight, backend="cpu")
    expected = mbv1_kernels.stem_conv2d(x.double(), weight.double(), backend="torch")
    assert torch.equal(y.isfinite(), expected.isfinite())


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_16_bit_value_survives(dtype: str) -> None:
    """Loading, multiplying by one and storing gives back each of them (NaN as NaN)."""
    call, expected = every_16_bit_value(DTYPES[dtype])
    torch.testing.assert_close(call(backend="cpu"), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_rounds_to_nearest_even(dtype: str) -> None:
    """Sums rounded to 16 bits are torch's, bit for bit."""
    call, expected = sums_to_round(DTYPES[dtype])
    torch.testing.assert_close(call(backend="cpu"), expected, rtol=0, atol=0)


def test_overflow_of_half_is_infinite() -> None:
    """From the largest number's neighbours up to where only float32 still has a number."""
    x = torch.tensor([60000.0, 60000.0, -60000.0], dtype=torch.float16).reshape(1, 3, 1, 1)
    weight = torch.tensor([1.25, 60000.0, 2.0], dtype=x.dtype).reshape(3, 1, 1, 1)
    y = mbv1_kernels.dwconv2d(x, weight, backend="cpu")
    assert y.flatten().tolist() == [float("inf"), float("inf"), float("-inf")]


@pytest.fixture
def thread_count() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(
    "op, shape",
    [("dwconv2d", (3, 21, 7, 7)), ("separable_conv2d", (2, 32, 14, 14)), ("separable_conv2d", (2, 16, 31, 45))],
)
def test_results_do_not_depend_on_the_number_of_threads(
    op: str, shape: tuple[int, ...], layout: str, thread_count: Callable[[int], None]
) -> None:
    """Whose shares of rows begin and end inside images."""
    call = build(next(c for c in CASES if c.op == op and c.shape == shape), torch.float32, layout)
    results = []
    for threads in (1, 2, 3, 16):
        thread_count(threads)
        results.append(call(backend="cpu"))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-6)


def test_scratch_memory(thread_count: Callable[[int], None]) -> None:
    """Buffers that grow give back what they had, later calls take no more, and a thread that ends leaves nothing."""
    thread_count(1)
    used = torch.ops.mbv1.cpu_scratch_bytes

    def work() -> list[int]:
        seen = []
        for _ in range(3):
            for channels in (8, 24, 120, 600, 1800):
                x, dw = torch.randn(1, channels, 30, 20), torch.randn(channels, 1, 3, 3) / 3
                pw = torch.randn(64, channels, 1, 1) / channels**0.5
                y = mbv1_kernels.separable_conv2d(x, dw, None, pw, None, padding=1)
                middle = torch.nn.functional.conv2d(x, dw, padding=1, groups=channels)
                torch.testing.assert_close(y, torch.nn.functional.conv2d(middle, pw), rtol=1e-4, atol=1e-4)
            seen.append(used())
        return seen

    before = used()
    with ThreadPoolExecutor(1) as thread:
        first, *later = thread.submit(work).result()
    assert before < first <= before + 8 * 2**20
    assert set(later) == {first}
    # The system's thread ends a little after Python's.
    deadline = time.monotonic() + 10
    while used() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert used() <= before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("height", [1, 9])
def test_one_pixel_expanded_to_an_image(height: int, dtype: str) -> None:
    """Pixels a distance of 0 apart, with few channels and with outputs enough to share out."""
    call = build(Case("pwconv2d", (1, 8, height, 1), out=300), DTYPES[dtype])
    wide = call.args[0].expand(-1, -1, 9, 20)
    call = dataclasses.replace(call, args=(wide, *call.args[1:]))
    check(call, call(backend="cpu"))


@pytest.mark.parametrize("layout", ["nhwc", "nhwc_sliced"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("op, size", [("dwconv2d", 3), ("dwconv2d", 5), ("separable_conv2d", 3)])
def test_tensors_beyond_the_second_level_cache(op: str, size: int, stride: int, dtype: str, layout: str) -> None:
    """Their next rows are fetched ahead, behind the last row those of the next image, if there is one."""
    activation = "dw_activation" if op == "separable_conv2d" else "activation"
    options = {"padding": size // 2, "stride": stride, activation: "relu"}
    call = build(Case(op, (3, 72, 60, 58), (size, size), out=8, options=options), DTYPES[dtype], layout)
    check(call, call(backend="cpu"))


@pytest.mark.parametrize("dtype, channels, stride", [("f32", 1024, 1), ("f32", 512, 2), ("bf16", 2048, 1)])
@pytest.mark.parametrize("batch, height, missing", [(2, 7, 0), (2, 7, 3), (1, 1, 21), (33, 8, 0)])
def test_pixels_that_share_cache_sets(
    dtype: str, channels: int, stride: int, batch: int, height: int, missing: int
) -> None:
    """Pixels a multiple of 2 or 4 KB apart, all of their channels or all but the last ones, near and far."""
    options = {"padding": 1, "stride": stride, "activation": "relu6"}
    call = build(Case("dwconv2d", (batch, channels, height, 7), (3, 3), options=options), DTYPES[dtype], "nhwc")
    x, weight, bias, *rest = call.args
    kept = channels - missing
    call = dataclasses.replace(call, args=(x[:, :kept], weight[:kept], bias[:kept], *rest))
    check(call, call(backend="cpu"))


def test_offsets_beyond_2_31_elements() -> None:
    """In memory that is reserved but never touched in between."""
    for near, far in far_apart("cpu"):
        check(near, far(backend="cpu"))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", backends.OPS)
def test_sums_are_made_in_float32(op: str, dtype: str, layout: str) -> None:
    call, expected = cancelling(op, DTYPES[dtype], layout)
    assert torch.equal(call(backend="cpu"), expected)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhwc_strided"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tensor_between_the_parts_is_rounded(dtype: str, layout: str) -> None:
    call, expected = rounded_between(DTYPES[dtype], layout)
    assert (call(backend="cpu") == expected).all()
