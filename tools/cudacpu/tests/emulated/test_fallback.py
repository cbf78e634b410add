"""Modules, autograd and comparisons on the emulated device with CpuFallbackMode."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cudacpu.fallback import CpuFallbackMode


@pytest.fixture(autouse=True)
def fallback_mode():
    with CpuFallbackMode():
        yield


class Scale(torch.autograd.Function):
    """A custom op that runs its real CUDA kernel forward and backward."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        if x.is_cuda:
            return torch.ops.cudacpu_test.scale(x, factor, 0.0)
        return x * factor

    @staticmethod
    def backward(ctx, gradient):
        if gradient.is_cuda:
            return torch.ops.cudacpu_test.scale(gradient, ctx.factor, 0.0), None
        return gradient * ctx.factor, None


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 32, 3, stride=2)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.relu(self.second(Scale.apply(x, 1.5)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def test_network_forward_backward_and_step():
    torch.manual_seed(0)
    reference = Network()
    network = copy.deepcopy(reference).cuda()
    x, target = torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))
    expected = F.cross_entropy(reference(x), target)
    expected.backward()
    loss = F.cross_entropy(network(x.cuda()), target.cuda())
    loss.backward()
    assert loss.is_cuda
    torch.testing.assert_close(loss.cpu(), expected)
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        assert ours.grad.is_cuda
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad)
    optimizer = torch.optim.Adam(network.parameters())
    optimizer.step()
    assert not torch.equal(network.classifier.weight.cpu(), reference.classifier.weight)
    torch.testing.assert_close(network.norm.running_mean.cpu(), reference.norm.running_mean)


def test_opcheck():
    @torch.library.register_fake("cudacpu_test::scale")
    def _(x, factor, offset):
        return torch.empty_like(x)

    torch.library.opcheck(torch.ops.cudacpu_test.scale.default, (torch.randn(8).cuda(), 2.0, 0.5))


def test_channels_last_is_kept():
    x = torch.randn(2, 8, 5, 5)
    y = x.cuda().contiguous(memory_format=torch.channels_last)
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(y.cpu(), x)


def test_channels_last_is_kept_by_operators():
    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last).cuda()
    y = F.conv2d(x, torch.randn(4, 8, 3, 3).cuda())
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_views_alias_and_in_place_operations():
    x = torch.zeros(4, 5, device="cuda")
    x.t()[1].add_(3)
    x[x > 2] = 1
    assert x.sum().item() == 4 and torch.equal(x[:, 1], torch.ones(4, device="cuda"))
    torch.testing.assert_close(x, x.clone())


def test_operators_called_by_the_extension_fall_back(ops):
    x = torch.randn(6, 7).cuda().t()  # scale() calls contiguous(), which needs a PyTorch kernel
    torch.testing.assert_close(ops.scale(x, 2.0, 1.0), x * 2 + 1)


def test_attention_and_random_numbers():
    q, k, v = (torch.randn(1, 2, 8, 16, device="cuda", requires_grad=True) for _ in range(3))
    F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert q.grad.is_cuda
    generator = torch.Generator("cuda").manual_seed(3)
    first, second = (torch.rand(4, device="cuda", generator=generator) for _ in range(2))
    again = torch.rand(4, device="cuda", generator=torch.Generator("cuda").manual_seed(3))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_uninitialised_memory_is_nan():
    assert torch.isnan(torch.empty(100, device="cuda")).all()
