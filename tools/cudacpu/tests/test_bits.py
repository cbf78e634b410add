"""Integer and bit instructions against their definitions in the PTX ISA."""

import numpy as np
import pytest
from programs import program


@pytest.fixture
def words(rng):
    return [rng.integers(0, 2**32, 32, dtype="u4") for _ in range(2)]


def run(kernel, words, results):
    y = np.zeros((32, results), "u4")
    program("bits.cu", arch="sm_90").launch(kernel, [*words, y], 1, 32)
    return y.tolist()


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def test_byte_orders(words):
    def expected(a, b, i):
        source, n = (b << 32 | a).to_bytes(8, "little"), i & 3
        picks = [a >> 7 >> 4 * k & 15 for k in range(4)]
        selected = [(255 * (source[p & 7] >> 7)) if p & 8 else source[p & 7] for p in picks]
        orders = [
            [n + k for k in range(4)],
            [(n - k) % 8 for k in range(4)],
            [n] * 4,
            [max(k, n) for k in range(4)],
            [min(k, n) for k in range(4)],
            [n % 2 * 2 + k % 2 for k in range(4)],
        ]
        rows = [selected, *([source[k] for k in order] for order in orders)]
        return [int.from_bytes(bytes(row), "little") for row in rows]

    assert run("byte_orders", words, 7) == [
        expected(int(a), int(b), i) for i, (a, b) in enumerate(zip(*words, strict=True))
    ]


def test_bit_fields(words):
    def expected(a, b, i):
        length = min(9, 32 - i)
        field = signed(a) >> i
        mask = (63 << i) & 0xFFFFFFFF
        values = [
            (a >> i) & 511,
            signed(field, 9) if length == 9 else field,
            (b & ~mask) | (a << i & mask),
            (a & b) | (~a & i),
            127 << i,
            signed(a, i) if i else 0,
        ]
        return [v & 0xFFFFFFFF for v in values]

    assert run("bit_fields", words, 6) == [
        expected(int(a), int(b), i) for i, (a, b) in enumerate(zip(*words, strict=True))
    ]


def test_products(words):
    def halves(a):
        return [a & 0xFFFF, a >> 16]

    def octets(a):
        return list(a.to_bytes(4, "little"))

    def expected(a, b, i):
        a24, b24 = a & 0xFFFFFF, b & 0xFFFFFF
        low = sum(signed(p, 16) * signed(q, 8) for p, q in zip(halves(a), octets(b)[:2], strict=True))
        high = sum(p * q for p, q in zip(halves(a), octets(b)[2:], strict=True))
        values = [
            a24 * b24,
            signed(a24, 24) * signed(b24, 24),
            (a24 * b24 >> 16) + a,
            low + i,
            high + i,
            (a * b >> 32) + ((a << 20 | b) * (b << 31) >> 64),
        ]
        return [v & 0xFFFFFFFF for v in values]

    assert run("products", words, 6) == [
        expected(int(a), int(b), i) for i, (a, b) in enumerate(zip(*words, strict=True))
    ]


def test_packed_integers(words):
    def saturated(value, low, high):
        return min(max(value, low), high)

    def expected(a, b):
        bytes_ = [saturated(signed(v) >> 22, 0, 255) for v in (b, a)]
        shorts = [saturated(signed(v) >> 12, -(2**15), 2**15 - 1) & 0xFFFF for v in (b, a)]
        halves = list(zip(*[(v & 0xFFFF, v >> 16) for v in (a, b)], strict=True))
        results = [
            [(p + q) & 0xFFFF for p, q in halves],
            [max(p, q, key=lambda v: signed(v, 16)) for p, q in halves],
            [min(p, q) for p, q in halves],
        ]
        rest = (signed(a) >> 22) << 16 & 0xFFFFFFFF
        return [
            rest | bytes_[1] << 8 | bytes_[0],
            shorts[1] << 16 | shorts[0],
            *(h << 16 | low for low, h in results),
        ]

    assert run("packed_integers", words, 5) == [expected(int(a), int(b)) for a, b in zip(*words, strict=True)]


def test_shared_sizes():
    y = np.zeros(2, "u4")
    program("bits.cu", arch="sm_90").launch("shared_sizes", [y], 1, 1, shared=48)
    assert y.tolist() == [148, 48]


def test_cache_hints(rng):
    x, y = rng.uniform(-1, 1, 128).astype("f4"), np.zeros(128, "f4")
    program("bits.cu", arch="sm_90").launch("cache_hints", [x, y], 1, 32)
    assert np.array_equal(x, y)
