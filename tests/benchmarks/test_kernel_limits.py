"""The limits of the CUDA kernels: spills, bytes in flight, width of accesses, memory traffic."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from benchmarks.kernel_report import binaries, counting, limits
from tests.test_cuda_executor import _missing

LIMITS = (
    "no spills",
    "bytes in flight",
    "unique bytes / floor",
    "loads of x by 16 bytes",
    "loads of x: use of sectors",
    "stores by 16 bytes",
    "stores: use of sectors",
    "requested bytes / floor",
    "DW→PW traffic / floor",
)


@cache
def _counted() -> tuple[list[binaries.Binary], list[dict[str, Any]]]:
    return binaries.read("sm_80"), counting.count(limits.jobs())


@cache
def _findings() -> list[limits.Finding]:
    return limits.check(*_counted())


@pytest.mark.skipif(_missing() is not None, reason=str(_missing()))
@pytest.mark.parametrize("limit", LIMITS)
def test_limit(limit: str) -> None:
    findings = [f for f in _findings() if f.limit == limit]
    assert findings
    broken = [f for f in findings if not f.kept]
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.skipif(_missing() is not None, reason=str(_missing()))
def test_no_limit_is_left_out() -> None:
    assert {f.limit for f in _findings()} == set(LIMITS)


#: How far a kernel's own account of its work (csrc/cuda) may be from what is counted.
TOLERANCES = {
    "dram_bytes": 0.05,
    "l2_bytes": 0.2,
    "l1_bytes": 0.25,
    "ffma": 0.1,
    "mma_flops": 0.1,
    "instructions": 0.2,
}


def _done(launch: dict[str, Any]) -> dict[str, float]:
    """The members of Work, as counted."""
    sectors = sum(launch[path]["sectors"] for path in ("global_load", "global_store", "async_copy"))
    wavefronts = launch["shared_load"]["wavefronts"] + launch["shared_store"]["wavefronts"]
    return {
        "dram_bytes": sum(b["unique_load_bytes"] + b["unique_store_bytes"] for b in launch["buffers"]),
        "l2_bytes": 32 * (launch["l2_load_sectors"] + launch["global_store"]["sectors"]),
        "l1_bytes": 32 * sectors + 128 * wavefronts,
        "ffma": launch["instructions"]["fma"] + launch["instructions"]["packed"],
        # m16n8k16, or m16n8k8 of TF32, which counts twice: 4096 FLOPs by 32 lanes.
        "mma_flops": 128 * launch["instructions"]["mma"],
        "instructions": sum(count for kind, count in launch["instructions"].items() if kind != "move"),
    }


@pytest.mark.skipif(_missing() is not None, reason=str(_missing()))
@pytest.mark.parametrize("member", ["launch", *TOLERANCES])
def test_kernels_account_for_their_work(member: str) -> None:
    """What the cost model is told is what the kernels do."""
    registers = {b.name: b.registers for b in _counted()[0]}
    wrong = []
    for row in _counted()[1]:
        for launch in row["launches"]:
            work, subject = launch["work"], f"{row['kernel']} on {row['layer']['name']}"
            if member == "launch":
                x, y, z = launch["block"]
                told = work["blocks"], work["threads"], work["shared_bytes"]
                done = launch["grid"][0], x * y * z, launch["shared_bytes"]
                if told != done or work["registers"] < registers[binaries.short_name(launch["kernel"])]:
                    wrong.append(f"{subject}: told {told} and {work['registers']} registers, counted {done}")
                continue
            told, counted = work[member], _done(launch)[member]
            if abs(told - counted) > TOLERANCES[member] * max(told, counted):
                wrong.append(f"{subject}: told {told:.4g}, counted {counted:.4g}")
    assert not wrong, "\n".join(wrong)
