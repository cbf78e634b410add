"""Every group of instructions computes what numpy computes."""

import math
import struct

import numpy as np
import pytest
from numbers16 import from_bfloat, to_bfloat
from programs import program

from cudacpu import KernelError, Struct

N = 512


@pytest.fixture
def x(rng):
    return rng.uniform(-1, 1, N).astype("f4")


def run(kernel, *arguments, grid=4, block=128, **options):
    return program("features.cu").launch(kernel, arguments, grid, block, **options)


def test_math_functions(x):
    y, v = np.zeros_like(x), x.astype("f8")
    run("math_functions", x, y, N)
    expected = (
        np.exp(v)
        + 0.5 * np.sqrt(abs(v))
        + 1 / np.sqrt(v * v + 1)
        + np.tanh(v)
        + np.log(v * v + 2)
        + v / (3 + v * v)
        + np.exp(v)
        + v / 2.5
        + np.vectorize(math.erf)(v)
        + np.sin(v)
        + (abs(v) + 1) ** 1.7
        + 1 / (1 + np.exp(-v))
    )
    np.testing.assert_allclose(y, expected, rtol=2e-6)


def test_rounding_modes(x):
    y = np.zeros(4 * N, "f4")
    run("rounding_modes", x, y, N)
    v = x.astype("f8")
    up, down, fma, to_float = y.reshape(N, 4).T.copy()
    tiny = float(np.float32(1e-9))
    assert (up >= v + tiny).all() and (np.nextafter(up, np.float32(-2)).astype("f8") < v + tiny).all()
    assert (down <= v * v).all() and (np.nextafter(down, np.float32(2)).astype("f8") > v * v).all()
    assert (fma <= v * v + 1).all()
    integers = x.view("i4").astype("f8")
    assert (abs(to_float) <= abs(integers)).all()


def test_double_precision(rng):
    x, y = rng.uniform(-1, 1, N), np.zeros(N)
    run("double_precision", x, y, N)
    np.testing.assert_allclose(y, np.sqrt(abs(x)) * 3 + x / 7 + np.floor(x * 10) + x.astype("f4"), rtol=1e-14)


def test_module_variables(x):
    y = np.zeros_like(x)
    run("module_variables", x, y, N)
    np.testing.assert_allclose(y, x * (np.arange(N) % 8 + 1) + 0.5, rtol=1e-6)


def test_local_array(x):
    y, i = np.zeros_like(x), np.arange(N)
    run("local_array", x, y, N)
    j = (abs(x) * np.float32(15)).astype(int)
    assert np.array_equal(y, x[(i + j) % N] + x[(i + (j * 7 & 15)) % N])


def test_function_call(x):
    y = np.zeros_like(x)
    run("function_call", x, y, N)
    np.testing.assert_allclose(y, x.astype("f8") * 2 + 1, rtol=1e-6)


def test_switch(x):
    y, v, case = np.zeros_like(x), x.astype("f8"), np.arange(N) % 9
    run("switch_statement", x, y, N)
    choices = [v + 1, v * 2, np.sqrt(abs(v)), v - 3, v * v, -v, 1 / v, v * 7 + 1, v]
    np.testing.assert_allclose(y, np.choose(case, choices), rtol=1e-5, atol=1e-6)


def test_struct_argument(x, rng):
    y, scale = np.zeros_like(x), rng.uniform(-1, 1, 5).astype("f4")
    members = [x, y, struct.pack("<i", N), scale.tobytes(), struct.pack("<B7xd", 3, 0.25)]
    run("struct_argument", Struct(8, members))
    np.testing.assert_allclose(y, x.astype("f8") * scale[np.arange(N) % 5] + 3.25, rtol=1e-6)


def test_integer_operations(rng):
    x, y = rng.integers(-(2**31), 2**31, N).astype("i4"), np.zeros(N, "i4")
    x[:4] = [0, -1, 2**31 - 1, -(2**31)]
    run("integer_operations", x, y, N)
    assert y.tolist() == [integer_reference(int(v)) for v in x]


