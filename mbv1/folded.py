"""Folded layers ready to run: a net's convolutions with the weights that batch norm was folded into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn

from mbv1_kernels import Chain, Plan, Window, pool_linear, separable_conv2d
from mbv1_kernels.backends import transforming
from mbv1_kernels.chain import MAX_LAYERS
from mbv1_kernels.checks import conv_output_size
from mbv1_kernels.layout import is_channels_last

from .blocks import Conv2d, without_triton
from .folding import Folded

_PLAIN = (Tensor, nn.Parameter)


class FoldedLayers:
    """The stem and the blocks of a net, each convolution followed by ``activation``.

    On the CPU, where no gradient is wanted, they run as one :class:`mbv1_kernels.Chain`, the head included; else
    as ``stem_conv2d``, one ``separable_conv2d`` per block and ``pool_linear``.

    Args:
        convs: the stem's, then each block's depthwise and pointwise convolution; or dense ones alone. They say how
            a window slides, and must not change.
        weights: (weight, bias) of each, all of one dtype.
        activation: of every layer.
        keep: whether weights are packed for the chain, which is worth it where several calls use them.
        strassen: of the :class:`mbv1_kernels.Chain`.
    """

    def __init__(
        self,
        convs: Sequence[Conv2d],
        weights: Sequence[Folded],
        activation: str,
        *,
        keep: bool,
        strassen: bool = True,
    ) -> None:
        self.convs, self.weights, self.activation, self._strassen = convs, weights, activation, strassen
        self._separable = len(convs) == 1 or convs[1].op == "depthwise"
        self.device_type = weights[0][0].device.type
        self._chainable = (
            keep
            and self._separable
            and self.device_type == "cpu"
            and len(convs) // 2 < MAX_LAYERS
            and convs[0].dilation == (1, 1)  # as the library's stem
        )
        self._channels, self._dtype = convs[0].in_channels, weights[0][0].dtype
        self._chain: Chain | None = None
        self._plan: tuple[torch.Size, Plan] | None = None  # for inputs of a size (C, H, W)
        self._head: tuple[Tensor | None, Tensor | None] = (None, None)  # the last one that was right

    def features(self, x: Tensor, backend: str) -> Tensor:
        """The last block's output, in the memory format of ``x``."""
        y = self.run_chain(x, backend)
        if y is None:
            return self._run_ops(x, backend)
        return y if is_channels_last(x) else y.contiguous()

    def logits(self, x: Tensor, pool: nn.Module, fc: nn.Module, backend: str) -> Tensor:
        """The classifier's output; a module put in the place of a linear ``fc`` is called as it is."""
        if type(fc).forward is nn.Linear.forward:
            return self.classify(x, fc.weight, fc.bias, backend)
        return fc(pool(self.features(x, backend)).flatten(1))

    def classify(self, x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
        """``pool_linear`` of the features."""
        y = self.run_chain(x, backend, weight, bias)
        if y is not None:
            return y
        y = self.run_chain(x, backend)
        if y is None:
            y = self._run_ops(x, backend)
        return pool_linear(y, weight, bias, backend=without_triton(backend))

    def run_chain(
        self, x: Tensor, backend: str, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor | None:
        """The features, or ``pool_linear`` of them, by a chain, whatever autocast says; None where it cannot.

        It has no gradient and no transform, and takes plain tensors of one dtype.
        """
        if not self._chainable or backend not in ("auto", "cpu") or transforming() or not self._takes(x):
            return None
        # Of all this little is in a cache when a call begins: the head is looked at once, x's sizes all together.
        head, chain, plan = self._head, self._chain, self._plan  # read once: another thread may exchange them
        if weight is not head[0] or bias is not head[1]:
            if not all(t is None or self._takes(t) for t in (weight, bias)):
                return None
            self._head = weight, bias
        if is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
            return None
        sizes = x.shape[1:]
        if plan is None or plan[0] != sizes:
            if len(sizes) != 3 or sizes[0] != self._channels:
                return None
            plan = None
        if chain is None:
            stem, *rest = self.weights
            layers: list[tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]] = [(None, None, *stem)]
            layers += [(*dw, *pw) for dw, pw in zip(rest[::2], rest[1::2], strict=True)]
            activations = [(self.activation, self.activation)] * len(layers)
            chain = self._chain = Chain(layers, activations, strassen=self._strassen)
        if plan is None:
            plan = self._plan = sizes, chain.plan(self._windows(sizes[1:]), sizes[1:])
        return chain(x, plan[1], weight, bias)

    def _takes(self, t: Tensor) -> bool:
        return t.dtype is self._dtype and t.is_cpu and type(t) in _PLAIN

    def _windows(self, size: Sequence[int]) -> list[Window]:
        """Of the stem and of each block's depthwise convolution, for a net's input of ``size`` = (H, W)."""
        found = []
        for conv in [self.convs[0], *self.convs[1::2]]:
            top, bottom, left, right = conv.pads(size)
            (stride_h, stride_w), (dilation_h, dilation_w) = conv.stride, conv.dilation
            found.append(Window((stride_h, stride_w), (top, bottom, left, right), (dilation_h, dilation_w)))
            size = conv_output_size("chain", size, conv.kernel_size, conv.stride, found[-1].padding, conv.dilation)
        return found

    def _run_ops(self, x: Tensor, backend: str) -> Tensor:
        convs, weights = self.convs, self.weights
        options: dict[str, Any] = {"activation": self.activation, "backend": backend}
        x = convs[0].run(x, *weights[0], **options)
        if not self._separable:
            for conv, folded in zip(convs[1:], weights[1:], strict=True):
                x = conv.run(x, *folded, **options)
            return x
        for i in range(1, len(convs), 2):
            depthwise = convs[i]
            x = separable_conv2d(
                x,
                *weights[i],
                *weights[i + 1],
                stride=depthwise.stride,
                padding=depthwise.pads(x.shape[2:]),
                dilation=depthwise.dilation,
                dw_activation=self.activation,
                **options,
            )
        return x
