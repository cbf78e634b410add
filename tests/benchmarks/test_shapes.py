"""The data files against the nets that they are of, and the suites that run them."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import nn

from benchmarks import op_suite
from benchmarks.dwconv import SUITE as DWCONV
from benchmarks.layers import LayerWorkload
from benchmarks.op_suite import make_module
from benchmarks.pwconv import SUITE as PWCONV
from benchmarks.separable import SUITE as SEPARABLE
from benchmarks.shapes import OPS, Shape, load
from benchmarks.work import Layer, layers_of
from mbv1 import MobileNetV1

SUITES = {suite.name: suite for suite in (DWCONV, PWCONV, SEPARABLE)}

#: Short names of nets, and how timm makes them.
TIMM = {
    "mbv2": ("mobilenetv2_100", {}),
    "mbv3l": ("mobilenetv3_large_100", {}),
    "mbv3s": ("mobilenetv3_small_100", {}),
    "effnet": ("efficientnet_b0", {}),
    "convnext": ("convnext_tiny", {"conv_mlp": True}),
}


def layers_of_net(net: str) -> list[Layer]:
    """Without what runs on single pixels: squeeze-and-excite, and heads after the pool."""
    if net == "mbv1":
        model: nn.Module = MobileNetV1()
    else:
        timm = pytest.importorskip("timm")
        name, options = TIMM[net]
        model = timm.create_model(name, **options)
    return layers_of(model, (1, 3, 224, 224))


def out(layer: Layer) -> int:
    return layer.outputs // (layer.height * layer.width)


def windows(layer: Layer) -> tuple[int, ...]:
    return layer.channels, layer.height, layer.width, layer.kernel, layer.stride


def held(op: str, net: str) -> Counter:
    found: Counter = Counter()
    for s in (s for s in load(op) if s.net == net):
        window = (s.kernel[0], s.stride) if s.kernel else ()
        found[(s.channels, s.height, s.width, *window, *((s.out,) if s.out else ()))] += s.times
    return found


@pytest.mark.parametrize("net", ["mbv1", *TIMM])
def test_the_files_hold_the_layers_of_the_nets(net):
    layers = layers_of_net(net)
    depthwise = Counter(windows(layer) for layer in layers if layer.kind == "dw")
    pointwise = Counter(
        (layer.channels, layer.height, layer.width, out(layer))
        for layer in layers
        if layer.kind == "pw" and layer.height > 1
    )
    assert held("dwconv", net) == depthwise
    assert held("pwconv", net) == pointwise
    # In ConvNeXt a layer norm is between the two; squeeze-and-excite has pointwise layers of its own there.
    pairs = Counter(
        (*windows(dw), out(pw))
        for dw, pw in pairwise(layers)
        if (dw.kind, pw.kind) == ("dw", "pw") and pw.height > 1 and net != "convnext"
    )
    assert held("separable", net) == pairs


def test_what_users_report_is_there():
    origins = " ".join(shape.origin for op in OPS for shape in load(op))
    for issue in (1708, 18631, 74363, 75747, 85252, 125362, 129609, 170138, 192902):
        assert f"pytorch/pytorch#{issue}" in origins
    shapes = load("dwconv")
    assert {s.kernel for s in shapes} >= {(3, 3), (5, 5), (7, 7), (31, 31), (1, 4)}
    assert any(s.dilation > 1 for s in shapes)
    assert any(s.stride == 2 and s.channels < 32 for s in shapes)
    assert all(s.origin for op in OPS for s in load(op))


@pytest.mark.parametrize("op", OPS)
def test_quick_runs_layers_that_exist(op):
    assert set(SUITES[op].quick) <= {shape.name for shape in load(op)}


def test_an_odd_kernel_keeps_the_size():
    for shape in (s for s in load("dwconv") if s.stride == 1 and s.kernel[1] % 2):
        (layer,) = layers_of(make_module(shape), (1, shape.channels, shape.height, shape.width))
        assert layer.inputs == layer.outputs


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "shape",
    [
        Shape("dwconv", "1-d", "n", "o", 8, 1, 20, kernel=(1, 4)),
        Shape("dwconv", "dilated", "n", "o", 8, 9, 9, kernel=(3, 3), dilation=2),
        Shape("pwconv", "pw", "n", "o", 8, 5, 5, out=12),
        Shape("separable", "stride 2", "n", "o", 8, 9, 9, kernel=(5, 5), stride=2, out=12),
        Shape("separable", "dilated", "n", "o", 8, 9, 9, kernel=(3, 3), dilation=2, out=12),
    ],
    ids=lambda shape: f"{shape.op} {shape.name}",
)
def test_ours_and_torchs_are_right(shape, layout):
    size = (2, shape.channels, shape.height, shape.width)
    work = LayerWorkload(make_module(shape), size, torch.float32, layout, torch.device("cpu"))
    with torch.inference_mode():
        for run in (work.ours(), work.ours("torch"), work.eager(work.folded), work.eager(work.unfolded)):
            assert work.error(run()) <= 1e-5
        x = work.x.clone()
        work.eager(work.unfolded)()
    assert torch.equal(work.x, x)
    op = {"dwconv": "dwconv2d", "pwconv": "pwconv2d", "separable": "separable_conv2d"}[shape.op]
    assert work.kernel().startswith(op) and op in work.kernel("torch")


@pytest.mark.parametrize("op", OPS)
def test_each_suite_runs(op, roofline, tmp_path):
    path = tmp_path / "r.json"
    given = ("--device", "cpu", "--quick", "--threads", "1", "--filter", "mbv1 block 13", "--dtype", "fp32")
    assert SUITES[op].main([*given, "--layout", "nhwc", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    row = next(row for row in results["rows"] if row["contender"] == "mbv1")
    assert (results["benchmark"], row["status"], row["times"], row["net"]) == (op, "ok", 1, "mbv1")
    assert (row["out"], row["kernel"]) == {
        "dwconv": (None, [3, 3]),
        "pwconv": (1024, None),
        "separable": (1024, [3, 3]),
    }[op]


@pytest.fixture
def selected(monkeypatch, roofline):
    """What a run of the depthwise suite would run, and its notes."""
    seen = {}
    monkeypatch.setattr(op_suite, "make_cases", lambda setting, rooflines, shapes: list(shapes))
    monkeypatch.setattr(
        op_suite.suite, "run", lambda name, setting, shapes, *rest: seen.update(shapes=shapes, notes=rest[-1]) or 0
    )

    def select(*arguments):
        assert DWCONV.main(["--device", "cpu", *arguments]) == 0
        return seen["shapes"], seen["notes"]

    return select


def test_large_layers_are_left_out_on_cpus_and_named(selected):
    shapes, notes = selected("--net", "users")
    assert not any(shape.large for shape in shapes)
    assert "k5 large left out: large; --large runs it" in notes
    shapes, notes = selected("--net", "users", "--large")
    assert any(shape.large for shape in shapes) and not any("large" in note for note in notes)


def test_layers_are_chosen_by_net_and_the_others_named(selected):
    everything = {shape.net for shape in load("dwconv")}
    shapes, (note, *_) = selected()
    assert {shape.net for shape in shapes} == {"mbv1", "users"}
    assert note == "left out: the layers of convnext, effnet, mbv2, mbv3l, mbv3s; --net and --full run them"
    assert {shape.net for shape in selected("--full", "--large")[0]} == everything
    assert {shape.net for shape in selected("--net", "effnet")[0]} == {"effnet"}
    assert {shape.net for shape in selected("--filter", "k7")[0]} == {"convnext"}
    assert len(selected("--quick")[0]) == len(DWCONV.quick)


def test_an_unknown_filter_is_an_error(capsys):
    with pytest.raises(SystemExit):
        PWCONV.main(["--device", "cpu", "--filter", "nothing"])
    assert "got 'nothing'" in capsys.readouterr().err


def test_two_shapes_of_one_name_are_an_error(tmp_path):
    layer = '{"name": "a", "channels": 1, "size": 4, "kernel": 3, "stride": 1}'
    (tmp_path / "a.json").write_text(f'{{"source": "", "net": "n", "dwconv": [{layer}, {layer}]}}')
    with pytest.raises(ValueError, match="no two alike, got a"):
        load("dwconv", tmp_path)
    assert load("pwconv", tmp_path) == []