def wrapped(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def quotient(a: int, b: int) -> int:
    return abs(a) // b * (1 if a >= 0 else -1)


def integer_reference(v: int) -> int:
    u, square = v & 0xFFFFFFFF, v * v
    source = u.to_bytes(4, "little") + (u * 3 & 0xFFFFFFFF).to_bytes(4, "little")
    permuted = sum(source[0x3715 >> 4 * k & 7] << 8 * k for k in range(4))
    reversed_bits = int(f"{u:032b}"[::-1], 2)
    return wrapped(
        quotient(v, 7)
        + v
        - quotient(v, 13) * 13
        + u // 11
        + u % 17
        + (square >> 9)
        + (32 - u.bit_length())
        + reversed_bits
        + (u << 5 | u >> 27)
        + permuted
        + min(v, 5)
        + max(v, -5)
        + abs(v)
        + (v * v >> 32)
        + (u * u >> 32)
        + wrapped(v, 8)
        + wrapped(v, 16)
        + square.bit_count()
        + (v ^ 0x55)
        + (v & 0xFF0)
        + (~v | 3)
        + (v << 3)
        + (u >> 3)
        + (v >> 3)
        + square // 1000003
        + square % 1009
    )


def test_wide_integers(rng):
    x, y = rng.integers(0, 2**64, 4, dtype="u8"), np.zeros(6, "u8")
    run("wide_integers", x, y, grid=1, block=1)
    a, b = int(x[0]) << 64 | int(x[1]), int(x[2]) << 64 | int(x[3])
    results = [int(y[i]) << 64 | int(y[i + 1]) for i in (0, 2, 4)]
    assert results == [(a + b) % 2**128, (a - b) % 2**128, a * b % 2**128]


def test_half_pairs_are_bit_exact(rng):
    x, z = (rng.uniform(-1, 1, N).astype("f2") for _ in range(2))
    y = np.zeros(N, "f2")
    run("half_pairs", x, z, y, N // 2, grid=2)
    r = np.clip(x * z + (x - z), np.float16(-1), np.float16(1))
    r = (r.astype("f8") * x + abs(z)).astype("f2")
    assert np.array_equal(y, np.where(np.repeat(x[::2] > z[1::2], 2), -r, r))


def test_bfloat_pairs_are_bit_exact(rng):
    x, z = (to_bfloat(rng.uniform(-1, 1, N)) for _ in range(2))
    y, a, b = np.zeros(N, "u2"), from_bfloat(x), from_bfloat(z)
    run("bfloat_pairs", x, z, y, N // 2, grid=2)
    c = from_bfloat(to_bfloat(np.where(np.arange(N) % 2 == 0, a + b, a - b)))
    r = np.maximum(from_bfloat(to_bfloat(a * b + c)), -0.5)
    assert np.array_equal(from_bfloat(y), from_bfloat(to_bfloat(r + b)))


def test_half_comparisons(rng):
    x, z = (rng.integers(-2, 2, N).astype("f2") for _ in range(2))
    x[:2] = np.nan
    y = np.zeros(N, "f2")
    run("half_comparisons", x, z, y, N // 2, grid=2)
    assert np.array_equal(y, (x >= z).astype("f2"))


def test_printf(x):
    assert f"x[0] = {x[0]:.3f}, 128 threads, done" in run("print_first", x, grid=1)


def test_assert(x):
    with pytest.raises(KernelError, match=r"710.*device assertion failed: x.threadIdx.x. > 0.*features.cu"):
        run("assert_positive", -abs(x), grid=1)


def test_other_architectures(x):
    for arch in ("sm_75", "sm_90"):
        y = np.zeros_like(x)
        program("features.cu", arch=arch).launch("module_variables", [x, y, N], 4, 128)
        np.testing.assert_allclose(y, x * (np.arange(N) % 8 + 1) + 0.5, rtol=1e-6)
