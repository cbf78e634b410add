"""mbv1.graphed: what surrounds the graph on any device, the graph itself where there is a GPU."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mbv1

from .conftest import EMULATED

module = importlib.import_module("mbv1.graphed")  # the package's attribute of that name is the function


def _net(fused: bool = True) -> mbv1.MobileNetV1:
    torch.manual_seed(0)
    return mbv1.MobileNetV1(n_classes=7, width_mult=0.25, fused=fused).eval().cuda()


def _image(seed: int, *size: int) -> Tensor:
    return torch.randn(*(size or (1, 3, 32, 32)), generator=torch.Generator().manual_seed(seed)).cuda()


def _net_of(net: mbv1.MobileNetV1, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).cpu()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts captures; on the emulated device, which has no graphs, a replay is the same call again."""
    count: list[int] = []
    real = module._capture

    def capture(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        count.append(1)
        if not EMULATED:
            return real(run)
        output = run()
        return lambda: output.copy_(run()), output

    monkeypatch.setattr(module, "_capture", capture)
    return count


def test_computes_what_the_net_computes(captures: list[int]) -> None:
    net = _net()
    graphed = mbv1.graphed(net, _image(0))
    outputs = [graphed(_image(seed)) for seed in (1, 2)]
    for seed, y in zip((1, 2), outputs, strict=True):
        assert torch.equal(y.cpu(), _net_of(net, _image(seed)))
        assert not y.requires_grad
    assert len(captures) == 1


def test_inputs_of_another_memory_format_are_converted(captures: list[int]) -> None:
    net = _net()
    example = _image(0).cpu().contiguous(memory_format=torch.channels_last).cuda()
    graphed = mbv1.graphed(net, example)
    assert graphed.input.stride() == example.stride()
    torch.testing.assert_close(graphed(_image(1)).cpu(), _net_of(net, _image(1)))


def test_static_tensors(captures: list[int]) -> None:
    net = _net()
    graphed = mbv1.graphed(net, _image(0), clone=False)
    graphed.input.copy_(_image(1))
    y = graphed(graphed.input)
    assert y is graphed.output
    assert torch.equal(y.cpu(), _net_of(net, _image(1)))


def test_weights_that_change_in_place_are_seen(captures: list[int]) -> None:
    net = _net()
    graphed = mbv1.graphed(net, _image(0))
    with torch.no_grad():
        net.model[3][0].weight.mul_(2)
        net.model[3][1].running_mean.add_(0.5)
    assert torch.equal(graphed(_image(1)).cpu(), _net_of(net, _image(1)))
    assert len(captures) == 2
    state = {name: t.cpu() * 1.5 if t.is_floating_point() else t.cpu() for name, t in net.state_dict().items()}
    net.load_state_dict(state)
    assert torch.equal(graphed(_image(1)).cpu(), _net_of(net, _image(1)))
    with torch.no_grad():  # the head is not folded: its kernel reads the parameter
        net.fc.bias.add_(1)
    assert torch.equal(graphed(_image(1)).cpu(), _net_of(net, _image(1)))
    assert len(captures) == 3


def test_without_watching_captures_are_made_by_hand(captures: list[int]) -> None:
    net = _net()
    graphed = mbv1.graphed(net, _image(0), watch=False)
    with torch.no_grad():
        net.model[3][0].weight.mul_(2)
    graphed(_image(1))
    assert len(captures) == 1
    graphed.capture()
    assert len(captures) == 2
    assert torch.equal(graphed(_image(1)).cpu(), _net_of(net, _image(1)))


def test_on_another_stream(captures: list[int]) -> None:
    net = _net()
    graphed = mbv1.graphed(net, _image(0))
    x, stream = _image(1), torch.cuda.Stream()
    graphed(_image(2))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y = graphed(x)
    stream.synchronize()
    assert torch.equal(y.cpu(), _net_of(net, x))


def _refused(call: Callable[[], object], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"mbv1.graphed: {expected}")):
        call()


def test_errors(captures: list[int]) -> None:
    net, x = _net(), _image(0)
    _refused(lambda: mbv1.graphed(net, x.cpu()), "example: expected a tensor on a CUDA device, got one on cpu")
    other = torch.nn.Identity()
    _refused(lambda: mbv1.graphed(other, x), "model: expected an mbv1.MobileNetV1, got Identity")  # type: ignore[arg-type]
    graphed = mbv1.graphed(net, x)
    wanted = "x: expected (1, 3, 32, 32) float32 on cuda:0 as the example, got"
    _refused(lambda: graphed(_image(0, 2, 3, 32, 32)), f"{wanted} (2, 3, 32, 32) float32 on cuda:0")
    _refused(lambda: graphed(x.half()), f"{wanted} (1, 3, 32, 32) float16 on cuda:0")
    _refused(lambda: graphed(x.cpu()), f"{wanted} (1, 3, 32, 32) float32 on cpu")
    net.train()
    in_training = "model: expected a model in evaluation mode (model.eval()), got one in training mode"
    _refused(lambda: graphed(x), in_training)
    _refused(lambda: mbv1.graphed(net, x), in_training)
    net.eval()
    net.model[2][1].train()
    in_part = "model: expected every module in evaluation mode, got ['model.2.1'] in training mode"
    _refused(lambda: mbv1.graphed(net, x), in_part)
