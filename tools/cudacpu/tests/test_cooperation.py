"""Shared memory, barriers, warp collectives, atomics and tensor cores."""

import numpy as np
import pytest
from numbers16 import from_bfloat, to_bfloat
from programs import program

SEEDS = (0, 1, 2)


def run(kernel, *arguments, grid=1, block=32, **options):
    return program("cooperation.cu").launch(kernel, arguments, grid, block, **options)


@pytest.mark.parametrize("seed", SEEDS)
def test_histogram_with_atomics(rng, seed):
    x, y = rng.uniform(-1, 1, 512).astype("f4"), np.zeros(32, "i4")
    run("histogram", x, y, grid=4, block=128, seed=seed)
    bins = ((x + np.float32(1)) * np.float32(7.99)).astype(int)
    assert np.array_equal(y[:16], np.bincount(bins, minlength=16))
    assert (y[20], y[21], y.view("f4")[22]) == (384 + 7, 5, 3)


def test_dynamic_shared_memory(rng):
    x, y = rng.uniform(-1, 1, 512).astype("f4"), np.zeros(128, "f4")
    run("reverse_through_dynamic_shared", x, y, 512, 15000, block=128, shared=60000)
    assert np.array_equal(y, x[(14999 - np.arange(128)) % 512])


def test_shuffles():
    x, y, lane = np.arange(100, dtype="f4"), np.zeros(32, "f4"), np.arange(32)
    run("sum_by_shuffles", x, y, 100)
    shifted, up = np.where(lane < 29, lane + 3, lane), np.maximum(lane - 1, 0)
    assert np.array_equal(y, np.float32(4950 + shifted * 1000 + (lane // 8 * 8 + 5) * 100000 + up * 1e7))


def test_votes_and_match(rng):
    x, y = rng.uniform(-1, 1, 32).astype("f4"), np.zeros(128, "i4")
    run("votes", x, y)
    ballot, any_high, all_low, match = y.reshape(32, 4).view("u4").T
    assert (ballot == sum(1 << i for i in range(32) if x[i] > 0)).all()
    assert (any_high == int((x > 0.9).any())).all() and (all_low == 1).all()
    assert match.tolist() == [sum(1 << j for j in range(32) if j % 3 == i % 3) for i in range(32)]


def test_warp_reductions(rng):
    x, y = rng.integers(-(2**31), 2**31, 32).astype("i4"), np.zeros(128, "i4")
    run("warp_reductions", x, y)
    expected = [np.int32(x.sum(dtype="i4")), x.min(), x.view("u4").max().view("i4"), np.bitwise_xor.reduce(x)]
    assert (y.reshape(32, 4) == np.array(expected)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_block_votes(rng, seed):
    x, y = rng.uniform(-1, 1, 128).astype("f4"), np.zeros(128, "i4")
    run("block_votes", x, y, block=128, seed=seed)
    assert (y == (x > 0).sum() * 4 + 2).all()


@pytest.mark.parametrize("sanitize", [None, "thread", "races"])
def test_named_barriers(rng, sanitize):
    x, y = rng.uniform(-1, 1, 320).astype("f4"), np.zeros(320, "f4")
    program("cooperation.cu", sanitize=sanitize).launch("named_barriers", [x, y, 10], 1, 64)
    assert np.array_equal(y, x.reshape(10, 32)[:, ::-1].ravel())


@pytest.mark.parametrize("seed", SEEDS)
def test_sum_by_last_block(seed):
    x, y = np.arange(64 * 40, dtype="f4"), np.zeros(1, "f4")
    run("sum_by_last_block", x, np.zeros(40, "f4"), np.zeros(1, "u4"), y, grid=40, seed=seed)
    assert y[0] == x.sum(dtype="f8")


def test_spinning_threads_let_others_run():
    y = np.zeros(1, "f4")
    run("spin_on_flag", y, block=64)
    assert y[0] == 7


def test_lock(rng):
    y = np.zeros(1, "f4")
    run("lock_with_compare_and_swap", np.zeros(1, "i4"), y, grid=16, block=128)
    assert y[0] == 64


def encode(values, kind):
    values = np.asarray(values, "f4")
    return {"f16": values.astype("f2"), "bf16": to_bfloat(values), "tf32": values}[kind]


def decode(array, kind):
    if kind == "bf16":
        return from_bfloat(array)
    if kind == "tf32":
        return ((array.view("u4") + 0x1000) & 0xFFFFE000).view("f4").astype("f8")
    return array.astype("f8")


@pytest.mark.parametrize(
    "kind, k, arch",
    [
        ("f16", 16, "sm_80"),
        ("bf16", 16, "sm_80"),
        ("f16", 8, "sm_75"),
        ("bf16", 8, "sm_80"),
        ("tf32", 8, "sm_80"),
    ],
)
def test_mma(rng, kind, k, arch):
    a, b = (encode(rng.uniform(-1, 1, (rows, k)), kind) for rows in (16, 8))
    c, d = rng.uniform(-1, 1, (16, 8)).astype("f4"), np.zeros((16, 8), "f4")
    program("tensor_cores.cu", arch=arch).launch(f"mma_{kind}_k{k}", [a, b, c, d], 1, 32)
    np.testing.assert_allclose(d, decode(a, kind) @ decode(b, kind).T + c, rtol=1e-6, atol=1e-6)


def test_mma_with_half_accumulators_ldmatrix_and_async_copies(rng):
    a, b = (rng.uniform(-1, 1, shape).astype("f2") for shape in ((16, 16), (16, 8)))
    d = np.zeros((16, 8), "f2")
    program("tensor_cores.cu").launch("mma_f16_accumulate", [a, b, d], 1, 32)
    assert np.array_equal(d, (a.astype("f8") @ b.astype("f8")).astype("f2"))


def test_every_form_of_ldmatrix():
    x, y = np.arange(256, dtype="u2").reshape(4, 8, 8), np.zeros((32, 14), "u4")
    program("tensor_cores.cu").launch("load_matrices", [x, y], 1, 32)
    plain = x.reshape(4, 32, 2)  # a lane's register holds two neighbours of a row
    transposed = np.ascontiguousarray(x.transpose(0, 2, 1)).reshape(4, 32, 2)
    expected = [m.astype("u4") for count in (1, 2, 4) for v in (plain, transposed) for m in v[:count]]
    assert np.array_equal(y.T, [m[:, 0] | m[:, 1] << 16 for m in expected])


@pytest.mark.parametrize("sanitize", [None, "races"])
@pytest.mark.parametrize("pad", [0, 4, 9])
def test_staged_async_copies(rng, sanitize, pad):
    x, y = rng.uniform(-1, 1, (7, 32, 4)).astype("f4"), np.zeros((7, 32, 4), "f4")
    program("tensor_cores.cu", sanitize=sanitize).launch("staged_copies", [x, y, 7, pad], 1, 32)
    x.reshape(7, 128)[:, 128 - pad :] = 0
    assert np.array_equal(y, x[:, ::-1])


def test_race_check_accepts_correct_kernels(rng):
    checked = program("cooperation.cu", sanitize="races")
    x = rng.uniform(-1, 1, 512).astype("f4")
    checked.launch("histogram", [x, np.zeros(32, "i4")], 4, 128)
    checked.launch(
        "reverse_through_dynamic_shared", [x, np.zeros(128, "f4"), 512, 4000], 1, 128, shared=16000
    )
    checked.launch("block_votes", [x, np.zeros(128, "i4")], 1, 128)
    checked.launch("spin_on_flag", [np.zeros(1, "f4")], 1, 64)
    a, b = (rng.uniform(-1, 1, shape).astype("f2") for shape in ((16, 16), (16, 8)))
    program("tensor_cores.cu", sanitize="races").launch(
        "mma_f16_accumulate", [a, b, np.zeros((16, 8), "f2")], 1, 32
    )
