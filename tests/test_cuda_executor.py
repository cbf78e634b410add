"""Runs tests/cuda on machines without a GPU: the real extension, its kernels executed by tools/cudacpu."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from mbv1_kernels import _extension

ROOT = Path(__file__).parent.parent


def _missing() -> str | None:
    if shutil.which("nvcc") is None:
        return "nvcc is not installed, so the CUDA kernels are neither compiled nor executed"
    if torch.version.cuda is None:
        return "this torch is built without CUDA, so the CUDA kernels cannot be executed"
    if _extension.cuda_missing is not None:
        return f"the CUDA kernels are not there: {_extension.cuda_missing}"
    return None


#: What to select, the order in which threads run (0: by index), the check for races in shared memory.
RUNS = {
    "all": ("", "0", []),
    "another_schedule": ("test_cuda or test_fused_net", "7", []),
    "races": ("test_cuda or test_tf32 or test_fused_net", "3", ["--sanitize", "races"]),
}


@pytest.mark.skipif(_missing() is not None, reason=str(_missing()))
@pytest.mark.parametrize("run", RUNS)
def test_cuda_kernels_on_the_emulated_device(run: str, tmp_path: Path) -> None:
    selection, seed, options = RUNS[run]
    results = tmp_path / "results.xml"
    sources = sorted(map(str, (ROOT / "csrc/cuda").glob("*.cu")))
    command = [
        sys.executable,
        "-m",
        "cudacpu",
        "--sources",
        *sources,
        "--nvcc-flags=-std=c++20",
        *options,
        "--",
    ]
    command += [sys.executable, "-m", "pytest", "tests/cuda", "-q", "-k", selection, f"--junitxml={results}"]
    path = os.pathsep.join([str(ROOT / "tools/cudacpu"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = dict(os.environ, PYTHONPATH=path, CUDACPU_SEED=seed)
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(process.stdout[-8000:], process.stderr[-2000:])
    assert process.returncode == 0
    suite = ElementTree.parse(results).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    assert counts["tests"] > 100 and counts["failures"] == counts["errors"] == counts["skipped"] == 0, counts
