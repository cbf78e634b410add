"""Runs layers where tools/cudacpu counts what the kernels do, and asks the cost model about them.

A process of its own on the emulated device: ``count`` starts it, ``python -m benchmarks.kernel_report.counting`` is
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..environment import ROOT
from .layers import Layer


def count(jobs: Sequence[dict[str, Any]], arch: str = "sm_80") -> list[dict[str, Any]]:
    """The result of :func:`_row` for each job. RuntimeError with its output where the process fails."""
    with tempfile.TemporaryDirectory() as folder:
        todo, done = Path(folder) / "jobs.json", Path(folder) / "rows.json"
        todo.write_text(json.dumps(jobs))
        sources = sorted(map(str, (ROOT / "csrc/cuda").glob("*.cu")))
        command = [sys.executable, "-m", "cudacpu", "--count", "--arch", arch, "--sources", *sources]
        command += ["--nvcc-flags=-std=c++20", "--", sys.executable, "-m", __name__, str(todo), str(done)]
        paths = [str(ROOT / "tools/cudacpu"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), CUDACPU_SEED="0")
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"counting failed:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}")
        rows: list[dict[str, Any]] = json.loads(done.read_text())
        return rows


def job(
    layer: Layer, dtype: str, layout: str, batch: int = 1, count: bool = True, fused_only: bool = False
) -> dict[str, Any]:
    """What to find out about a layer: its candidates, and, with ``count``, what the chosen one does when it runs.
    ``fused_only`` takes the best of the kernels that are one launch, made for 3x3 windows."""
    return {
        "layer": asdict(layer),
        "dtype": dtype,
        "layout": layout,
        "batch": batch,
        "count": count,
        "fused_only": fused_only,
    }


def _row(job: dict[str, Any]) -> dict[str, Any]:
    """The job with ``candidates`` per device (as of ``<op>_candidates``), ``kernel``, and its ``launches``."""
    from cudacpu import counts

    layer = Layer(**job["layer"])
    arguments = layer.call(job["batch"], job["dtype"], job["layout"])
    ask = getattr(torch.ops.mbv1, f"{layer.op}_candidates")
    devices = ["", *(d["name"] for d in json.loads(torch.ops.mbv1.cuda_devices()))]
    candidates = {device: json.loads(ask(*arguments, device=device)) for device in devices}
    row = {**job, "candidates": candidates, "launches": []}
    here = candidates[""]
    if job["fused_only"]:
        here = [c for c in here if len(c["works"]) == 1 and "_k3_" in c["kernel"]]
        chosen = min(here, key=lambda c: c["prediction"]["us"])
    else:
        chosen = next(c for c in here if c["chosen"])
    row["kernel"] = chosen["kernel"]
    if not job["count"]:
        return row
    prediction = chosen["prediction"]
    sms = 108  # of the emulated sm_80
    counts.set_wave(sms * prediction["resident_blocks"])
    counts.take()
    y = getattr(torch.ops.mbv1, f"{layer.op}_with")(*arguments, kernel=chosen["kernel"])
    for launch, work in zip(counts.take(), chosen["works"], strict=True):
        row["launches"].append({**asdict(launch), "work": work})
    row["x"], row["y"] = arguments[0].data_ptr(), y.data_ptr()
    return row


def main() -> None:
    torch.set_num_threads(1)
    import mbv1_kernels  # noqa: F401  (registers the ops)

    jobs = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([_row(j) for j in jobs]))


if __name__ == "__main__":
    main()
