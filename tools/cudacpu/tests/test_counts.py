"""Counts of kernels whose counts are known by hand."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from programs import KERNELS

import cudacpu
from cudacpu.counts import CLASSES, Access, Launch


@functools.cache
def _program() -> cudacpu.Program:
    return cudacpu.load(KERNELS / "counted.cu", count=True)


def counted(kernel: str, *arguments: object, grid: int = 1, block: int = 32, **options: object) -> Launch:
    _program().launch(kernel, arguments, grid, block, **options)
    launch = _program().counts
    assert launch is not None and launch.kernel == kernel
    return launch


def floats(count: int) -> np.ndarray:
    return np.arange(count, dtype="f4")


def test_a_copy_of_floats() -> None:
    launch = counted("copy_floats", floats(256), np.zeros(256, "f4"), grid=2, block=128)
    each = Access(requests=8, bytes=1024, useful_bytes=1024, sectors=32, wavefronts=0)
    assert launch.global_load == launch.global_store == each
    assert launch.unique_bytes == 2048
    assert launch.l2_load_sectors == 32
    assert (launch.grid, launch.block, launch.blocks, launch.threads) == ((2, 1, 1), (128, 1, 1), 2, 128)
    x, y = launch.buffers
    assert (x.unique_load_bytes, x.unique_store_bytes, x.load_widths, x.store_widths) == (
        1024,
        0,
        {4: 1024},
        {},
    )
    assert (y.unique_load_bytes, y.unique_store_bytes, y.load_widths, y.store_widths) == (
        0,
        1024,
        {},
        {4: 1024},
    )
    assert launch.buffer(y.address) is y
    assert launch.shared_load.requests == launch.local.requests == launch.async_copy.requests == 0


def test_a_copy_of_vectors_is_a_quarter_of_the_requests() -> None:
    launch = counted("copy_vectors", floats(256), np.zeros(256, "f4"), grid=2, block=32)
    assert launch.global_load == Access(requests=2, bytes=1024, useful_bytes=1024, sectors=32, wavefronts=0)
    assert launch.buffers[0].load_widths == {16: 1024}
    assert launch.global_load.sector_use == 1


def test_gathered_floats_use_an_eighth_of_their_sectors() -> None:
    launch = counted("gather", floats(256), np.zeros(32, "f4"))
    assert launch.global_load == Access(requests=1, bytes=128, useful_bytes=128, sectors=32, wavefronts=0)
    assert launch.global_load.sector_use == 1 / 8
    assert launch.buffers[0].unique_load_bytes == 128


def test_waves_load_what_they_share_once_each() -> None:
    """Direct launches run in one wave; test_torch.py splits one into several."""
    launch = counted("broadcast", floats(1), np.zeros(256, "f4"), grid=2, block=128)
    assert (launch.waves, launch.wave_load_sectors, launch.l2_load_sectors) == (1, 1, 2)
    assert launch.wave_store_sectors == 32


def test_a_broadcast_is_one_sector_a_warp_and_one_a_block_from_l2() -> None:
    launch = counted("broadcast", floats(1), np.zeros(256, "f4"), grid=2, block=128)
    assert launch.global_load == Access(requests=8, bytes=1024, useful_bytes=32, sectors=8, wavefronts=0)
    assert launch.l2_load_sectors == 2
    assert launch.buffers[0].unique_load_bytes == 4


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_lanes_that_leave_iterations_out_stay_in_step(seed: int) -> None:
    """Lane i reads x[i + t - 2]: requests of 30, 31, 32, 31 and 30 lanes, in whatever order lanes run."""
    x, y = floats(32), np.zeros(32, "f4")
    launch = counted("windows", x, y, 32, 5, seed=seed)
    assert launch.global_load.requests == 5
    assert launch.global_load.bytes == launch.global_load.useful_bytes == 4 * (30 + 31 + 32 + 31 + 30)
    # 128 bytes at offsets -8, -4, 0, 4, 8 from a sector's start, cut at both ends: 4 sectors each.
    assert launch.global_load.sectors == 20
    assert launch.l2_load_sectors == 4
    np.testing.assert_allclose(y, 0.5 * np.convolve(x, np.ones(5), "same"))


@pytest.mark.parametrize(("pitch", "wavefronts"), [(1, 1), (2, 2), (32, 32), (33, 1)])
def test_bank_conflicts(pitch: int, wavefronts: int) -> None:
    launch = counted("transpose", floats(32), np.zeros(32, "f4"), pitch, shared=32 * 33 * 4)
    for access in (launch.shared_load, launch.shared_store):
        assert (access.requests, access.bytes, access.wavefronts) == (1, 128, wavefronts)
    assert launch.shared_bytes == 32 * 33 * 4


def test_shared_vectors_take_a_wavefront_for_128_bytes() -> None:
    launch = counted("shared_vectors", np.zeros(32, "f4"), shared=512)
    assert (launch.shared_store.requests, launch.shared_store.bytes, launch.shared_store.wavefronts) == (
        1,
        512,
        4,
    )
    # One word of every fourth bank: 32 words of 8 banks.
    assert (launch.shared_load.requests, launch.shared_load.bytes, launch.shared_load.wavefronts) == (
        1,
        128,
        4,
    )


def test_asynchronous_copies_go_past_l1() -> None:
    x, y = floats(128), np.zeros(128, "f4")
    launch = counted("copy_async", x, y)
    assert launch.async_copy == Access(requests=1, bytes=512, useful_bytes=512, sectors=16, wavefronts=0)
    assert launch.global_load.requests == 0
    assert launch.l2_load_sectors == 16
    assert launch.async_bytes_in_flight == 512
    assert launch.shared_store.bytes == launch.shared_load.bytes == 512
    assert launch.buffers[0].load_widths == {16: 512}
    np.testing.assert_array_equal(x, y)


def test_calls_of_a_function_are_requests_of_their_own() -> None:
    launch = counted("calls", floats(64), np.zeros(32, "f4"))
    assert (launch.global_load.requests, launch.global_load.sectors) == (2, 8)


def test_instructions_by_class() -> None:
    few, many = (
        counted("arithmetic", floats(64), np.zeros(64, "f4"), n, block=64).instructions for n in (4, 10)
    )
    assert set(few) == set(CLASSES)
    assert (few["fma"], many["fma"]) == (64 * 4, 64 * 10)
    assert few["load"] == few["store"] == 64
    assert few["mma"] == few["packed"] == few["convert"] == 0
    # The loop's own: a comparison and an addition each time round, and the branch.
    assert many["integer"] - few["integer"] == 2 * 64 * 6
    assert many["control"] - few["control"] == 64 * 6


def test_a_program_that_does_not_count_has_no_counts() -> None:
    program = cudacpu.load(KERNELS / "counted.cu")
    program.launch("copy_floats", [floats(32), np.zeros(32, "f4")], 1, 32)
    assert program.counts is None


def test_counting_and_sanitizing_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="expected count or sanitize, got both: 'races'"):
        cudacpu.load(KERNELS / "counted.cu", count=True, sanitize="races")


def test_take_needs_a_counting_process() -> None:
    with pytest.raises(RuntimeError, match="not started by python -m cudacpu --count"):
        cudacpu.counts.take()
