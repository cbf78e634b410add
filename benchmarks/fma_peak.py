"""The multiply-add rate of this processor's vector units, by ``fma_peak.cpp``."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")


def fma_peak(dtype: torch.dtype, threads: int, seconds: float) -> float | None:
    """FLOP/s of ``threads`` threads, sums in float32; None without a compiler, or without instructions for
    ``dtype``."""
    library = _library()
    names = {torch.float32: "fma_float32", torch.bfloat16: "fma_bfloat16"}
    if library is None or dtype not in names:
        return None
    measure = getattr(library, names[dtype])
    measure.restype, measure.argtypes = ctypes.c_double, (ctypes.c_int, ctypes.c_double)
    return measure(threads, seconds) or None


@cache
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "fma_peak.so")
        command = [*compiler.split(), *_FLAGS, str(_SOURCE), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            return ctypes.CDLL(str(library))
        except (OSError, subprocess.SubprocessError):
            return None
