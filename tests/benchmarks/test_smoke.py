import pytest
import torch

from benchmarks import smoke
from benchmarks.workload import DTYPES

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", {call.op: call for call in smoke.CALLS}.values(), ids=lambda call: call.op)
def test_every_op_passes_on_the_cpu(call, dtype):
    assert "error" in smoke.check(call, "cpu", DTYPES[dtype], "nhwc", CPU)


def test_a_wrong_op_is_found(monkeypatch):
    import mbv1_kernels

    right = mbv1_kernels.dwconv2d

    def wrong(*args, backend, **options):
        return right(*args, backend=backend, **options) * (1.0 if backend == "torch" else 1.001)

    monkeypatch.setattr(mbv1_kernels, "dwconv2d", wrong)
    with pytest.raises(AssertionError, match="allowed"):
        smoke.check(smoke.CALLS[0], "cpu", torch.float32, "nchw", CPU)


def test_failures_and_skips_are_counted(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no device")

    def missing():
        raise RuntimeError("pool_linear has no Triton kernel")

    found = [("good", lambda: "fine"), ("bad", broken), ("none", missing)]
    monkeypatch.setattr(smoke, "checks", lambda device, backends, small: iter(found))
    assert smoke.main(["--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  bad: RuntimeError: no device" in out and "1 passed, 1 skipped, 1 failed" in out


def test_small_calls_of_one_backend_have_every_op():
    cpu = torch.device("cpu")
    everything = [what for what, _ in smoke.checks(cpu, ["cuda", "triton"], small=False)]
    small = [what for what, _ in smoke.checks(cpu, ["cuda"], small=True)]
    assert set(small) < set(everything) and {what.split()[0] for what in small} == {call.op for call in smoke.CALLS}
    assert {what.split()[1] for what in small} == {"cuda"} and not any("MobileNetV1" in what for what in small)
