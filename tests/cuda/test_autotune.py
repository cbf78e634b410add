"""MBV1_AUTOTUNE=1: kernels are measured once, and the choices are shared through files. Each run is a process of its
own, with a cache folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_CODE = """
import contextlib, os, torch, mbv1_kernels
from tests.cases import CASES, build, check
mode = contextlib.nullcontext()
if "CUDACPU_KERNELS" in os.environ:
    from cudacpu.fallback import CpuFallbackMode
    mode = CpuFallbackMode()
with mode:
    for op in ("dwconv2d", "pwconv2d", "separable_conv2d"):
        call = build(next(c for c in CASES if c.op == op), torch.float16, "nhwc", "cuda")
        check(call, call(backend="cuda"))
        print(mbv1_kernels.explain(op, *call.args, **call.kwargs).kernel)
"""


def _start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MBV1_AUTOTUNE": "1", "MBV1_AUTOTUNE_CACHE": str(folder), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", _CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def _finish(process: subprocess.Popen[str]) -> list[str]:
    """The kernels that ran."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.split()


def _cache(folder: Path) -> Path:
    (file,) = folder.glob("autotune-*.txt")
    return file


def _lines(folder: Path) -> list[list[str]]:
    return [line.split() for line in _cache(folder).read_text().splitlines()]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder that a first process filled, and the kernels that it chose."""
    folder = tmp_path_factory.mktemp("autotune") / "made" / "on demand"
    return folder, _finish(_start(folder))


@pytest.fixture
def filled(measured: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(measured[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_choices_are_measured_and_kept(measured: tuple[Path, list[str]]) -> None:
    folder, kernels = measured
    lines = _lines(folder)
    assert sorted(line[0] for line in lines) == ["dwconv2d", "pwconv2d", "separable_conv2d"]
    for op, dtype, digest, kernel, us in lines:
        assert dtype == "f16" and len(digest) == 32 and float(us) > 0
        assert f"{kernel}_f16" in kernels and kernel.startswith(op)


def test_kept_choices_are_taken_without_measuring(filled: Path) -> None:
    slow = {"dwconv2d": "dwconv2d_any", "pwconv2d": "pwconv2d_any", "separable_conv2d": "separable_conv2d_any"}
    text = "".join(f"{op} {dtype} {digest} {slow[op]} 1.0\n" for op, dtype, digest, *_ in _lines(filled))
    _cache(filled).write_text(text)
    assert _finish(_start(filled)) == [f"{kernel}_f16" for kernel in slow.values()]
    assert _cache(filled).read_text() == text


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    processes = [_start(tmp_path) for _ in range(2)]
    for process in processes:
        _finish(process)
    assert sorted(line[0] for line in _lines(tmp_path)) == ["dwconv2d", "pwconv2d", "separable_conv2d"]
    assert {p.suffix for p in tmp_path.iterdir()} == {".txt", ".lock"}


@pytest.mark.parametrize("damage", ["garbage", "an unknown kernel, and a line cut off"])
def test_a_damaged_cache_is_measured_again(filled: Path, damage: str) -> None:
    file = _cache(filled)
    if damage == "garbage":
        file.write_bytes(bytes(range(256)) * 8)
    else:
        first, second, _ = _lines(filled)
        file.write_text(f"{' '.join(first[:3])} no_such_kernel 1.0\n{' '.join(second)[:30]}")
    kernels = _finish(_start(filled))
    lines = [line for line in _lines(filled) if len(line) == 5]
    assert sorted(f"{line[3]}_f16" for line in lines) == sorted(kernels)


def test_without_a_place_for_files_choices_last_as_long_as_the_process(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert len(_finish(_start(file / "cache"))) == 3
    assert file.is_file()


def test_off_by_default(tmp_path: Path) -> None:
    _finish(_start(tmp_path, MBV1_AUTOTUNE="0"))
    assert not list(tmp_path.iterdir())
