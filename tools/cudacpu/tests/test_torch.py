"""The whole path: a compiled PyTorch extension in a process started by `python -m cudacpu`."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

torch = pytest.importorskip("torch")
if torch.version.cuda is None:
    pytest.skip("needs a CUDA build of PyTorch", allow_module_level=True)


def run_emulated(*options: str, command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "cudacpu",
            "--sources",
            str(TESTS / "extension" / "ops.cu"),
            str(TESTS / "extension" / "plain.cu"),
            "--nvcc-flags=-DTORCH_TARGET_VERSION=0x020a000000000000",
            *options,
            "--",
            *command,
        ],
        check=False,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pytest_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", str(TESTS / "emulated"), *arguments]


def test_emulated_suite():
    result = run_emulated(command=pytest_command())
    assert result.returncode == 0, result.stdout


def test_address_sanitizer_in_the_whole_process():
    result = run_emulated(
        "--sanitize", "address", command=pytest_command("-k", "constant_memory or forward_backward")
    )
    assert result.returncode == 0, result.stdout
    result = run_emulated(
        "--sanitize", "address", command=pytest_command("-k", "out_of_bounds and 1000", "-s")
    )
    assert "AddressSanitizer" in result.stdout and "shift_kernel" in result.stdout


def test_thread_sanitizer_in_the_whole_process():
    result = run_emulated(
        "--sanitize", "thread", command=pytest_command("-k", "constant_memory or race", "-s")
    )
    reports = result.stdout.count("WARNING: ThreadSanitizer: data race")
    assert reports and "racy_reverse_kernel" in result.stdout and "scale_kernel" not in result.stdout, (
        result.stdout
    )


def test_race_check_in_the_whole_process():
    result = run_emulated(
        "--sanitize", "races", command=pytest_command("-k", "constant_memory or race or large_dynamic", "-s")
    )
    assert "2 passed" in result.stdout and "race in shared memory" in result.stdout, result.stdout


def test_counts_of_the_whole_process():
    code = (
        "import torch; from cudacpu import counts; from extension_build import extension_library\n"
        "torch.ops.load_library(extension_library())\n"
        "x = torch.ones(1024).cuda(); scale = torch.ops.cudacpu_test.scale\n"
        "counts.take(); scale(x, 2.0, 0.0); counts.set_wave(1); y = scale(x, 2.0, 0.0)\n"
        "whole, split = counts.take()\n"
        "assert whole.waves == 1 and split.waves == split.blocks > 1, (whole, split)\n"
        "assert whole.buffer(x.data_ptr()).unique_load_bytes == 4096\n"
        "assert split.buffer(y.data_ptr()).unique_store_bytes == 4096\n"
        "assert counts.take() == []\n"
    )
    environment = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    result = run_emulated("--count", command=[sys.executable, "-c", environment + code])
    assert result.returncode == 0, result.stdout


def test_print_env():
    result = run_emulated("--print-env", command=["true"])
    assert "export LD_PRELOAD=" in result.stdout and "export CUDACPU_KERNELS=" in result.stdout
