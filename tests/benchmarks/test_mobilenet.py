import json

import pytest
import torch
from torch import nn

from benchmarks import mobilenet
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
