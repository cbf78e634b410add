"""The report as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def render(report: dict[str, Any]) -> str:
    """Every table, with what its columns mean."""
    parts = [report["note"], _variants(report["variants"]), _layers(report["layers"]), _native(report)]
    return "\n\n".join([*parts, *_predictions(report["predictions"])])


def as_json(report: dict[str, Any]) -> str:
    """The report as JSON with a row a line, and five digits of each number."""

    def line(value: Any) -> str:
        return json.dumps(rounded(value))

    parts = []
    for key, value in report.items():
        rows = "[\n" + ",\n".join(map(line, value)) + "\n]" if isinstance(value, list) else line(value)
        parts.append(f"{json.dumps(key)}: {rows}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def rounded(value: Any) -> Any:
    """``value``, JSON-ready, with five digits of each number."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need; numbers to the right."""
    text = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]

    def line(cells: Sequence[str], left: Sequence[bool]) -> str:
        return "  ".join(
            c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(cells, widths, left, strict=True)
        )

    left = [not text or not _is_number(text[0][i]) for i in range(len(header))]
    return "\n".join([line(header, left), *(line(row, left) for row in text)])


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("%", "").replace("x", "").isdigit()


def _variants(variants: Sequence[dict[str, Any]]) -> str:
    header = ("arch", "kernel", "threads", "regs", "spills", "stack", "static shared", "warps/SM", "B in flight",
              "instr.", "math", "loads and stores, by bytes of a lane")  # fmt: skip
    rows = [
        (v["arch"], v["name"], v["threads"], v["registers"], v["spills"], v["stack"], v["static_shared"],
         v.get("resident_warps", "-"), v["bytes_in_flight"], v["instructions"], f"{100 * v['math_share']:.0f}%",
         _mix(v["mix"]))
        for v in variants
    ]  # fmt: skip
    title = (
        "Variants, as compiled. warps/SM: by registers and static shared memory; B in flight: bytes of global\n"
        "memory that a thread asks for before it needs the first; math: share of FMA and tensor-core instructions."
    )
    return f"{title}\n{table(header, rows)}"


def _mix(mix: dict[str, int]) -> str:
    shown = ("LDG", "STG", "LDGSTS", "LDS", "STS", "LDSM", "FFMA", "HFMA2", "HMMA")
    kept = {k: n for k, n in mix.items() if k.split(".")[0] in shown}
    return " ".join(f"{k}:{n}" for k, n in sorted(kept.items()))


def _layers(layers: Sequence[dict[str, Any]]) -> str:
    header = ("layer", "kernel", "warps/SM", "KiB in flight", "requested", "x and y", "unique", "L2", "sectors/req.",
              "sector use", "x loads/out", "floor", "PTX/out", "MACs/out")  # fmt: skip
    rows = [
        (r["layer"], r["kernel"], r["resident_warps"], round(r["bytes_in_flight_per_sm"] / 1024),
         r["requested_bytes"] / r["floor_bytes"], r["requested_x_and_y"] / r["floor_x_and_y"],
         r["unique_bytes"] / r["floor_bytes"], r["l2_bytes"] / r["floor_bytes"], r["sectors_per_request"],
         f"{100 * r['sector_use']:.0f}%", r["x_loads_per_output"], r["x_loads_per_output_floor"],
         r["ptx_instructions_per_output"], float(r["macs_per_output"]))
        for r in layers
    ]  # fmt: skip
    title = (
        "MobileNetV1 1.0-224 at batch 1, counted where the kernels run on the CPU. requested, unique and L2 bytes\n"
        "are shown over the floor: each tensor once. x and y: loads of the input and stores, over theirs. KiB in\n"
        "flight: what a full SM asks of memory at once. L2: what an L1 that keeps a block's data leaves. PTX/out:\n"
        "executed instructions of PTX, moves left out, for an output; its floor is the multiply-adds, of which a\n"
        "tensor-core instruction does many. Blocks as the best kernel of one launch, whether it is chosen or not."
    )
    return f"{title}\n{table(header, rows)}"


def _native(report: dict[str, Any]) -> str:
    native = report["native_depthwise"]
    if isinstance(native, str):
        return f"torch's depthwise kernel could not be read ({native}); it counts at its floor below."
    header = ("torch's native depthwise 3x3", "regs", "instr./out", "loads/out", "B in flight", "loads and stores")
    rows = [
        (f"NCHW {d}", n["registers"], n["instructions_per_output"], n["loads_per_output"], n["bytes_in_flight"],
         _mix({k: c for k, c in n["mix"].items() if k.startswith(("LDG", "STG"))}))
        for d, n in native.items()
    ]  # fmt: skip
    return "Read from the machine code in libtorch_cuda (sm_80).\n" + table(header, rows)


def _predictions(predictions: Sequence[dict[str, Any]]) -> Iterable[str]:
    devices = list(predictions[0]["predicted"])
    for device in devices:
        header = ("batch", "layer", "chosen kernel", "predicted us", "limiter", "eager", "limiter", "torch.compile",
                  "limiter", "eager/ours", "compile/ours")  # fmt: skip
        rows = []
        for p in predictions:
            ours = p["predicted"][device]
            eager, compiled = (ours["today"][mode] for mode in ("eager", "torch.compile"))
            rows.append(
                (p["batch"], p["layer"], ours["kernel"], ours["us"], ours["limiter"], eager["us"], eager["limiter"],
                 compiled["us"], compiled["limiter"], eager["us"] / ours["us"], compiled["us"] / ours["us"])
            )  # fmt: skip
        title = (
            f"PREDICTED lower bounds on {device}, in us; not measured. What users run today counts as today.py says."
        )
        yield f"{title}\n{table(header, rows)}"
