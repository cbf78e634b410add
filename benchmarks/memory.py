"""Memory: the peak of what one call allocates, and what the process keeps of it."""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from .quiet import quiet

# Parameters of mallopt, as glibc's malloc.h has them.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Makes glibc's allocator keep what this process frees, and says whether it does: False with another C library.

    By default it gives large blocks back to the system, or not, by what was allocated and freed before. A tensor that
    is allocated again then costs a page fault every 4 KB, several times what a convolution makes of it, and which
    contender pays that is luck.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def peak_allocated(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that one call of ``run`` holds at a time through torch's allocator: its activations. Scratch
    memory that kernels keep between calls is not torch's and not counted here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with tempfile.TemporaryDirectory() as folder, quiet():
        trace = Path(folder, "trace.json")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocated = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return peak
