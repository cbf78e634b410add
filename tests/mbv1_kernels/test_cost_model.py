"""The cost model that picks CUDA kernels. It runs without a device."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from mbv1_kernels import _extension

pytestmark = pytest.mark.skipif(
    _extension.cuda_missing is not None,
    reason=f"the cost model is part of the CUDA kernels: {_extension.cuda_missing}",
)

# In the order of Work in csrc/cuda/cost_model.h: a launch of one full wave on no known device, bound by nothing.
WORK = {
    "blocks": 1056.0,
    "threads": 256.0,
    "registers": 32.0,
    "shared_bytes": 0.0,
    "dram_bytes": 0.0,
    "l2_bytes": 0.0,
    "l1_bytes": 0.0,
    "ffma": 0.0,
    "mma_flops": 0.0,
    "instructions": 0.0,
    "round_trips": 0.0,
}
LIMITERS = {
    "dram_bytes": "DRAM",
    "l2_bytes": "L2",
    "l1_bytes": "L1/LSU",
    "ffma": "FMA pipe",
    "mma_flops": "tensor pipe",
    "instructions": "issue slots",
    "round_trips": "latency",
}
DEVICES = ["H100", "A100", "L4", "RTX 4090"]


def predict(device: str = "H100", *launches: dict[str, float], **work: float) -> dict[str, Any]:
    numbers = [n for launch in launches or ({**WORK, **work},) for n in launch.values()]
    return json.loads(torch.ops.mbv1.cuda_predict(numbers, device))


def devices() -> dict[str, dict[str, Any]]:
    return {d["name"]: d for d in json.loads(torch.ops.mbv1.cuda_devices())}


def test_the_devices_are_the_known_ones() -> None:
    assert list(devices()) == DEVICES


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_do_costs_a_launch(device: str) -> None:
    prediction = predict(device)
    assert prediction["limiter"] == "launch"
    assert prediction["us"] == prediction["ceilings_us"]["launch"] > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("member", LIMITERS)
def test_more_work_takes_longer_and_names_its_limiter(member: str, device: str) -> None:
    times = [predict(device, **{member: 10.0**power})["us"] for power in range(2, 13)]
    assert times == sorted(times) and times[-1] > times[-2] > times[0]
    assert predict(device, **{member: 1e12})["limiter"] == LIMITERS[member]


@pytest.mark.parametrize("device", DEVICES)
def test_dram_bytes_go_at_the_bandwidth_of_the_data_sheet(device: str) -> None:
    took = predict(device, dram_bytes=1e9)["us"] - predict(device)["us"]
    assert took == pytest.approx(1e9 / (devices()[device]["dram_gb_per_s"] * 1e3))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("member", "peak"), [("ffma", "fp32_tflops"), ("mma_flops", "tensor_tflops")])
def test_arithmetic_goes_at_the_peak_where_every_sm_has_as_much(member: str, peak: str, device: str) -> None:
    figures = devices()[device]
    flops = 1e12
    took = predict(device, blocks=1000.0 * figures["sms"], **{member: flops / 2 if member == "ffma" else flops})["us"]
    assert took - predict(device)["us"] == pytest.approx(flops / (figures[peak] * 1e6))


@pytest.mark.parametrize("member", ["l1_bytes", "ffma", "mma_flops", "instructions"])
def test_the_busiest_sm_sets_the_pace(member: str) -> None:
    """132 blocks on the 132 SMs of an H100 are as fast as one on each; 133 take twice as long a block, and a single
    one does all the work alone."""
    sms = devices()["H100"]["sms"]

    def took(blocks: int, total: float) -> float:
        return predict(blocks=float(blocks), **{member: total})["us"] - predict()["us"]

    full = took(sms, 1e12)
    assert took(sms + 1, 1e12 * (sms + 1) / sms) == pytest.approx(2 * full)
    assert took(1, 1e12) == pytest.approx(sms * full)


def test_waves_are_counted_by_what_fits_an_sm() -> None:
    """256 threads of 64 registers: 4 blocks by the 65,536 registers of an SM, 2 by 100 KiB of shared memory each."""
    by_registers = predict(registers=64.0, round_trips=1.0)
    assert (by_registers["resident_blocks"], by_registers["waves"]) == (4, 2)
    by_shared = predict(shared_bytes=100.0 * 1024, round_trips=1.0)
    assert (by_shared["resident_blocks"], by_shared["waves"]) == (2, 4)
    assert by_shared["ceilings_us"]["latency"] == pytest.approx(2 * by_registers["ceilings_us"]["latency"])


def test_a_block_that_does_not_fit_takes_forever() -> None:
    prediction = predict(shared_bytes=300.0 * 1024)
    assert prediction["us"] is None and prediction["resident_blocks"] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_launches_add_up(device: str) -> None:
    first, second = {**WORK, "dram_bytes": 1e8}, {**WORK, "ffma": 1e11}
    both = predict(device, first, second)
    assert both["us"] == pytest.approx(predict(device, first)["us"] + predict(device, second)["us"])
    longest = max(predict(device, first), predict(device, second), key=lambda p: p["us"])
    assert both["limiter"] == longest["limiter"]


def test_every_prediction_is_finite_where_a_block_fits() -> None:
    assert all(math.isfinite(us) for us in predict(dram_bytes=1e15)["ceilings_us"].values())


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(RuntimeError, match="device: expected one of H100, A100, L4, RTX 4090, got 'H1000'"):
        predict("H1000")
    with pytest.raises(RuntimeError, match="mbv1::cuda_predict: work: expected 11 numbers a launch, got 3"):
        torch.ops.mbv1.cuda_predict([1.0, 2.0, 3.0], "H100")
