"""The limits that every kernel keeps: ``python -m benchmarks.kernel_report --check``, and a test of the library.

Layers are cut in channels: what is counted for an output hardly depends on their number. Those of few pixels keep
more, so that a kernel whose warps share out K has as much of it in flight as in the net.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .binaries import Binary, short_name
from .counting import job
from .layers import DTYPES, Layer, settings

# By Little's law an H100 needs 3.35 TB/s x 0.6 us / 132 SMs = 15 KiB in flight on each SM; twice that, since not all
# warps wait for memory at once.
IN_FLIGHT = 32 * 1024
WIDE_SHARE = 0.95  # of the bytes, by accesses of 16 bytes, on the aligned path
SECTOR_USE = 0.95
UNIQUE = 1.05  # x floor
REQUESTED = {1: 2.2, 2: 1.6}  # x floor, by stride: input loads and stores of dw 3x3 NHWC
FUSED_TRAFFIC = 1.15  # x (input + output + weights once a wave)

CHANNELS, CHANNELS_OF_FEW_PIXELS = 64, 256
FEW_PIXELS = 14 * 14
# Devices of the cost model whose SMs hold as much as those of an architecture.
DEVICE_OF = {"sm_80": "A100", "sm_86": "L4", "sm_89": "L4", "sm_90": "H100", "sm_100": "H100", "sm_120": "L4"}


@dataclass(frozen=True)
class Finding:
    """One limit and one kernel (on one layer)."""

    limit: str
    subject: str
    value: float
    allowed: str
    kept: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.kept else 'FAIL'} {self.limit}: {self.subject}: {self.value:.3g} ({self.allowed})"


def jobs() -> list[dict[str, Any]]:
    """What must be counted to check the limits."""
    return [
        job(_cut(layer), dtype, layout, fused_only=layer.op == "separable_conv2d")
        for layer, dtype, layout in settings()
    ]


def _cut(layer: Layer) -> Layer:
    return layer.cut(CHANNELS_OF_FEW_PIXELS if layer.size**2 <= FEW_PIXELS else CHANNELS)


def check(binaries: Sequence[Binary], rows: Sequence[dict[str, Any]]) -> list[Finding]:
    """All findings, kept and broken."""
    by_name = {b.name: b for b in binaries}
    findings = [_spills(b) for b in binaries]
    for row in rows:
        findings += _traffic(row)
    return findings + list(_in_flight(by_name, rows))


def _at_most(limit: str, subject: str, value: float, most: float) -> Finding:
    return Finding(limit, subject, value, f"at most {most:g}", value <= most)


def _at_least(limit: str, subject: str, value: float, least: float) -> Finding:
    return Finding(limit, subject, value, f"at least {least:g}", value >= least)


def _spills(binary: Binary) -> Finding:
    return _at_most("no spills", f"{binary.name} {binary.arch}", binary.stack + binary.spills, 0)


def _in_flight(by_name: dict[str, Binary], rows: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Bytes that the warps of a full SM ask of memory at once, for each kernel that ran."""
    done = set()
    for row in rows:
        for launch in row["launches"]:
            binary = by_name.get(short_name(launch["kernel"]))
            if binary is None:
                raise RuntimeError(f"{launch['kernel']} is not among the compiled kernels: build the library again")
            subject, value = binary.name, bytes_in_flight(launch, binary)
            if (subject, value) not in done:
                done.add((subject, value))
                yield _at_least("bytes in flight", subject, value, IN_FLIGHT)


def bytes_in_flight(launch: dict[str, Any], binary: Binary) -> float:
    """What a full SM has asked of memory at once: a thread's loads to registers, as disassembled, or its asynchronous
    copies, as counted."""
    x, y, z = launch["block"]
    threads = x * y * z * launch["grid"][0] * launch["grid"][1] * launch["grid"][2]
    asynchronous = launch["async_bytes_in_flight"] / threads
    return resident_warps(launch, binary) * 32 * max(binary.bytes_in_flight, asynchronous)


def resident_warps(launch: dict[str, Any], binary: Binary) -> int:
    """Warps on an SM at once, as the cost model has it, with the registers of the compiled kernel."""
    x, y, z = launch["block"]
    work = [1e9, x * y * z, binary.registers, launch["shared_bytes"], 0, 0, 0, 0, 0, 0, 1]
    prediction = json.loads(torch.ops.mbv1.cuda_predict([float(n) for n in work], DEVICE_OF[binary.arch]))
    return prediction["resident_blocks"] * -(-x * y * z // 32)


def _traffic(row: dict[str, Any]) -> Iterator[Finding]:
    layer = Layer(**row["layer"])
    size = DTYPES[row["dtype"]].itemsize
    subject = f"{row['kernel']} on {layer.name}"
    launches = row["launches"]
    floor = layer.floor_bytes(row["batch"], row["dtype"])
    inputs, outputs, weights = (n * size for n in layer.elements(row["batch"]))
    unique = sum(b["unique_load_bytes"] + b["unique_store_bytes"] for n in launches for b in n["buffers"])
    yield _at_most("unique bytes / floor", subject, unique / floor, UNIQUE)
    x = next(b for b in launches[0]["buffers"] if b["address"] == row["x"])
    y = next(b for b in launches[-1]["buffers"] if b["address"] == row["y"])
    for name, access, widths in (
        ("loads of x", x["load"], x["load_widths"]),
        ("stores", y["store"], y["store_widths"]),
    ):
        run = _run_bytes(layer, row["layout"], size, name)
        if run % 16 == 0:
            wide = widths.get("16", 0) / sum(widths.values())
            yield _at_least(f"{name} by 16 bytes", subject, wide, WIDE_SHARE)
        if run % 32 == 0:
            used = access["useful_bytes"] / (32 * access["sectors"])
            yield _at_least(f"{name}: use of sectors", subject, used, SECTOR_USE)
    if layer.op == "dwconv2d" and row["layout"] == "nhwc":
        requested = (x["load"]["bytes"] + y["store"]["bytes"]) / (inputs + outputs)
        yield _at_most("requested bytes / floor", subject, requested, REQUESTED[layer.stride])
    if layer.op == "separable_conv2d":
        traffic = 32 * sum(n["wave_load_sectors"] + n["wave_store_sectors"] for n in launches)
        least = inputs + outputs + weights * launches[0]["waves"]
        yield _at_most("DW→PW traffic / floor", subject, traffic / least, FUSED_TRAFFIC)


def _run_bytes(layer: Layer, layout: str, size: int, access: str) -> int:
    """Bytes that lie one after another and are worked on together: the channels of a pixel in NHWC, a row (dw) or a
    plane in NCHW. 16-byte vectors and 32-byte sectors that divide it make the aligned path."""
    if layer.op == "pool_linear" and access == "stores":
        return 1  # some features of some images
    channels = layer.channels if access == "loads of x" else layer.out
    side = layer.size if access == "loads of x" else layer.out_size
    if layout == "nhwc":
        return channels * size
    by_rows = layer.op in ("dwconv2d", "stem_conv2d") or (layer.op == "separable_conv2d" and access == "loads of x")
    return (side if by_rows else side * side) * size
