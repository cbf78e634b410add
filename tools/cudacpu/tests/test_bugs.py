"""Each planted mistake is caught, and the corrected kernel runs clean."""

import numpy as np
import pytest
from programs import KERNELS, program

from cudacpu import KernelError

ROUNDS = 8


def arguments(kernel, rng):
    x, y = rng.uniform(-1, 1, 128 * ROUNDS).astype("f4"), np.zeros(128, "f4")
    extra = {"missing_second_barrier": [ROUNDS], "store_past_the_end": [127], "null_pointer": [np.uint64(0)]}
    if kernel == "store_past_the_end":
        y = np.zeros(127, "f4")
    return [x, y, *extra.get(kernel, [])]


def run(kernel, rng, fixed, sanitize=None, seed=1, grid=1):
    args = arguments(kernel, rng)
    flags = ["-DFIXED"] if fixed else []
    program("bugs.cu", *flags, sanitize=sanitize).launch(kernel, args, grid, 128, seed=seed)
    return args[1]


REPORTED = {  # without a sanitizer
    "divergent_barrier": "719.*__syncthreads after some threads of the block exited",
    "shuffle_after_exit": r"719.*shfl.down.*exited or absent lane.*bugs.cu:\d+",
    "misaligned_vector": r"716.*misaligned global load of 16 bytes.*bugs.cu:\d+",
    "store_past_the_end": r"700.*invalid global store of 4 bytes.*0 bytes past the end of the 508-byte"
    r".*thread \(127,0,0\).*bugs.cu:\d+",
    "load_before_the_start": r"700.*invalid global load of 4 bytes.*4 bytes before the start of the 4096-byte"
    r".*thread \(0,0,0\).*bugs.cu:\d+",
    "shared_overrun": r"700.*invalid shared store of 4 bytes.*bugs.cu:\d+",
    "null_pointer": "700.*null pointer",
    "deadlock": r"719.*deadlock.*waits at barrier [01].*bugs.cu:\d+",
    "endless_spin": r"702.*spins on memory.*bugs.cu:\d+",
    "wrong_shuffle_mask": r"719.*(disagree|exited or absent lane).*bugs.cu:\d+",
}


@pytest.mark.parametrize("kernel", REPORTED)
def test_reported_with_place(kernel, rng):
    run(kernel, rng, fixed=True)
    with pytest.raises(KernelError, match=rf"(?s){REPORTED[kernel]}"):
        run(kernel, rng, fixed=False)


@pytest.mark.parametrize(
    "kernel, statement, sanitize",
    [
        ("store_past_the_end", "y[n - 127 + threadIdx.x] =", None),
        ("misaligned_vector", "const float4 v =", None),
        ("shared_overrun", "tile[i] =", None),
        ("shuffle_after_exit", "if (!fixed) v += __shfl_down_sync", None),
        ("missing_warp_barrier", "y[threadIdx.x] = tile[threadIdx.x ^ 1]", "races"),
    ],
)
def test_line_numbers_are_exact(kernel, statement, sanitize, rng):
    source = (KERNELS / "bugs.cu").read_text().splitlines()
    line = next(i for i, text in enumerate(source, 1) if statement in text)
    with pytest.raises(KernelError, match=rf"(bugs.cu:|in line ){line}\b"):
        run(kernel, rng, fixed=False, sanitize=sanitize, seed=0)


@pytest.mark.parametrize("kernel", ["uninitialised_shared", "async_copy_without_wait"])
def test_poison_shows_in_the_result(kernel, rng):
    assert not np.isnan(run(kernel, rng, fixed=True)).any()
    assert np.isnan(run(kernel, rng, fixed=False)).any()


@pytest.mark.parametrize("kernel", ["missing_second_barrier", "missing_warp_barrier"])
def test_races_change_the_result(kernel, rng):
    state = rng.bit_generator.state

    def different_results(fixed):
        results = set()
        for seed in (0, 1, 2):
            rng.bit_generator.state = state
            results.add(run(kernel, rng, fixed, seed=seed).tobytes())
        return len(results)

    assert different_results(fixed=True) == 1 and different_results(fixed=False) > 1


@pytest.mark.parametrize("kernel", ["missing_second_barrier", "missing_warp_barrier"])
@pytest.mark.parametrize("seed", [0, 1])
def test_race_check_finds_races_in_any_order(kernel, rng, seed):
    run(kernel, rng, fixed=True, sanitize="races", seed=seed)
    with pytest.raises(
        KernelError, match=r"race in shared memory: \w+ of 4 bytes conflicts.*in line \d+.*bugs.cu:\d+"
    ):
        run(kernel, rng, fixed=False, sanitize="races", seed=seed)


@pytest.mark.parametrize(
    "kernel", ["missing_second_barrier", "missing_warp_barrier", "blocks_without_atomics"]
)
def test_thread_sanitizer_finds_races(kernel, rng):
    grid = 4 if kernel == "blocks_without_atomics" else 1
    run(kernel, rng, fixed=True, sanitize="thread", grid=grid)
    with pytest.raises(KernelError, match=r"(?s)data race.*bugs.cu"):
        run(kernel, rng, fixed=False, sanitize="thread", grid=grid)


@pytest.mark.parametrize(
    "kernel", ["store_past_the_end", "load_before_the_start", "shared_overrun", "local_overrun"]
)
def test_address_sanitizer_finds_overruns(kernel, rng):
    run(kernel, rng, fixed=True, sanitize="address")
    with pytest.raises(KernelError, match=r"(?s)AddressSanitizer.*bugs.cu"):
        run(kernel, rng, fixed=False, sanitize="address")


@pytest.mark.parametrize(
    "grid, block, shared, message",
    [
        (1, 1025, 0, "9: block.*1024 threads"),
        ((1, 65536, 1), 32, 0, "9: grid"),
        (0, 32, 0, "9: grid"),
        (1, 128, 0, "1: 128 threads exceed __launch_bounds__.64."),
    ],
)
def test_launch_limits(grid, block, shared, message):
    with pytest.raises(KernelError, match=message):
        program("bugs.cu").launch("bounded", [np.zeros(64, "f4")], grid, block, shared)


def test_shared_memory_limits():
    y = np.zeros(32, "f4")
    for arch, limit in (("sm_80", 163 << 10), ("sm_90", 227 << 10)):
        built = program("bugs.cu", arch=arch)
        built.launch("big_static_shared", [y], 1, 32, limit - 40000)
        with pytest.raises(KernelError, match=r"shared memory exceed the device"):
            built.launch("big_static_shared", [y], 1, 32, limit - 40000 + 16)
