"""Runs ``interpreted_ops.py`` in a process of its own, where triton interprets its kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

_FILE = Path(__file__).with_name("interpreted_ops.py")
_ROOT = _FILE.parents[2]


def test_kernels_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(_FILE), "-q", "-p", "no:cacheprovider"],
        cwd=_ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, f"{run.stdout[-20000:]}\n{run.stderr[-5000:]}"
    assert " passed" in run.stdout and " skipped" not in run.stdout, run.stdout[-2000:]
