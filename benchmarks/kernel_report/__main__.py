"""``python -m benchmarks.kernel_report``: what can be told about the CUDA kernels without a GPU.

Prints tables, and with --json writes all of it. Times are lower bounds that the library's cost model predicts:
nothing here is measured on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import mbv1_kernels  # noqa: F401  (registers the cost model's ops)
from mbv1_kernels import _extension

from ..environment import environment
from . import counting, limits, tables, today
from .binaries import Binary, ToolError, read
from .layers import DTYPES, Layer, settings

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
ON_REQUEST = ("sm_75", "sm_86", "sm_89", "sm_120")
BATCHES = (1, 32, 128)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if _extension.cuda_missing is not None:
        print(f"kernel_report: {_extension.cuda_missing}", file=sys.stderr)
        return 2
    try:
        if options.check:
            return _check()
        report = make(options.arch, options.batch, options.channels)
    except (ToolError, RuntimeError) as error:
        print(f"kernel_report: {error}", file=sys.stderr)
        return 1
    print(tables.render(report))
    if options.json:
        options.json.write_text(tables.as_json(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_report", description=__doc__)
    add = parser.add_argument
    known = (*ARCHITECTURES, *ON_REQUEST)
    add("--arch", nargs="+", choices=known, default=list(ARCHITECTURES), help="default: %(default)s")
    add("--batch", type=int, nargs="+", default=list(BATCHES), help="of the predictions; default: %(default)s")
    add("--channels", type=int, default=1024, help="count at most so many channels of a layer (fewer: faster)")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--check", action="store_true", help="only the limits that every kernel keeps; status 1 if one is broken")
    return parser


def _check() -> int:
    findings = limits.check(read(_built_arch()), counting.count(limits.jobs()))
    broken = [f for f in findings if not f.kept]
    for finding in broken:
        print(finding)
    print(f"{len(findings) - len(broken)} of {len(findings)} limits kept")
    return 1 if broken else 0


def _built_arch() -> str:
    """The architecture that the limits are checked for: sm_80, which the executor runs too."""
    return "sm_80"


def make(architectures: Sequence[str], batches: Sequence[int], channels: int) -> dict[str, Any]:
    """The whole report, JSON-ready."""
    binaries = {arch: read(arch) for arch in architectures}
    native, native_missing = _native()
    counted = counting.count(
        [
            counting.job(layer.cut(channels), d, lo, fused_only=layer.op == "separable_conv2d")
            for layer, d, lo in settings()
        ]
    )
    asked = counting.count(
        [counting.job(layer, d, lo, batch, count=False) for layer, d, lo in settings() for batch in batches]
    )
    first = binaries[architectures[0]]
    return {
        "note": "Times are lower bounds predicted by the cost model. Nothing here is measured on a GPU.",
        "environment": environment(torch.device("cpu")),
        "devices": json.loads(torch.ops.mbv1.cuda_devices()),
        "variants": [_variant(b) for arch in architectures for b in binaries[arch]],
        "layers": [traffic(row, first) for row in counted],
        "native_depthwise": native_missing or {d: _native_row(n) for d, n in native.items()},
        "predictions": [prediction(row, native) for row in asked],
    }


def _native() -> tuple[dict[str, today.Native], str | None]:
    """torch's depthwise kernels, or why they could not be read: then they count at their floor."""
    try:
        return today.native_kernels(), None
    except ToolError as error:
        return {}, str(error)


def _native_row(native: today.Native) -> dict[str, Any]:
    return {
        **native.binary.as_dict(),
        "instructions_per_output": native.instructions,
        "loads_per_output": native.loads,
    }


def _variant(binary: Binary) -> dict[str, Any]:
    """A compiled kernel, with its occupancy on a device of its architecture where its block size is known."""
    row = binary.as_dict()
    if binary.threads and binary.arch in limits.DEVICE_OF:
        launch = {"block": [binary.threads, 1, 1], "shared_bytes": binary.static_shared}
        row["resident_warps"] = limits.resident_warps(launch, binary)
    return row


