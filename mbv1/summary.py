"""Multiply-adds and parameters, layer by layer, counted from the module itself.

Counted as in the paper: multiply-adds of convolutions and linear layers, one for each product; parameters
of these and of batch norm (gamma, beta), and no running statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .model import MobileNetV1

if TYPE_CHECKING:
    from rich.table import Table

#: (width multiplier, resolution, variant): (multiply-adds, parameters) in millions, as the paper prints them
#: (arXiv:1704.04861, tables 4 to 7 and 9).
PAPER: dict[tuple[float, int, str], tuple[float, float]] = {
    (1.0, 224, ""): (569, 4.2),
    (0.75, 224, ""): (325, 2.6),
    (0.5, 224, ""): (149, 1.3),
    (0.25, 224, ""): (41, 0.5),
    (1.0, 192, ""): (418, 4.2),
    (1.0, 160, ""): (290, 4.2),
    (1.0, 128, ""): (186, 4.2),
    (0.5, 160, ""): (76, 1.32),
    (1.0, 224, "full convolutions"): (4866, 29.3),
    (1.0, 224, "shallow"): (307, 2.9),
}


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer, with the parameters of the batch norm that follows it."""

    name: str
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    multiply_adds: int
    parameters: int


@dataclass(frozen=True)
class Summary:
    """The layers of a module for one input, and their totals."""

    layers: tuple[Layer, ...]

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)


def summarize(module: nn.Module, resolution: int | Sequence[int] = 224) -> Summary:
    """Counts the convolutions and linear layers that ``module`` runs for one image.

    Args:
        module: any module that takes (1, C, H, W); C is that of its first convolution. It is left as it is:
            a copy without memory (meta tensors) runs in its place.
        resolution: H = W, or (H, W).
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    tensors = chain(module.parameters(), module.buffers())
    # deepcopy takes what its memo holds: the copy gets meta tensors, and no weight is copied.
    shadow = copy.deepcopy(module, {id(t): t.detach().to("meta") for t in tensors}).eval()
    if isinstance(shadow, MobileNetV1):
        shadow.fused = False
    counted = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    layers: list[Layer] = []

    def count(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            parameters = sum(p.numel() for p in layer._parameters.values() if p is not None)
            if isinstance(layer, nn.BatchNorm2d) and layers:
                last = layers.pop()
                layers.append(Layer(**{**vars(last), "parameters": last.parameters + parameters}))
                return
            x, y = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])
            layers.append(Layer(name, _kind(layer), x, y, _multiply_adds(layer, y), parameters))

        return hook

    channels = None
    for name, layer in shadow.named_modules():
        if isinstance(layer, counted):
            layer.register_forward_hook(count(name))
        if channels is None and isinstance(layer, nn.Conv2d):
            channels = layer.in_channels
    if channels is None:
        raise ValueError(f"summarize: module: expected one with a convolution, got {type(module).__name__}")
    with torch.no_grad():
        shadow(torch.empty(1, channels, height, width, device="meta", dtype=_dtype(module)))
    return Summary(tuple(layers))


def table(net: MobileNetV1, resolution: int) -> Table:
    """The layers of ``net`` as a table for ``rich``, with the paper's figures under the totals."""
    from rich.table import Table

    summary = summarize(net, resolution)
    variant = ("shallow" if net.shallow else "") if net.separable else "full convolutions"
    title = f"MobileNetV1, width {net.width_mult}, {resolution}x{resolution}" + (variant and f", {variant}")
    rows = Table(title=title, show_footer=False)
    for heading in ("layer", "kind"):
        rows.add_column(heading)
    for heading in ("input", "output", "multiply-adds", "parameters"):
        rows.add_column(heading, justify="right")
    for layer in summary.layers:
        sizes = ("x".join(map(str, size)) for size in (layer.input, layer.output))
        rows.add_row(layer.name, layer.kind, *sizes, f"{layer.multiply_adds:,}", f"{layer.parameters:,}")
    rows.add_section()
    rows.add_row("total", "", "", "", f"{summary.multiply_adds:,}", f"{summary.parameters:,}")
    paper = PAPER.get((net.width_mult, resolution, variant)) if net.n_classes == 1000 else None
    figures = (f"{paper[0]:g} M", f"{paper[1]:g} M") if paper else ("not given", "not given")
    rows.add_row("paper", "", "", "", *figures)
    return rows


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Linear):
        return "linear"
    if not isinstance(layer, nn.Conv2d):
        return "batch norm"
    height, width = layer.kernel_size
    name = "depthwise" if layer.groups == layer.in_channels > 1 else "conv"
    stride = "" if layer.stride[0] == 1 else f" /{layer.stride[0]}"
    return f"{name} {height}x{width}{stride}"


def _multiply_adds(layer: nn.Module, output: tuple[int, ...]) -> int:
    """Products of one image: every output takes one for each weight that it sees, padding included."""
    if isinstance(layer, nn.Linear):
        return prod(output) * layer.in_features
    if isinstance(layer, nn.Conv2d):
        return prod(output) * layer.in_channels // layer.groups * prod(layer.kernel_size)
    return 0


def _dtype(module: nn.Module) -> torch.dtype:
    return next(p.dtype for p in module.parameters() if p.is_floating_point())
