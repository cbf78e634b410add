"""Result files whose figures are known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.result_files import SCHEMA

COMMITS = ("1" * 40, "2" * 40)
TIMES = ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00")


def row(case: str, batch: int, contender: str, median: float, **more: Any) -> dict[str, Any]:
    """A timed row: p20 and p80 are 10% around the median (in µs), 1 kFLOP takes 100 bytes and 1 ns at the peak."""
    flops = 1000 * batch
    return {
        "case": case,
        "batch": batch,
        "dtype": "fp32",
        "layout": "nhwc",
        "threads": 1,
        "contender": contender,
        "ours": contender.startswith("mbv1"),
        "status": "ok",
        "reason": None,
        "median_us": median,
        "p20_us": 0.9 * median,
        "p80_us": 1.1 * median,
        "noisy": False,
        "bytes": 100 * batch,
        "flops": flops,
        "gflop_per_s": flops / median / 1e3,
        "gb_per_s": batch / median / 10,
        "images_per_s": batch / median * 1e6,
        "roofline_percent": 50.0,
        "peak_percent": 40.0,
        "of_the_future": {"ignored": True},
        **more,
    }


def failed(case: str, batch: int, contender: str, status: str, reason: str) -> dict[str, Any]:
    fields = row(case, batch, contender, 1.0)
    timed = ("median_us", "p20_us", "p80_us", "gflop_per_s", "gb_per_s", "images_per_s", "roofline_percent")
    return {**{k: v for k, v in fields.items() if k not in timed}, "status": status, "reason": reason}


def result(rows: list[dict[str, Any]], newer: int = 0, benchmark: str = "mobilenet", **device: Any) -> dict[str, Any]:
    """A result file of the first commit or, with ``newer`` 1, of the second."""
    return {
        "schema": SCHEMA,
        "benchmark": benchmark,
        "environment": {
            "time": TIMES[newer],
            "commit": COMMITS[newer],
            "device": "A CPU",
            "device_type": "cpu",
            "cpu_capability": "AVX2",
            "cores": 2,
            "torch": "2.14.1",
            "load_average": 0.5,
            **device,
        },
        "rooflines": {
            "1": {"bandwidth_gb_per_s": 10.0, "fma_gflop_per_s": 50.0, "gemm_gflop_per_s": {"float16": 200.0}}
        },
        "method": {"clock": "a clock"},
        "left_out": {"graph": "needs a CUDA device", "notes": ["a note"]},
        "rows": rows,
        "complete": True,
        "skipped": ["late N1 fp32 nhwc T1", "later N1 fp32 nhwc T1"],
    }


#: mbv1 is half as fast as the best peer in one case and four times as fast in the other.
ROWS = [
    row("first", 1, "mbv1", 200.0),
    row("first", 1, "mbv1 triton", 300.0),
    row("first", 1, "quick", 100.0),
    row("first", 1, "slow", 800.0, noisy=True),
    row("first", 8, "mbv1", 1000.0),
    failed("first", 8, "quick", "failed", "out of <memory> & luck"),
    row("first", 8, "slow", 4000.0),
]


def write(path: Path, content: Any) -> Path:
    """Writes ``content`` as JSON; ``path``."""
    path.write_text(json.dumps(content))
    return path


def write_results(folder: Path) -> list[Path]:
    """Two runs of one benchmark, the older of which was half as fast and had a case that is gone, and another."""
    older = [{**r, **{k: 2 * r[k] for k in ("median_us", "p20_us", "p80_us") if k in r}} for r in ROWS]
    layers = [row("dw", 1, "mbv1", 3.0), row("dw", 1, "slow", 6.0)]
    return [
        write(folder / "newer.json", result(ROWS, newer=1)),
        write(folder / "older.json", result([*older, row("gone <b>", 1, "mbv1", 5.0)])),
        write(folder / "layers.json", result(layers, benchmark="dwconv")),
    ]


def write_predictions(folder: Path) -> Path:
    """A kernel report of one layer on one device."""
    ours = {"kernel": "dwconv2d_nhwc_k3_f16", "us": 2.0, "limiter": "DRAM"}
    today = {"eager": {"us": 6.0}, "torch.compile": {"us": 4.0}}
    layer = {"layer": "block 1", "batch": 1, "dtype": "f16", "layout": "nhwc"}
    found = [{**layer, "predicted": {"H100": {**ours, "today": today}}}]
    return write(folder / "kernels.json", {"note": "Nothing is measured.", "environment": {}, "predictions": found})
