"""Conversions, comparisons and approximate functions, with NaN, infinities, ties and subnormals."""

import numpy as np
import pytest
from numbers16 import from_bfloat, to_bfloat
from programs import program

N = 512


def run(kernel, *arguments):
    program("formats.cu").launch(kernel, arguments, N // 128, 128)


@pytest.fixture
def x(rng):
    values = (rng.uniform(-1, 1, N) * 2.0 ** rng.integers(-30, 18, N)).astype("f4")
    values[:10] = [np.nan, np.inf, -np.inf, 0, -0.0, 1 + 2**-11, 1 + 2**-8, -1 - 3 * 2**-9, 65519, 1e-42]
    return values


def with_nans(values):
    values = values.copy()
    values[3::17] = np.nan
    return values


def encode(values, kind):
    return values.astype("f2") if kind == "half" else to_bfloat(values)


def decode(values, kind):
    return values.astype("f8") if kind == "half" else from_bfloat(values)


def pairs(rng, kind):
    a, b = (with_nans(rng.integers(-2, 3, 2 * N).astype("f4")) for _ in range(2))
    b = np.roll(b, 5)
    return a, b, encode(a, kind), encode(b, kind)


@pytest.mark.parametrize("kind", ["half", "bfloat"])
def test_pair_comparisons(rng, kind):
    a, b, x, z = pairs(rng, kind)
    y = np.zeros(N, "u4")
    run(f"{kind}_masks", x, z, y)
    unordered = np.isnan(a) | np.isnan(b)
    bits = (a == b) * 1 + (a < b) * 2 + (unordered | (a > b)) * 4 + (unordered | (a != b)) * 8
    expected = bits[::2] | bits[1::2] << 16
    expected |= np.where((a >= b).reshape(N, 2).all(1), 0x10, 0)
    expected |= np.where((unordered | (a == b)).reshape(N, 2).all(1), 0x20, 0)
    assert np.array_equal(y, expected)


def test_unordered_comparisons_that_give_numbers(rng):
    a, b, x, z = pairs(rng, "half")
    y = np.zeros(2 * N, "f2")
    run("unordered_pairs", x, z, y)
    unordered = np.isnan(a) | np.isnan(b)
    counts = (unordered | (a == b)) * 1 + (unordered | (a < b)) * 1 + np.isnan(a) * 1 + (a == b) * 1
    assert np.array_equal(y, counts.astype("f2"))


def bounds(a, b):
    return [np.minimum(a, b), np.maximum(a, b), np.fmin(a, b), np.fmax(a, b)]


def test_float_bounds(rng):
    x, z = (with_nans(rng.uniform(-1, 1, N).astype("f4")) for _ in range(2))
    z, y = np.roll(z, 5), np.zeros((N, 4), "f4")
    run("float_bounds", x, z, y)
    np.testing.assert_array_equal(y.T, bounds(x, z))


@pytest.mark.parametrize("kind", ["half", "bfloat"])
def test_pair_bounds(rng, kind):
    a, b, x, z = pairs(rng, kind)
    y = np.zeros((N, 4, 2), x.dtype)
    run(f"{kind}_bounds", x, z, y)
    expected = [v.reshape(N, 2) for v in bounds(a, b)]
    np.testing.assert_array_equal(decode(y, kind).transpose(1, 0, 2), expected)


@np.errstate(over="ignore")
def test_directed_rounding_to_half(x):
    y = np.zeros((N, 4), "f2")
    run("to_half", x, y)
    nearest = x.astype("f2")
    np.testing.assert_array_equal(y[:, 3], nearest)
    v = x.astype("f8")
    below = np.where(nearest.astype("f8") > v, np.nextafter(nearest, np.float16(-np.inf)), nearest)
    above = np.where(nearest.astype("f8") < v, np.nextafter(nearest, np.float16(np.inf)), nearest)
    np.testing.assert_array_equal(y[:, 0], np.where(v > 0, below, above))
    np.testing.assert_array_equal(y[:, 1], below)
    np.testing.assert_array_equal(y[:, 2], above)


def test_rounding_to_bfloat(x):
    y = np.zeros((N, 2), "u2")
    run("to_bfloat", x, y)
    truncated = (x.view("u4") & 0xFFFF0000).view("f4")
    np.testing.assert_array_equal(from_bfloat(y[:, 0]), truncated)
    finite = ~np.isnan(x)
    assert np.array_equal(y[finite, 1], to_bfloat(x[finite])) and np.isnan(from_bfloat(y[0, 1]))


def test_packing_pairs(rng):
    x, y = rng.uniform(-100, 100, 2 * N).astype("f4"), np.zeros((N, 3), "u4")
    run("to_pairs", x, y)
    half, bfloat, truncated = (np.ascontiguousarray(v).view("u2") for v in y.T)
    assert np.array_equal(half, x.astype("f2").view("u2"))
    assert np.array_equal(bfloat, to_bfloat(x))
    assert np.array_equal(truncated, x.view("u4") >> 16)


def test_rounding_to_tf32(x):
    y = np.zeros(N, "f4")
    run("to_tf32", x, y.view("u4"))
    rounded = ((x.view("u4").astype("u8") + 0x1000) & 0xFFFFE000).astype("u4").view("f4")
    np.testing.assert_array_equal(y, np.where(np.isfinite(x), rounded, x))


def test_integers_saturate(rng):
    x, y = (rng.uniform(-1, 1, N) * 2.0 ** rng.integers(0, 36, N)).astype("f4"), np.zeros((N, 8), "i4")
    run("to_integers", x, y)
    v = x.astype("f8")
    with np.errstate(over="ignore"):
        half = x.astype("f2").astype("f8")

    def limited(values, low, high):
        return np.clip(values, low, high).astype("i8").astype("u8").astype("u4").view("i4")

    signed = -(2**31), 2**31 - 1
    expected = [
        limited(np.rint(v), *signed),
        limited(np.floor(v), *signed),
        limited(np.ceil(v), 0, 2**32 - 1),
        limited(np.trunc(half), *signed),
        limited(np.rint(half), -(2**15), 2**15 - 1),
        (np.trunc(v).astype("i8") >> 8).astype("i4"),
        limited(np.rint(v), *signed),
        limited(np.rint(v), -128, 127),
    ]
    assert np.array_equal(y.T, expected)


def test_approximate_functions(rng):
    x, y = rng.uniform(0.1, 3, N).astype("f4"), np.zeros((N, 4), "f4")
    run("approximate", x, y)
    v = x.astype("f8")
    np.testing.assert_allclose(y.T, [np.tanh(v), np.exp2(v), 1 / v, v**-0.5], rtol=1e-6)


def test_half_functions(rng):
    x, y = rng.uniform(-2, 2, N).astype("f2"), np.zeros((N, 8), "f2")
    run("half_functions", x, y)
    v = x.astype("f8")
    a = abs(v)
    expected = [
        np.exp(v),
        np.log(a),
        np.sqrt(a),
        a**-0.5,
        v / 3,
        np.clip(v * v + a, 0, 1),
        np.maximum(v * a + v, 0),
        np.rint((x * np.float16(9)).astype("f8")),
    ]
    np.testing.assert_allclose(y.T, expected, rtol=2e-3, atol=1e-3)