def traffic(row: dict[str, Any], binaries: Sequence[Binary]) -> dict[str, Any]:
    """What was counted for a layer, per output and beside its floor; sums over the launches of an unfused one."""
    layer, size = Layer(**row["layer"]), DTYPES[row["dtype"]].itemsize
    inputs, outputs, _ = layer.elements(row["batch"])
    floor = layer.floor_bytes(row["batch"], row["dtype"])
    launches = row["launches"]
    x = next(b for b in launches[0]["buffers"] if b["address"] == row["x"])
    y = next(b for b in launches[-1]["buffers"] if b["address"] == row["y"])
    by_name = {b.name: b for b in binaries}
    instructions = sum(n for launch in launches for c, n in launch["instructions"].items() if c != "move")
    loads = [launch[kind] for launch in launches for kind in ("global_load", "async_copy")]
    stores = [launch["global_store"] for launch in launches]
    requests = sum(a["requests"] for a in loads + stores)
    sectors = sum(a["sectors"] for a in loads + stores)
    binary = by_name[limits.short_name(launches[0]["kernel"])]
    return {
        "layer": layer.name,
        "op": layer.op,
        "channels": layer.channels,
        "dtype": row["dtype"],
        "layout": row["layout"],
        "kernel": row["kernel"],
        "blocks": [launch["grid"][0] for launch in launches],
        "shared_bytes": launches[0]["shared_bytes"],
        "resident_warps": limits.resident_warps(launches[0], binary),
        "bytes_in_flight_per_sm": limits.bytes_in_flight(launches[0], binary),
        "floor_bytes": floor,
        "requested_bytes": sum(a["bytes"] for a in loads + stores),
        "requested_x_and_y": x["load"]["bytes"] + y["store"]["bytes"],
        "floor_x_and_y": (inputs + outputs) * size,
        "sectors": sectors,
        "sectors_per_request": sectors / requests,
        "sector_use": sum(a["useful_bytes"] for a in loads + stores) / (32 * sectors),
        "unique_bytes": sum(b["unique_load_bytes"] + b["unique_store_bytes"] for n in launches for b in n["buffers"]),
        "l2_bytes": 32 * sum(n["l2_load_sectors"] + n["global_store"]["sectors"] for n in launches),
        "x_loads_per_output": x["load"]["bytes"] / size / outputs,
        "x_loads_per_output_floor": inputs / outputs,
        "ptx_instructions_per_output": instructions / outputs,
        "macs_per_output": _macs(layer),
    }


def _macs(layer: Layer) -> float:
    """The floor of instructions: FMAs for an output, each of which a tensor core does many of."""
    if layer.op == "separable_conv2d":
        return layer.channels + 9 * layer.channels / layer.out
    return {"dwconv2d": 9, "stem_conv2d": 9 * layer.channels}.get(layer.op, layer.channels)


def prediction(row: dict[str, Any], native: dict[str, today.Native]) -> dict[str, Any]:
    """Per device: the chosen kernel's lower bound and limiter, all candidates', and those of what users run today."""
    layer = Layer(**row["layer"])
    works = today.launches(layer, row["batch"], row["dtype"], row["layout"], native)
    result: dict[str, Any] = {
        "layer": layer.name,
        "op": layer.op,
        "dtype": row["dtype"],
        "layout": row["layout"],
        "batch": row["batch"],
        "predicted": {},
    }
    for device, candidates in row["candidates"].items():
        if not device:
            continue
        chosen = next(c for c in candidates if c["chosen"])
        result["predicted"][device] = {
            "kernel": chosen["kernel"],
            "us": chosen["prediction"]["us"],
            "limiter": chosen["prediction"]["limiter"],
            "candidates": {c["kernel"]: c["prediction"]["us"] for c in candidates},
            "today": {mode: _predict(w, device) for mode, w in works.items()},
        }
    return result


def _predict(works: Sequence[today.Work], device: str) -> dict[str, Any]:
    numbers = [number for work in works for number in work.numbers()]
    found = json.loads(torch.ops.mbv1.cuda_predict(numbers, device))
    return {"us": found["us"], "limiter": found["limiter"], "launches": len(works)}


if __name__ == "__main__":
    sys.exit(main())
