import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmarks import mobilenet
from benchmarks.memory import peak_allocated
from benchmarks.work import layers_of
from benchmarks.workload import fold_batch_norm


def test_small_net_runs_and_writes_json(roofline, tmp_path):
    path = tmp_path / "net.json"
    sizes = ("--width-mult", "0.25", "--resolution", "64", "--threads", "1")
    assert mobilenet.main(["--device", "cpu", "--quick", *sizes, "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    rows = [row for row in results["rows"] if row["contender"] == "mbv1"]
    assert [row["layout"] for row in rows] == ["nchw", "nhwc"]
    for row in rows:
        assert row["status"] == "ok"
        assert row["images_per_s"] == pytest.approx(1e6 / row["median_us"])
        assert row["blocks_bound_us"] < row["bound_us"]
        assert (row["width_mult"], row["resolution"]) == (0.25, 64)


def test_threads_and_rounds_and_torchs_names_of_dtypes(roofline, tmp_path):
    path = tmp_path / "net.json"
    sizes = ("--width-mult", "0.25", "--resolution", "32", "--layout", "nhwc", "--peers", "eager")
    given = ("--threads", "1", "2", "--rounds", "2", "--dtype", "bfloat16", "float32")
    assert mobilenet.main(["--device", "cpu", "--batch", "2", *sizes, *given, "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    rows = [row for row in results["rows"] if row["contender"] == "mbv1"]
    assert [(row["dtype"], row["threads"]) for row in rows] == [("bf16", 1), ("bf16", 2), ("fp32", 1), ("fp32", 2)]
    assert set(results["rooflines"]) == {"1", "2"}
    for row in results["rows"]:
        assert row["rounds"] == 2 and row["peak_bytes"] > 0
        peak = 2e12 if row["dtype"] == "fp32" else 1e12  # of the fixture: no rate for bf16 but that of float32
        assert row["peak_percent"] == pytest.approx(100 * row["flops"] / (row["median_us"] * 1e-6) / peak)


def test_the_fused_net_needs_less_memory_than_eager():
    """No activation between its layers is a tensor, and with the kernels' scratch memory, which they keep and which a
    process of its own counts from nothing, it takes less than the activations in eager torch."""
    code = (
        "import torch\n"
        "from benchmarks import mobilenet\n"
        "from benchmarks.memory import peak_allocated\n"
        "device = torch.device('cpu')\n"
        "torch.set_num_threads(1)\n"
        "net = mobilenet.Net(mobilenet.make_net(1.0, 224), (2, 3, 224, 224), torch.float32, 'nhwc', device)\n"
        "with torch.no_grad():\n"
        "    ours, eager = net.ours(), net.eager(net.folded)\n"
        "    ours(), eager()\n"
        "    print(peak_allocated(ours, device), torch.ops.mbv1.cpu_scratch_bytes(), peak_allocated(eager, device))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tensors, scratch, eager = map(int, run.stdout.split())
    assert tensors <= 4 * 2 * (1024 * 7 * 7 + 1000) + 1024  # the last block's output and the classes
    assert 0 < tensors + scratch < eager


def test_peak_of_allocations_by_hand():
    def run():
        a = torch.empty(1000)
        b = torch.empty(3000)
        del a
        c = torch.empty(500)
        return b, c

    assert peak_allocated(run, torch.device("cpu")) == 4 * 4000


def test_layers_of_the_net_one_by_one(roofline, tmp_path):
    path = tmp_path / "layers.json"
    sizes = ("--width-mult", "0.25", "--resolution", "64", "--layout", "nhwc", "--threads", "1")
    assert mobilenet.main(["--device", "cpu", "--quick", "--per-layer", *sizes, "--json", str(path)]) == 0
    rows = [row for row in json.loads(path.read_text())["rows"] if row["contender"] == "mbv1"]
    assert rows[0]["case"] == "0.25-64 stem" and rows[-1]["case"] == "0.25-64 pool+linear"
    assert "0.25-64 block 7-11 dw+pw" in {row["case"] for row in rows}
    layers = layers_of(mobilenet.make_net(0.25, 64), (1, 3, 64, 64))
    for kinds in (("dw", "pw"), ("dw+pw",)):
        parts = [row for row in rows if row["case"].split()[-1] in (*kinds, "stem", "pool+linear")]
        assert sum(row["times"] * row["flops"] for row in parts) == sum(layer.flops for layer in layers)


def test_a_full_run_has_every_width_resolution_and_batch(roofline, monkeypatch):
    cases = []

    def make_net(width, resolution):
        with torch.device("meta"):
            return mobilenet.MobileNetV1(width_mult=width)

    monkeypatch.setattr(mobilenet, "make_net", make_net)
    monkeypatch.setattr(mobilenet.suite, "run", lambda name, setting, found, *rest: cases.extend(found) or 0)
    assert mobilenet.main(["--device", "cpu", "--full", "--layout", "nhwc", "--threads", "1"]) == 0
    assert cases[0].name == "MobileNetV1 1-224"
    assert {(case.facts["width_mult"], case.facts["resolution"], case.batch) for case in cases} == {
        (width, resolution, batch)
        for width in (0.25, 0.5, 0.75, 1.0)
        for resolution in (128, 160, 192, 224)
        for batch in (1, 8, 32, 128)
    }


def test_a_net_with_one_wrong_layer_is_found():
    net = mobilenet.Net(mobilenet.make_net(0.25, 64), (2, 3, 64, 64), torch.float32, "nchw", torch.device("cpu"))
    with torch.inference_mode():
        assert net.error(net.eager(net.folded)()) <= net.tolerance
        depthwise = [m for m in net.folded.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        depthwise[6].bias += 0.1
        assert net.error(net.eager(net.folded)()) > net.tolerance


def test_fold_leaves_the_original_alone():
    net = mobilenet.make_net(0.25, 32).double()
    folded = fold_batch_norm(net)
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(folded(x), net(x))
