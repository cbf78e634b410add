"""The net that comes with the package: a trained one, against what Keras gives for four photographs."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch

from mbv1 import MobileNetV1
from mbv1.images import classify, load_net

CONVENTIONS = {"activation": "relu", "padding": "same", "bn_eps": 1e-3}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "fixtures" / "vww_0.25_96_expected.npz") as arrays:
        return dict(arrays)


def shipped(**options) -> MobileNetV1:
    with as_file(files("mbv1") / "weights") as folder:
        return MobileNetV1.from_pretrained(folder / "vww_0.25_96_weights.npz", **{**CONVENTIONS, **options})


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
@pytest.mark.parametrize("fused", [False, True])
def test_meets_keras(fused, layout, expected):
    net = shipped(fused=fused)
    x = torch.from_numpy(expected["input_u8"]).float().permute(0, 3, 1, 2)
    assert x.is_contiguous(memory_format=torch.channels_last)
    if layout == "nchw":
        x = x.contiguous()
    elif layout == "sliced":
        x = torch.nn.functional.pad(x, [3, 2, 1, 4], value=255)[:, :, 1:97, 3:99]
    with torch.no_grad():
        pooled, probabilities = net.forward_features(x).mean((2, 3)), net(x).softmax(1)
    torch.testing.assert_close(pooled, torch.from_numpy(expected["keras_pool"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(probabilities, torch.from_numpy(expected["keras_prob"]), rtol=0, atol=1e-5)


def test_conventions_come_from_the_arrays():
    net = shipped()
    assert (net.conv_bias, net.n_classes, net.width_mult, net.ch_in) == (True, 2, 0.25, 3)
    assert not net.training


@pytest.mark.parametrize("wrong", [{"padding": "symmetric"}, {"activation": "relu6"}, {"bn_eps": 1e-5}])
def test_a_wrong_convention_shows(wrong, expected):
    x = torch.from_numpy(expected["input_u8"]).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        probabilities = shipped(**wrong)(x).softmax(1)
    assert (probabilities - torch.from_numpy(expected["keras_prob"])).abs().max() > 1e-4


def test_card(expected):
    net, card = load_net()
    assert (card.resolution, card.label(0), card.label(1), card.label(2)) == (
        96,
        "person",
        "non_person",
        "class 2",
    )
    for pixels, probabilities in zip(expected["input_u8"], expected["keras_prob"], strict=True):
        photo = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
        found = dict(classify(net, card, photo))
        assert found["person"] == pytest.approx(probabilities[0], abs=1e-5)
        assert found["non_person"] == pytest.approx(probabilities[1], abs=1e-5)
