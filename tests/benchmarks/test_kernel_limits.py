"""The limits that every CUDA kernel keeps: spills, bytes in flight, width of accesses, memory traffic."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.kernel_report import binaries, counting, limits
from tests.test_cuda_executor import _missing

LIMITS = [
    "no spills",
    "bytes in flight",
    "unique bytes / floor",
    "loads of x by 16 bytes",
    "loads of x: use of sectors",
    "stores by 16 bytes",
    "stores: use of sectors",
    "requested bytes / floor",
    "DW→PW traffic / floor",
]


@cache
def _findings() -> list[limits.Finding]:
    return limits.check(binaries.read("sm_80"), counting.count(limits.jobs()))


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
