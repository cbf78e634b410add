from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mbv1 import MobileNetV1


def _randomize(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and running statistics under which every convention shows in the logits.

    Kernels are smaller than He's by what the batch norms amplify, so that activations neither vanish nor
    grow; small variances make epsilon show, and shifts make clipping at 6 and padding show.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator, dtype=torch.float64) * (high - low) + low

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(uniform(module.weight, 0.5, 2.5))
                module.bias.copy_(uniform(module.bias, -0.5, 1.5))
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(uniform(module.running_var, 0.05, 1.5))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                bound = (1.5 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(uniform(module.weight, -bound, bound))
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.5, 0.5))
    return net


@pytest.fixture
def randomize() -> Callable[..., nn.Module]:
    return _randomize


@pytest.fixture
def make() -> Callable[..., MobileNetV1]:
    """A small fused net with random weights, in eval mode."""

    def small_net(**options: Any) -> MobileNetV1:
        options = {"n_classes": 5, "width_mult": 0.25, "shallow": True, "fused": True, **options}
        return _randomize(MobileNetV1(**options)).eval()

    return small_net


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pictures() -> dict[str, Image.Image]:
    """The four photographs of the fixtures, 96x96, by name."""
    with np.load(Path(__file__).parent / "fixtures" / "vww_0.25_96_expected.npz") as arrays:
        return {
            str(name).removesuffix("_96"): Image.fromarray(pixels)
            for name, pixels in zip(arrays["names"], arrays["input_u8"], strict=True)
        }
