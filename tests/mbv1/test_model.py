"""The module itself: names, options, and the fused paths against plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mbv1.blocks
import mbv1.model
from mbv1 import MobileNetV1
from mbv1.architecture import BLOCKS, pads, scaled, width_from

VARIANTS = {
    "published": {},
    "tensorflow": {"activation": "relu6", "padding": "same", "bn_eps": 1e-3, "n_classes": 11},
    "keras": {"activation": "relu6", "padding": "keras", "conv_bias": True},
    "hardswish": {"activation": "hardswish", "ch_in": 1},
    "shallow": {"activation": "silu", "shallow": True, "ch_in": 5},
    "dense": {"separable": False, "shallow": True, "padding": "same"},
}


def small(randomize, **options):
    defaults = {"n_classes": 7, "width_mult": 0.25, "shallow": True}
    return randomize(MobileNetV1(**{**defaults, **options})).eval()


def published() -> nn.Module:
    """The published code, written down once more: what the names and the defaults are checked against."""

    def conv_bn(i, o, s):
        return nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())

    def conv_dw(i, o, s):
        return nn.Sequential(
            *(nn.Conv2d(i, i, 3, s, 1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU()),
            *(nn.Conv2d(i, o, 1, 1, 0, bias=False), nn.BatchNorm2d(o), nn.ReLU()),
        )

    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    layers, channels = [conv_bn(3, 32, 2)], 32
    for out, stride in plan:
        layers.append(conv_dw(channels, out, stride))
        channels = out
    net = nn.Module()
    net.model = nn.Sequential(*layers, nn.AvgPool2d(2))
    net.fc = nn.Linear(1024, 1000)
    net.forward = lambda x: net.fc(net.model(x).flatten(1))
    return net


def test_defaults_are_the_published_net(randomize):
    theirs = randomize(published()).eval()
    ours = MobileNetV1().eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    ours.fused = True
    assert list(ours.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (7, 1)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_equals_unfused(variant, size, randomize):
    net = small(randomize, **VARIANTS[variant]).double()
    if variant == "keras":
        size = [max(length, 33) for length in size]
    x = torch.randn(2, net.ch_in, *size, dtype=torch.float64)
    with torch.no_grad():
        expected, features = net(x), net.forward_features(x)
        net.fused = True
        torch.testing.assert_close(net(x), expected)
        torch.testing.assert_close(net.forward_features(x), features)


def test_fused_runs_on_the_librarys_ops(randomize, monkeypatch):
    calls = []
    for module, name in [
        (mbv1.blocks, "stem_conv2d"),
        (mbv1.folded, "separable_conv2d"),
        (mbv1.folded, "pool_linear"),
    ]:
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _r=real, _n=name, **k: (calls.append((_n, k["backend"])), _r(*a, **k))[1]
        )
    net = small(randomize, shallow=False, fused=True, backend="torch")
    net(torch.randn(1, 3, 32, 32))
    assert [n for n, _ in calls] == ["stem_conv2d", *["separable_conv2d"] * 13, "pool_linear"]
    assert {b for _, b in calls} == {"torch"}


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced", "expanded"])
def test_layouts(layout, randomize):
    net = small(randomize, fused=True)
    x = torch.randn(2, 3, 40, 40)
    expected = small(randomize)(x).detach()
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
        net = net.to(memory_format=torch.channels_last)
    elif layout == "sliced":
        wide = torch.randn(2, 5, 44, 44)
        wide[:, 1:4, 2:42, 3:43] = x
        x = wide[:, 1:4, 2:42, 3:43]
    elif layout == "expanded":
        x = x[:1].expand(2, -1, -1, -1)
        expected = small(randomize)(x).detach()
    with torch.no_grad():
        features = net.forward_features(x)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)
    if layout == "channels_last":
        assert features.is_contiguous(memory_format=torch.channels_last)


def test_empty_batch(randomize):
    net = small(randomize, fused=True)
    assert net(torch.empty(0, 3, 32, 32)).shape == (0, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["cast", "autocast"])
def test_low_precision(dtype, how, randomize):
    """The fused error is at most twice torch's at the same precision, against float64."""
    net = small(randomize)
    x = torch.randn(4, 3, 64, 64)
    exact = small(randomize).double()(x.double()).detach()
    if how == "cast":
        net, x = net.to(dtype), x.to(dtype)
    results = []
    for fused in (False, True):
        net.fused = fused
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=how == "autocast"):
            y = net(x)
        assert y.dtype == dtype
        results.append((y.double() - exact).abs().max().item())
    assert results[1] <= 2 * results[0] + 1e-3, results


