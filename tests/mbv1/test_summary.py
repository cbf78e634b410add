"""Exact counts, against the figures of the paper."""

import pytest
import torch
from torch import nn

from mbv1 import MobileNetV1, summarize
from mbv1.summary import PAPER


@pytest.mark.parametrize(
    ("width", "resolution", "multiply_adds", "parameters"),
    [
        (1.0, 224, 568_740_352, 4_231_976),
        (0.75, 224, 325_400_448, 2_585_560),
        (0.5, 224, 149_497_088, 1_331_592),
        (0.25, 224, 41_030_272, 470_072),
        (1.0, 192, 418_121_728, 4_231_976),
        (1.0, 160, 290_675_200, 4_231_976),
        (1.0, 128, 186_400_768, 4_231_976),
    ],
)
def test_exact_counts(width, resolution, multiply_adds, parameters):
    net = MobileNetV1(width_mult=width, device="meta")
    summary = summarize(net, resolution)
    assert (summary.multiply_adds, summary.parameters) == (multiply_adds, parameters)
    assert parameters == sum(p.numel() for p in net.parameters())
    assert len(summary.layers) == 28


@pytest.mark.parametrize("key", PAPER, ids=str)
def test_the_papers_figures(key):
    width, resolution, variant = key
    net = MobileNetV1(
        width_mult=width,
        shallow=variant == "shallow",
        separable=variant != "full convolutions",
        device="meta",
    )
    summary = summarize(net, resolution)
    multiply_adds, parameters = PAPER[key]
    # Rounded or truncated in print; 4866 M leaves out the classifier's 1 M.
    assert summary.multiply_adds / 1e6 == pytest.approx(multiply_adds, abs=1.5 if variant else 1)
    assert summary.parameters / 1e6 == pytest.approx(parameters, abs=0.05)


def test_the_papers_small_example():
    """5x5, 3 to 3 channels: 225 parameters standard, 84 separable."""
    standard = nn.Conv2d(3, 3, 5, padding=2, bias=False)
    separable = nn.Sequential(nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    assert summarize(standard, 8).parameters == 225
    assert summarize(separable, 8).parameters == 84
    assert summarize(standard, 8).multiply_adds == 225 * 64
    assert summarize(separable, 8).multiply_adds == 84 * 64


def test_counts_follow_the_module():
    net = MobileNetV1(n_classes=10, width_mult=0.25, fused=True)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    full = summarize(net, (64, 32))
    net.fc = nn.Linear(256, 20)
    assert summarize(net, (64, 32)).parameters - full.parameters == 10 * 257
    assert full.layers[0].output == (8, 32, 16)
    assert net.fused
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items() if not k.startswith("fc"))
    assert not net.model[0][0]._forward_hooks


def test_no_convolution():
    with pytest.raises(ValueError, match="expected one with a convolution, got Linear"):
        summarize(nn.Linear(2, 2))
