"""A net for inference alone: :func:`frozen` folds batch norm into the weights once and for all."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from mbv1_kernels.chain import in_huge_pages

from .blocks import Conv2d
from .folded import FoldedLayers
from .folding import fold_conv_bn

if TYPE_CHECKING:
    from .model import MobileNetV1


class _Ready(NamedTuple):
    modules: dict[str, nn.Module | None]  # whose weights these are
    layers: FoldedLayers
    head: tuple[Tensor, Tensor | None] | None  # the classifier's weight and bias where it is a linear one


class Frozen(nn.Module):
    """What :func:`frozen` returns. ``convs`` have the folded weights, ``fc`` is the classifier."""

    def __init__(self, model: MobileNetV1, dtype: torch.dtype | None = None, *, strassen: bool = True) -> None:
        super().__init__()
        pairs = model._pairs_to_fold()
        if pairs is None:
            raise ValueError(
                "mbv1.frozen: model: expected a fused MobileNetV1 in evaluation mode with the layers that it was "
                f"made with, got fused={model.fused}, training={model.training} and {len(model.model)} layers"
            )
        # Not inference tensors, which could not be moved or saved as others are.
        with torch.inference_mode(False), torch.no_grad():
            self.convs = nn.ModuleList(_folded_conv(conv, *fold_conv_bn(conv, bn, dtype)) for conv, bn in pairs)
            self.pool, self.fc = copy.deepcopy(model.model[-1]), copy.deepcopy(model.fc).to(dtype)
        self.requires_grad_(False).eval()
        self.activation, self.backend, self.strassen = model.activation, model.backend, strassen
        self._kept: _Ready | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, ch_in, H, W) in the dtype of the weights to (N, n_classes), whatever autocast says."""
        _, layers, head = self._ready()
        y = layers.run_chain(x, self.backend, *head) if head is not None else None
        if y is not None:
            return y
        if torch.is_autocast_enabled(layers.device_type):
            with torch.autocast(layers.device_type, enabled=False):
                return self(x)
        if head is not None:
            return layers.classify(x, *head, self.backend)
        return layers.logits(x, self.pool, self.fc, self.backend)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last block's output, (N, C, H / 32, W / 32): what the average pool gets."""
        return self._ready().layers.features(x, self.backend)

    def _ready(self) -> _Ready:
        keep = not is_compiling()
        ready = self._kept if keep else None
        if ready is None or ready.modules is not self._modules:  # a replica's
            convs, fc = list(self.convs), self.fc
            weights = [(conv.weight, conv.bias) for conv in convs]
            layers = FoldedLayers(convs, weights, self.activation, keep=keep, strassen=self.strassen)
            head = None
            if type(fc) is nn.Linear:
                head = (in_huge_pages(fc.weight) if keep and fc.weight.is_cpu else fc.weight, fc.bias)
            ready = _Ready(self._modules, layers, head)
            if keep:
                self._kept = ready
        return ready

    def _apply(self, fn: Any, recurse: bool = True) -> Frozen:
        self._kept = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        """Called for a module that this one is part of, too."""
        self._kept = None
        super()._load_from_state_dict(*arguments, **options)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: everything but what is packed for this processor."""
        return {**self.__dict__, "_kept": None}

    def extra_repr(self) -> str:
        return f"activation={self.activation}, backend={self.backend}"


def frozen(model: MobileNetV1, dtype: torch.dtype | None = None, *, strassen: bool = True) -> Frozen:
    """A module that computes ``model(x)`` from copies of its weights: the fastest form of a net that stays as it is.

    A fused :class:`MobileNetV1` looks in every call whether a weight has changed, some 200 us on a CPU whose caches
    the kernels have just filled. A frozen one has nothing to look for: batch norm is folded into its weights here, in
    float32, and they are rounded once to ``dtype``. It follows no change of the model's weights, nor of its own but
    by ``load_state_dict`` and moves and casts of the whole module. It can be moved, saved, exported and compiled;
    its weights require no gradient, the input may.

    Args:
        model: a net in evaluation mode with ``fused=True``.
        dtype: of the weights, and of the inputs that it will take; by default the model's.
        strassen: whether the CPU's products of at least 128 channels may be made by one level of Strassen's
            algorithm, with seven multiplications for eight (:class:`mbv1_kernels.Chain` says what that does to
            rounding errors, NaN and infinity). A model that is not frozen always lets them.

    Raises:
        ValueError: the model is in training mode, not fused, or its layers were exchanged for others.
    """
    return Frozen(model, dtype, strassen=strassen)


def _folded_conv(conv: Conv2d, weight: Tensor, bias: Tensor) -> Conv2d:
    """A convolution that slides as ``conv`` does."""
    folded = Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size[0], 1, conv.rule, conv.op, device="meta")
    for name in ("kernel_size", "stride", "padding", "dilation", "depends_on_size"):
        setattr(folded, name, getattr(conv, name))
    folded.weight, folded.bias = nn.Parameter(weight), nn.Parameter(bias)
    return folded
