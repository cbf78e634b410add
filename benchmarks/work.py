"""Bytes and FLOPs of layers, and the layers of a net.

Each activation counts once read and once written, weights and biases once; a multiply-add is 2 FLOPs, taps in
the padding count too, bias and activation don't.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Work:
    """What a layer has to move and to compute, whoever runs it."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class Layer:
    """One layer as it ran: ``kind`` is conv, dw, pw or linear; sizes count elements."""

    kind: str
    inputs: int
    outputs: int
    weights: int
    flops: int
    channels: int
    height: int
    width: int
    kernel: int
    stride: int

    def work(self, itemsize: int) -> Work:
        return Work((self.inputs + self.outputs + self.weights) * itemsize, self.flops)


def total(layers: Sequence[Layer], itemsize: int) -> Work:
    """Of all layers, one kernel each."""
    works = [layer.work(itemsize) for layer in layers]
    return Work(sum(work.bytes for work in works), sum(work.flops for work in works))


def fused(layers: Sequence[Layer], itemsize: int) -> Work:
    """Of all layers in one kernel: between them nothing goes through memory."""
    elements = layers[0].inputs + sum(layer.weights for layer in layers) + layers[-1].outputs
    return Work(elements * itemsize, sum(layer.flops for layer in layers))


def layers_of(net: nn.Module, shape: Sequence[int]) -> list[Layer]:
    """The convolutions and linear layers that ``net`` runs on an input of ``shape``, in order. Nothing is
    computed. Batch norm counts as folded (a bias for each convolution), pooling as part of the linear
    layer."""
    layers: list[Layer] = []

    def record(module: nn.Module, args: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        layers.append(_layer(module, args[0], y, layers))

    net = copy.deepcopy(net).to("meta").eval()
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(record)
    parameter = next(net.parameters())
    with torch.no_grad():
        net(torch.empty(tuple(shape), dtype=parameter.dtype, device="meta"))
    return layers


def _layer(module: nn.Conv2d | nn.Linear, x: torch.Tensor, y: torch.Tensor, before: Sequence[Layer]) -> Layer:
    weights = module.weight.numel() + y.shape[1]
    flops = 2 * y.numel() * (module.weight.numel() // module.weight.shape[0])
    if isinstance(module, nn.Linear):
        inputs = before[-1].outputs if before else x.numel()
        return Layer("linear", inputs, y.numel(), weights, flops, x.shape[1], 1, 1, 1, 1)
    if module.groups == module.in_channels > 1:
        kind = "dw"
    else:
        kind = "pw" if module.kernel_size == (1, 1) and module.groups == 1 else "conv"
    (_, channels, height, width), kernel, stride = x.shape, module.kernel_size[0], module.stride[0]
    return Layer(kind, x.numel(), y.numel(), weights, flops, channels, height, width, kernel, stride)
