"""mbv1.frozen: the same results as the net that it was made of, and of nothing but its own weights."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import mbv1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "same", "activation": "relu6"},
        {"padding": "keras", "conv_bias": True, "activation": "hardswish"},
        {"separable": False},
        {"backend": "torch"},
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_net(options, layout, make):
    net = make(**options)
    model = mbv1.frozen(net)
    with torch.no_grad():
        for size in (33, 48):
            x = torch.randn(2, 3, size, 32).to(memory_format=layout)
            torch.testing.assert_close(model(x), net(x))
            features = model.forward_features(x)
            torch.testing.assert_close(features, net.forward_features(x))
            assert features.is_contiguous(memory_format=layout)


def test_without_strassen(make):
    """Other rounding errors where layers have the channels for it, at most twice torch's without it."""
    net = make()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        usual, other = mbv1.frozen(net, strassen=False)(x), mbv1.frozen(net)(x)
        assert not torch.equal(usual, other)
        torch.testing.assert_close(usual, other)
        exact = copy.deepcopy(net).double()(x.double())
        net.fused = False
        error, allowed = ((y.double() - exact).abs().max().item() for y in (usual, net(x)))
        assert error <= 2 * allowed + torch.finfo(torch.float32).eps * exact.abs().max().item()


def test_layers_that_were_changed_in_place(make):
    net = make()
    net.model[4][0].stride = (1, 1)
    net.model[5][0].dilation, net.model[5][0].padding = (2, 2), (2, 2)
    net.fc = nn.Sequential(nn.Linear(net.fc.in_features, 3), nn.Sigmoid())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(mbv1.frozen(net)(x), net(x))


def test_rounds_once(make):
    """To another dtype than the net's: from the fold in float32, closer than a net that was cast before."""
    net = make()
    x = torch.randn(4, 3, 64, 64).bfloat16()
    with torch.no_grad():
        exact = copy.deepcopy(net).double()(x.double())
        model = mbv1.frozen(net, torch.bfloat16)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        y = model(x)
        assert y.dtype == torch.bfloat16
        cast = copy.deepcopy(net).bfloat16()(x)
        assert (y.double() - exact).abs().max() <= 1.25 * (cast.double() - exact).abs().max()
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(model(x), y)
        with pytest.raises(RuntimeError, match="expected dtype float32 as x, got bfloat16"):
            model(x.float())
    assert net.fc.weight.dtype == torch.float32


def prefixed(state):
    """Of a module that has the one with ``state`` as its first."""
    return {f"0.{name}": value for name, value in state.items()}


def test_follows_nothing_but_its_own_state(make):
    net, other = make(), make()
    x = torch.randn(1, 3, 32, 32)
    model = mbv1.frozen(net)
    with torch.no_grad():
        before = model(x)
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.mul_(2)
        assert torch.equal(model(x), before)
        # Alone, and as part of a module that is loaded as a whole.
        for load in (model.load_state_dict, lambda state: nn.Sequential(model).load_state_dict(prefixed(state))):
            other.model[1][3].weight.mul_(1.5)
            other.fc.weight.mul_(0.5)
            before = model(x)
            load(mbv1.frozen(other).state_dict())
            torch.testing.assert_close(model(x), other(x))
            assert not torch.allclose(model(x), before, rtol=1e-3)
        y, wanted = model.double()(x.double()), other.double()(x.double())
        torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(way, make):
    model = mbv1.frozen(make())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
    if way == "deepcopy":
        twin = copy.deepcopy(model)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert twin._kept is None
    with torch.no_grad():
        assert torch.equal(twin(x), before)


def test_gradient_of_the_input(make):
    net = make().requires_grad_(False)
    model = mbv1.frozen(net)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model(x)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    model(ours).sum().backward()
    net(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert not any(p.requires_grad for p in model.parameters())


def test_made_in_inference_mode(make):
    with torch.inference_mode():
        model = mbv1.frozen(make())
    assert not any(p.is_inference() for p in model.parameters())
    model.half().float()


def test_compile_and_export(make):
    model = mbv1.frozen(make())
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)
        shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
        program = torch.export.export(model, (x,), dynamic_shapes=shapes)
        torch.testing.assert_close(program.module()(x[:1]), expected[:1])
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    blocks = len(model.convs) // 2
    assert len(targets) == blocks + 2, targets  # no arithmetic on weights
    assert sum("separable_conv2d" in target for target in targets) == blocks


@pytest.mark.parametrize("change", [{"fused": False}, {"training": True}], ids=str)
def test_refuses(change, make):
    net = make()
    for name, value in change.items():
        setattr(net, name, value)
    with pytest.raises(ValueError, match=r"mbv1\.frozen: model: expected a fused MobileNetV1 in evaluation mode"):
        mbv1.frozen(net)
