"""The building blocks, named and nested as in the published PyTorch code: ``conv_bn`` and ``conv_dw``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mbv1_kernels import dwconv2d, pwconv2d, reference, stem_conv2d

from .architecture import pads

# In place, as in the published code: batch norm's backward does not read its output.
_ACTIVATION_MODULES: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "hardswish": partial(nn.Hardswish, inplace=True),
    "silu": partial(nn.SiLU, inplace=True),
}

_ACTIVATION_TYPES = {name: type(make()) for name, make in _ACTIVATION_MODULES.items()}


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a padding rule of :func:`mbv1.architecture.pads`, in torch or in the library.

    ``op`` is ``"stem"``, ``"depthwise"``, ``"pointwise"`` or ``"dense"``. ``backend`` None runs torch's
    convolution, any other value the library's op with that backend, gradients included. Dense convolutions
    inside the net (the full-convolution variant) always run in torch: ``stem_conv2d`` is made for few input
    channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        padding: str,
        op: str,
        **kwargs: Any,
    ) -> None:
        depends_on_size = padding != "symmetric" and stride != 1
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            stride,
            # What the module says of itself stays true for code that reads nn.Conv2d's attributes.
            padding=0 if depends_on_size else kernel // 2,
            groups=in_channels if op == "depthwise" else 1,
            **kwargs,
        )
        self.op, self.rule, self.depends_on_size = op, padding, depends_on_size
        self.backend: str | None = None

    def pads(self, size: Sequence[int]) -> list[int]:
        """[top, bottom, left, right] for an input of ``size`` = (H, W)."""
        if not self.depends_on_size and not isinstance(self.padding, str):
            vertical, horizontal = self.padding
            return [vertical, vertical, horizontal, horizontal]
        return pads(self.rule, self.kernel_size[0], self.stride[0], size, dense=self.op != "depthwise")

    def forward(self, x: Tensor) -> Tensor:
        if self.backend is not None and self.op != "dense":
            return self.run(x, self.weight, self.bias, "none", self.backend)
        if self.depends_on_size:
            top, bottom, left, right = self.pads(x.shape[2:])
            x = F.pad(x, [left, right, top, bottom])
        return super().forward(x)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, backend: str) -> Tensor:
        """This convolution in the library, with the given weight and bias in place of its own."""
        if self.op == "pointwise":
            return pwconv2d(x, weight, bias, activation=activation, backend=backend)
        window: dict[str, Any] = {"stride": self.stride, "padding": self.pads(x.shape[2:])}
        if self.op == "stem" and self.dilation == (1, 1):
            return stem_conv2d(x, weight, bias, **window, activation=activation, backend=without_triton(backend))
        window["dilation"] = self.dilation
        if self.op == "depthwise":
            return dwconv2d(x, weight, bias, **window, activation=activation, backend=backend)
        return reference.activate(reference.conv2d(x, weight, bias, **window), activation)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.depends_on_size:
            text += f", pads={self.rule}"
        return text if self.backend is None else f"{text}, backend={self.backend}"


#: A convolution and the batch norm that follows it.
Pair = tuple[Conv2d, _BatchNorm]


def pairs_of(block: nn.Module, activation: str) -> list[Pair] | None:
    """The convolutions of a block, each with its batch norm, where their fold is all that the block does.

    None for a block that is no longer what :func:`conv_bn` or :func:`conv_dw` made, or whose batch norm takes
    the statistics of the batch: no folded convolution equals that one.
    """
    layers = list(block._modules.values())
    if len(layers) not in (3, 6):
        return None
    pairs = []
    for i in range(0, len(layers), 3):
        conv, bn, act = layers[i], layers[i + 1], layers[i + 2]
        if not (isinstance(conv, Conv2d) and isinstance(bn, _BatchNorm) and bn.affine and bn.track_running_stats):
            return None
        if bn.training or type(act) is not _ACTIVATION_TYPES[activation]:
            return None
        pairs.append((conv, bn))
    return pairs


def without_triton(backend: str) -> str:
    """The backend of the ops that have no Triton kernel, where the net's is ``"triton"``."""
    return "auto" if backend == "triton" else backend


def conv_bn(
    in_channels: int,
    out_channels: int,
    stride: int,
    op: str,
    *,
    padding: str,
    activation: str,
    conv_bias: bool,
    bn: dict[str, Any],
    factory: dict[str, Any],
) -> nn.Sequential:
    """Dense 3x3 convolution, batch norm, activation: modules 0, 1, 2."""
    return nn.Sequential(
        Conv2d(in_channels, out_channels, 3, stride, padding, op, bias=conv_bias, **factory),
        nn.BatchNorm2d(out_channels, **bn, **factory),
        _ACTIVATION_MODULES[activation](),
    )


def conv_dw(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    padding: str,
    activation: str,
    conv_bias: bool,
    bn: dict[str, Any],
    factory: dict[str, Any],
) -> nn.Sequential:
    """Depthwise separable block, modules 0 to 5: 3x3 depthwise, batch norm, activation, then 1x1 likewise."""
    return nn.Sequential(
        Conv2d(in_channels, in_channels, 3, stride, padding, "depthwise", bias=conv_bias, **factory),
        nn.BatchNorm2d(in_channels, **bn, **factory),
        _ACTIVATION_MODULES[activation](),
        Conv2d(in_channels, out_channels, 1, 1, padding, "pointwise", bias=conv_bias, **factory),
        nn.BatchNorm2d(out_channels, **bn, **factory),
        _ACTIVATION_MODULES[activation](),
    )
