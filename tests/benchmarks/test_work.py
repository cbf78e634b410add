"""Counts against numbers worked out by hand, and against the totals that are known of MobileNetV1."""

import pytest
import torch
from torch import nn

from benchmarks.roofline import Roofline
from benchmarks.work import Work, fused, layers_of, total
from mbv1 import MobileNetV1


def test_bytes_and_flops_of_one_kernel_by_hand():
    # 2 x 3 planes: 4x4 in, 2x2 out, 3x3 taps; 3 filters of 9 weights and a bias; then 3 to 5 channels.
    dw = nn.Conv2d(3, 3, 3, 2, 1, groups=3)
    pw = nn.Conv2d(3, 5, 1)
    (layer,) = layers_of(dw, (2, 3, 4, 4))
    assert layer.work(2) == Work((2 * 3 * 16 + 2 * 3 * 4 + 3 * 10) * 2, 2 * (2 * 3 * 4 * 9))
    layers = layers_of(nn.Sequential(dw, pw), (2, 3, 4, 4))
    flops = 2 * (2 * 3 * 4 * 9 + 2 * 5 * 4 * 3)
    assert fused(layers, 2) == Work((2 * 3 * 16 + 3 * 10 + 5 * 4 + 2 * 5 * 4) * 2, flops)
    assert total(layers, 2) == Work(fused(layers, 2).bytes + 2 * (2 * 3 * 4) * 2, flops)


def test_first_depthwise_layer_by_hand():
    (layer,) = layers_of(nn.Conv2d(32, 32, 3, 1, 1, groups=32), (1, 32, 112, 112))
    assert layer.work(4) == Work(4 * (2 * 401_408 + 320), 2 * 3_612_672)


def test_layers_of_a_small_net():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    layers = layers_of(net, (2, 3, 8, 8))
    assert [layer.kind for layer in layers] == ["conv", "dw", "pw", "linear"]
    assert [layer.flops for layer in layers] == [2 * 256 * 27, 2 * 256 * 9, 2 * 512 * 8, 2 * 20 * 16]
    assert [layer.weights for layer in layers] == [8 * 27 + 8, 8 * 9 + 8, 16 * 8 + 16, 160 + 10]
    # The linear layer reads what the pooling would: the last convolution's whole output.
    assert layers[-1].inputs == 2 * 16 * 16
    assert next(net.parameters()).device.type == "cpu"


@pytest.fixture(scope="module")
def layers():
    return layers_of(MobileNetV1(), (1, 3, 224, 224))


def test_whole_net_has_the_known_multiply_adds_and_parameters(layers):
    assert sum(layer.flops for layer in layers) == 2 * 568_740_352
    # Batch norm's gamma and beta are 2 per channel; folded, 1 remains: the bias.
    convolutions = sum(layer.outputs // (layer.height * layer.width // layer.stride**2) for layer in layers[:-1])
    assert sum(layer.weights for layer in layers) == 4_231_976 - convolutions


def test_bytes_of_the_net_at_batch_128_in_half_precision():
    layers = layers_of(MobileNetV1(), (128, 3, 224, 224))
    megabytes = Roofline(bandwidth=1e6, fma=1e30)
    assert megabytes.layers_bound(layers, torch.float16) == pytest.approx(2629, abs=1)
    assert megabytes.blocks_bound(layers, torch.float16) == pytest.approx(1640, abs=1)


@pytest.mark.parametrize("batch, layers_us, blocks_us", [(1, 9.6, 7.1), (32, 222, 139), (128, 880, 551)])
def test_bounds_of_a_known_gpu(batch, layers_us, blocks_us):
    h100 = Roofline(bandwidth=3.0e12, fma=67e12, gemm={torch.float16: 989e12})
    layers = layers_of(MobileNetV1(), (batch, 3, 224, 224))
    assert h100.layers_bound(layers, torch.float16) * 1e6 == pytest.approx(layers_us, rel=0.01)
    assert h100.blocks_bound(layers, torch.float16) * 1e6 == pytest.approx(blocks_us, rel=0.01)


def test_bound_is_the_slower_limit():
    roofline = Roofline(bandwidth=100.0, fma=10.0)
    assert roofline.bound(Work(bytes=1000, flops=50)) == 10.0
    assert roofline.bound(Work(bytes=100, flops=50)) == 5.0
    assert roofline.bound(Work(bytes=100, flops=50), rate=50.0) == 1.0


def test_depthwise_layers_have_no_matrix_units():
    roofline = Roofline(bandwidth=1.0, fma=10.0, gemm={torch.float16: 100.0, torch.bfloat16: 1.0})
    assert roofline.rate("dw", torch.float16) == 10.0
    assert roofline.rate("pw", torch.float16) == 100.0
    assert roofline.rate("pw", torch.bfloat16) == 10.0