def test_mixed_dtypes_are_an_error(randomize):
    net = small(randomize, fused=True).half()
    with pytest.raises(Exception, match=r"(?i)half|float16|type"), torch.no_grad():
        net(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_in_evaluation(variant, randomize):
    net = small(randomize, **VARIANTS[variant]).double()
    x = torch.randn(2, net.ch_in, 33, 38, dtype=torch.float64, requires_grad=True)
    grads = {}
    for fused in (False, True):
        net.fused = fused
        grads[fused] = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    for ours, torchs in zip(grads[True], grads[False], strict=True):
        torch.testing.assert_close(ours, torchs)


def test_gradient_of_the_input_with_a_kept_fold(randomize):
    """The fold may have been made in inference mode: autograd must still be able to save it."""
    net = small(randomize, fused=True).double().requires_grad_(False)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        net(x)
    x.requires_grad_()
    grads = [torch.autograd.grad(n(x).sum(), x)[0] for n in (net, small(randomize).double())]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_equals_torch(variant, randomize):
    options = {**VARIANTS[variant], "bn_momentum": 0.3}
    nets = {fused: small(randomize, fused=fused, **options).double().train() for fused in (False, True)}
    x = torch.randn(3, nets[True].ch_in, 33, 38, dtype=torch.float64)
    optimizers = {f: torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9) for f, net in nets.items()}
    for _ in range(2):
        losses = {}
        for fused, net in nets.items():
            losses[fused] = net(x).logsumexp(1).mean()
            optimizers[fused].zero_grad()
            losses[fused].backward()
            optimizers[fused].step()
        torch.testing.assert_close(losses[True], losses[False])
    for name, value in nets[True].state_dict().items():
        torch.testing.assert_close(value, nets[False].state_dict()[name], msg=lambda m, n=name: f"{n}: {m}")
    assert nets[True].model[1][1].num_batches_tracked == 2


def test_frozen_batch_norm_in_training(randomize):
    nets = [small(randomize, fused=f).double().train() for f in (False, True)]
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for net in nets:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    torch.testing.assert_close(nets[1](x), nets[0](x))
    # And the other way round: one that still learns cannot be folded.
    for net in nets:
        net.eval().model[3][1].train()
    torch.testing.assert_close(nets[1](x), nets[0](x))
    torch.testing.assert_close(nets[1].model[3][1].running_mean, nets[0].model[3][1].running_mean)


def test_dropout(randomize):
    net = small(randomize, dropout=0.9, fused=True)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), net(x))
    net.requires_grad_(False).train()
    assert not torch.equal(net(x), net(x))


def test_another_head(randomize):
    net = small(randomize)
    x = torch.randn(2, 3, 32, 32)
    for head in (nn.Identity(), nn.Linear(256, 3, bias=False), nn.Sequential(nn.Linear(256, 4), nn.Tanh())):
        net.fc = head
        net.fused = False
        expected = net(x)
        net.fused = True
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


def atrous(net):
    """The usual surgery for segmentation: the last stage keeps its resolution."""
    net.model[7][0].stride = (1, 1)
    net.model[8][0].dilation, net.model[8][0].padding = (2, 2), (2, 2)
    net.model[0][0].dilation = (2, 2)


def finer(net):
    depthwise = next(block[0] for block in net.model[2:] if getattr(block[0], "stride", None) == (2, 2))
    depthwise.stride, depthwise.dilation, depthwise.padding = (1, 1), (2, 2), (2, 2)


def other_activation(net):
    net.model[2][2] = nn.Tanh()


def no_batch_norm(net):
    net.model[3][1] = nn.Identity()


def batch_statistics(net):
    channels = net.model[4][1].num_features
    net.model[4][1] = nn.BatchNorm2d(channels, track_running_stats=False).double().eval()


def longer_block(net):
    net.model[5].append(nn.Tanh())


def other_pool(net):
    net.model[-1] = nn.AdaptiveMaxPool2d(1)


@pytest.mark.parametrize(
    "surgery", [atrous, finer, other_activation, no_batch_norm, batch_statistics, longer_block, other_pool]
)
def test_surgery(surgery, randomize):
    net = small(randomize, fused=True).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = net(x)
        surgery(net)
        after = net(x)
        net.fused = False
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation: expected one of none, relu"),
        ({"padding": "valid"}, "padding: expected one of symmetric, same, keras, got 'valid'"),
        ({"backend": "cudnn"}, "backend: expected one of auto"),
        ({"ch_in": 0}, "ch_in: expected an integer >= 1, got 0"),
        ({"n_classes": 2.5}, "n_classes: expected an integer >= 1, got 2.5"),
        ({"width_mult": 0}, "width_mult: expected a number > 0, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MobileNetV1(**options)


def test_repr(randomize):
    net = small(randomize, fused=True, padding="same")
    assert "ch_in=3, n_classes=7, width_mult=0.25" in repr(net)
    assert "stride=(2, 2), bias=False, pads=same, backend=auto" in repr(net)
    net.fused = False
    assert "backend=auto)" not in repr(net)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding(size, stride):
    """TensorFlow's definition: ceil(size / stride) outputs, the odd pixel after the end."""
    top, bottom, left, right = pads("same", 3, stride, (size, size), dense=True)
    assert (top, bottom) == (left, right)
    assert 0 <= bottom - top <= 1
    assert (size + top + bottom - 3) // stride + 1 == -(-size // stride)


def test_channels():
    assert [scaled(c, 0.75, 8) for c in (32, 64, 1024)] == [24, 48, 768]
    assert (scaled(32, 0.1, 8), scaled(32, 0.1, 1)) == (8, 3)
    for percent in range(3, 200):
        width = percent / 100
        found = width_from(scaled(1024, width, 1), 1024, 1)
        assert [scaled(c, found, 1) for c, _ in BLOCKS] == [scaled(c, width, 1) for c, _ in BLOCKS]
    assert width_from(256, 1024, 8) == 0.25


def test_padding_of_the_stem_in_plain_torch(randomize):
    net = small(randomize, padding="same")
    conv = net.model[0][0]
    x = torch.randn(1, 3, 32, 33)
    expected = F.conv2d(F.pad(x, [1, 1, 0, 1]), conv.weight, stride=2)
    torch.testing.assert_close(conv(x), expected)
