"""The benchmarks' way of measuring, on the device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.contest import OK, contest
from benchmarks.layers import LayerWorkload
from benchmarks.op_suite import make_module
from benchmarks.peers import find_peers
from benchmarks.shapes import Shape
from benchmarks.timing import Budget, Timing, clocks_for

from .conftest import EMULATED

SHAPE = Shape("separable", "s", "n", "o", 8, 9, 9, kernel=(3, 3), stride=2, out=16)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_contenders_are_right_and_timed_by_every_clock(layout: str) -> None:
    device = torch.device("cuda")
    workload = LayerWorkload(make_module(SHAPE), (2, 8, 9, 9), torch.float16, layout, device)
    peers = [peer for peer in find_peers("separable") if peer.name in ("mbv1", "eager", "cudnn bench")]
    outcomes = contest(workload, peers, clocks_for(device), Budget(0.0, 2, 2))
    assert [(o.name, o.status, o.reason) for o in outcomes] == [(peer.name, OK, None) for peer in peers]
    for outcome in outcomes:
        assert outcome.start > 0
        assert EMULATED or outcome.memory >= 2 * 2 * 16 * 25  # nothing counts the emulated device's allocations
        for clock, timing in outcome.clocks.items():
            if EMULATED and clock.startswith("graph"):
                assert "not emulated" in timing
            else:
                assert isinstance(timing, Timing) and 0 < timing.p20 <= timing.median <= timing.p80
