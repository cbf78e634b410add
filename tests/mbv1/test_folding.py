"""The fold is right, and follows whatever happens to the tensors that it came from."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import mbv1
from mbv1 import MobileNetV1, fold_conv_bn


def reference(net: MobileNetV1, x: torch.Tensor) -> torch.Tensor:
    """What ``net`` gives without its fused path."""
    net.fused = False
    try:
        with torch.no_grad():
            return net(x)
    finally:
        net.fused = True


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 6])
def test_formula(bias, groups, randomize):
    pair = nn.Sequential(nn.Conv2d(6, 6, 3, groups=groups, bias=bias), nn.BatchNorm2d(6, eps=0.1))
    randomize(pair).double().eval()
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    weight, shift = fold_conv_bn(*pair)
    folded = torch.nn.functional.conv2d(x, weight, shift, groups=groups)
    torch.testing.assert_close(folded, pair(x))
    if groups == 6:
        assert weight.permute(1, 2, 3, 0).is_contiguous()


def test_fold_of_half_is_made_in_float32(randomize):
    pair = randomize(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))).half()
    exact, _ = fold_conv_bn(*copy.deepcopy(pair).double())
    weight, _ = fold_conv_bn(*pair)
    assert weight.dtype == torch.float16
    torch.testing.assert_close(weight.double(), exact, rtol=2**-11 * 1.01, atol=0)


def load(net):
    net.load_state_dict({k: v * 1.5 if v.is_floating_point() else v for k, v in net.state_dict().items()})


def load_assign(net):
    state = {k: v * 1.5 if v.is_floating_point() else v for k, v in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def step(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with torch.enable_grad():
        net(torch.ones(1, 3, 32, 32)).sum().backward()
    optimizer.step()


def running_statistics(net):
    net.train()
    net(torch.randn(4, 3, 32, 32) + 3)
    net.eval()


def batch_norm_alone(net):
    bn = net.model[2][4].train()
    bn(torch.randn(8, bn.num_features, 4, 4) + 5)
    bn.eval()


def in_place(net):
    with torch.no_grad():
        net.model[4][3].weight.mul_(1.5)


def in_place_buffer(net):
    net.model[4][1].running_var.mul_(3)


def in_place_in_inference_mode(net):
    with torch.inference_mode():
        net.model[4][0].weight.add_(0.2)


def data_swapped(net):
    net.model[1][3].weight.data = net.model[1][3].weight.data * 2


def data_swapped_twice(net):
    # The second time the allocator likes to give the first address back.
    weight = net.model[1][3].weight
    weight.data = weight.data * 2
    weight.data = weight.data * 2


def new_parameter(net):
    net.model[2][0].weight = nn.Parameter(net.model[2][0].weight.detach() * 2)


def new_parameter_in_the_same_memory(net):
    old = net.model[2][0].weight
    new = net.model[2][0].weight = nn.Parameter(old.data)
    with torch.no_grad():
        new.mul_(2)
        while new._version < old._version:
            new.add_(0)
    assert new._version == old._version


def new_module(net):
    bn = net.model[3][1]
    net.model[3][1] = nn.BatchNorm2d(bn.num_features).eval()


def epsilon(net):
    net.model[5][1].eps = 0.5


def head(net):
    with torch.no_grad():
        net.fc.weight.mul_(2)


def halved_and_back(net):
    # The allocator likes to give the first address back.
    net.model[1].half()
    net.model[1].float()
    with torch.no_grad():
        net.model[6][0].weight.mul_(1.1)


def data_written_and_refolded(net):
    net.model[1][3].weight.data.mul_(2)
    net.refold()


def data_written_then_eval(net):
    net.model[1][3].weight.data.mul_(2)
    net.eval()


def channels_last(net):
    net.to(memory_format=torch.channels_last)
    in_place(net)


CHANGES = [
    *(load, load_assign, step, running_statistics, batch_norm_alone, in_place, in_place_buffer),
    *(
        in_place_in_inference_mode,
        data_swapped,
        data_swapped_twice,
        new_parameter,
        new_parameter_in_the_same_memory,
        new_module,
        epsilon,
        head,
        halved_and_back,
    ),
    *(data_written_and_refolded, data_written_then_eval, channels_last),
]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_follows(change, mode, make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with mode():
        before = net(x)
    change(net)
    with mode():
        after = net(x)
    expected = reference(net, x)
    assert not torch.allclose(before, expected, rtol=1e-3, atol=1e-3), "the change does not show"
    torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4)


def test_follows_exchanged_activations(make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
        net.activation = "silu"
        for block in net.model[:-1]:
            for i in range(2, len(block), 3):
                block[i] = nn.SiLU()
        expected = reference(net, x)
        assert not torch.allclose(before, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-4)


def test_follows_strides_and_dilations(make):
    net = make()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net(x)
        net.model[4][0].stride = (1, 1)
        net.model[5][0].dilation, net.model[5][0].padding = (2, 2), (2, 2)
        expected = reference(net, x)
        assert not torch.allclose(before, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-4)


def test_follows_biases_of_convolutions(make):
    net = make(conv_bias=True)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        net(x)
        net.model[4][3].bias.add_(1)
        torch.testing.assert_close(net(x), reference(net, x), rtol=1e-3, atol=1e-4)


def test_follows_casts(make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float32):
            net.to(dtype)
            assert net._fold is None
            y = net(x.to(dtype))
            assert y.dtype == dtype
            tolerance = {torch.float64: 1e-9, torch.float16: 0.1, torch.bfloat16: 0.8, torch.float32: 1e-3}[dtype]
            torch.testing.assert_close(y, reference(net, x.to(dtype)), rtol=tolerance, atol=tolerance)


def test_autocast_and_back(make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x).dtype == torch.bfloat16
        assert torch.equal(net(x), first)


def test_autocast_first(make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            net(x)
        assert net._fold.dtype == torch.bfloat16
        torch.testing.assert_close(net(x), reference(net, x), rtol=1e-3, atol=1e-4)


def test_kept_while_nothing_changes(make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        net(x)
        fold = net._fold
        net(x)
        assert net._fold is fold is not None
        assert not any("_fold" in name for name in net.state_dict())


def test_not_kept_where_gradients_are_wanted(make):
    net = make()
    net(torch.randn(1, 3, 32, 32))
    assert net._fold is None


def test_inference_tensors(make):
    """They have no version counter: nothing is kept, and every change shows."""
    with torch.inference_mode():
        net = make()
        assert net.fc.weight.is_inference()
        x = torch.randn(1, 3, 32, 32)
        net(x)
        in_place(net)
        in_place_buffer(net)
        torch.testing.assert_close(net(x), reference(net, x), rtol=1e-3, atol=1e-4)


def test_fold_of_inference_mode_serves_gradients_of_the_input(make):
    net = make().requires_grad_(False)
    with torch.inference_mode():
        net(torch.randn(1, 3, 32, 32))
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    net(x).sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_independent(way, make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
    if way == "deepcopy":
        twin = copy.deepcopy(net)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(net))
    else:
        buffer = io.BytesIO()
        torch.save(net, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert net._fold is not None
    assert twin._fold is None
    with torch.no_grad():
        assert torch.equal(twin(x), before)
        in_place(twin)
        torch.testing.assert_close(twin(x), reference(twin, x), rtol=1e-3, atol=1e-4)
        assert torch.equal(net(x), before)


@pytest.mark.parametrize("frozen", [False, True])
def test_replicas_have_weights_of_their_own(frozen, make):
    """As DataParallel makes them: copies of all attributes, with other tensors."""
    net, other = make(), make()
    if frozen:
        net, other = mbv1.frozen(net), mbv1.frozen(other)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
        replica = net._replicate_for_data_parallel()
        for name, module in other.named_children():
            setattr(replica, name, module)
        torch.testing.assert_close(replica(x), other(x))
        assert torch.equal(net(x), before)


def test_parametrized_weights(make):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    net = make()
    x = torch.randn(1, 3, 32, 32)
    torch.nn.utils.parametrize.register_parametrization(net.model[1][3], "weight", Double())
    with torch.no_grad():
        net(x)
        net.model[1][3].parametrizations.weight.original.mul_(1.5)
        torch.testing.assert_close(net(x), reference(net, x), rtol=1e-3, atol=1e-4)
