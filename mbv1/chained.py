"""The folded convolutions of a net in one call on the CPU: :class:`mbv1_kernels.Chain` for a net's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbv1_kernels import Chain, Window
from mbv1_kernels.chain import MAX_LAYERS

from .blocks import Pair
from .folding import Fold


def can_chain(x: Tensor, pairs: Sequence[Pair], fold: Fold, backend: str) -> bool:
    """Whether :func:`run_chain` takes this call: a plain CPU tensor that needs no gradient, in the weights' dtype."""
    return (
        backend in ("auto", "cpu")
        and x.is_cpu
        and type(x) is Tensor
        and x.dim() == 4
        and x.dtype is fold.dtype
        and x.shape[1] == pairs[0][0].in_channels
        and len(pairs) // 2 < MAX_LAYERS
        and pairs[0][0].dilation == (1, 1)  # as the library's stem
        and not (torch.is_grad_enabled() and x.requires_grad)
    )


def run_chain(x: Tensor, pairs: Sequence[Pair], fold: Fold, activation: str) -> Tensor:
    """The output of the last block, in ``channels_last`` memory. ``pairs`` are the stem's and the blocks'."""
    chain = fold.derived.get("chain")
    if chain is None:
        stem, *rest = fold.weights
        layers: list[tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]] = [(None, None, *stem)]
        layers += [(*dw, *pw) for dw, pw in zip(rest[::2], rest[1::2], strict=True)]
        chain = fold.derived["chain"] = Chain(layers, [(activation, activation)] * len(layers))
    # Everything that the windows depend on: layers are changed in place, too, to keep a finer resolution.
    key = (x.shape[2:], [(conv.stride, conv.padding, conv.dilation) for conv, _ in pairs])
    kept = fold.derived.get("numbers")
    if kept is None or kept[0] != key:
        kept = fold.derived["numbers"] = key, chain.numbers(windows(x.shape[2:], pairs))
    return chain(x, kept[1])


def windows(size: Sequence[int], pairs: Sequence[Pair]) -> list[Window]:
    """Of the stem and of each block's depthwise convolution, for a net's input of ``size`` = (H, W)."""
    found = []
    for conv, _ in [pairs[0], *pairs[1::2]]:
        top, bottom, left, right = conv.pads(size)
        (stride_h, stride_w), (dilation_h, dilation_w) = conv.stride, conv.dilation
        found.append(Window((stride_h, stride_w), (top, bottom, left, right), (dilation_h, dilation_w)))
        margins = ((top + bottom), (left + right))
        size = [
            (length + margin - dilation * (kernel - 1) - 1) // stride + 1
            for length, margin, dilation, kernel, stride in zip(
                size, margins, conv.dilation, conv.kernel_size, conv.stride, strict=True
            )
        ]
    return found
