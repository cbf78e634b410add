"""MobileNetV1 (arXiv:1704.04861) as an ``nn.Module``, in plain torch or on the library's ops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbv1_kernels import ACTIVATIONS, BACKENDS

from . import checkpoints
from .architecture import PADDINGS, STEM, blocks, scaled
from .blocks import Conv2d, Pair, conv_bn, conv_dw, pairs_of
from .folded import FoldedLayers
from .kept_fold import Fold, fold_layers, make_fold, need_gradients


class MobileNetV1(nn.Module):
    """MobileNetV1; the defaults are the published PyTorch code's, and so are the names in the state dict.

    ``model`` is a Sequential of the stem ``conv_bn``, the blocks ``conv_dw`` and the average pool; ``fc`` is
    the classifier. The names are the same with ``fused`` on or off: ``model.0.0.weight`` (convolution),
    ``model.0.1.*`` (batch norm), ``model.i.0`` and ``.1`` (depthwise), ``model.i.3`` and ``.4`` (pointwise),
    ``fc.weight``, ``fc.bias``.

    Takes (N, ch_in, H, W) of any size, dtype and memory format; returns (N, n_classes).

    Args:
        ch_in: channels of the input.
        n_classes: outputs of the classifier; TF-slim's nets have 1001, with the background first.
        width_mult: the paper's alpha: each channel count ``c`` is ``max(int(c * width_mult), min_depth)``.
        activation: ``"relu"``, ``"relu6"``, ``"hardswish"``, ``"silu"`` or ``"none"``.
        padding: of the 3x3 convolutions: ``"symmetric"`` (1 on every side), ``"same"`` (TensorFlow's SAME) or
            ``"keras"`` (see :func:`mbv1.architecture.pads`).
        bn_eps, bn_momentum: of every batch norm, in torch's sense (TensorFlow's decay is ``1 - momentum``).
        conv_bias: whether the convolutions have a bias of their own beside batch norm's.
        dropout: probability of zeroing a pooled feature in training.
        min_depth: the least number of channels; 8 as in TF-slim.
        shallow: the paper's shallow variant, without the five 14x14x512 blocks.
        separable: False for the paper's full-convolution variant: a dense 3x3 in place of each block.
        fused: run on the library's ops. In evaluation batch norm is folded into the weights, once, and the
            net is ``stem_conv2d``, one ``separable_conv2d`` per block and ``pool_linear``. In training the
            convolutions are the library's and batch norm is the real one. Can be set at any time.
        backend: of the library's ops. ``"triton"`` leaves the two ops without a Triton kernel, stem and head,
            to ``"auto"``. Can be set at any time.

    The folded weights follow every change of the parameters and the running statistics: loading, optimizer
    steps, in-place ops, casts, moves, new Parameter objects. Only writes through ``.data`` or memory shared
    with numpy are invisible to torch: call :meth:`refold` after those (``train()`` and ``eval()`` do too).
    Where the fold cannot be kept it is made in each call: under ``torch.compile`` and ``torch.export``, with
    inference tensors as parameters, and in evaluation with gradients enabled and parameters that require
    them, where it is differentiable; evaluate under ``torch.no_grad()`` or ``inference_mode()`` for speed.

    Hooks on submodules do not fire in the fused evaluation path, which does not call them. A net whose layers
    were exchanged for others (another activation, batch norms taken out) runs module by module instead.
    """

    def __init__(
        self,
        ch_in: int = 3,
        n_classes: int = 1000,
        width_mult: float = 1.0,
        *,
        activation: str = "relu",
        padding: str = "symmetric",
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        conv_bias: bool = False,
        dropout: float = 0.0,
        min_depth: int = 8,
        shallow: bool = False,
        separable: bool = True,
        fused: bool = False,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _require_choice("activation", activation, ACTIVATIONS)
        _require_choice("padding", padding, PADDINGS)
        for name, value in (("ch_in", ch_in), ("n_classes", n_classes), ("min_depth", min_depth)):
            _require(isinstance(value, int) and value >= 1, name, "an integer >= 1", value)
        _require(width_mult > 0, "width_mult", "a number > 0", width_mult)
        _require(bn_eps >= 0, "bn_eps", "a number >= 0", bn_eps)
        self.ch_in, self.n_classes, self.width_mult = ch_in, n_classes, width_mult
        self.activation, self.padding, self.min_depth = activation, padding, min_depth
        self.bn_eps, self.bn_momentum, self.conv_bias = bn_eps, bn_momentum, conv_bias
        self.shallow, self.separable = shallow, separable

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        layer: dict[str, Any] = {
            "padding": padding,
            "activation": activation,
            "conv_bias": conv_bias,
            "bn": {"eps": bn_eps, "momentum": bn_momentum},
            "factory": factory,
        }
        channels = scaled(STEM, width_mult, min_depth)
        layers: list[nn.Module] = [conv_bn(ch_in, channels, 2, "stem", **layer)]
        for base, stride in blocks(shallow):
            out = scaled(base, width_mult, min_depth)
            if separable:
                layers.append(conv_dw(channels, out, stride, **layer))
            else:
                layers.append(conv_bn(channels, out, stride, "dense", **layer))
            channels = out
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, n_classes, **factory)

        self._fold: Fold | None = None
        self._fused = fused
        self.backend = backend

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | Mapping[str, Any],
        *,
        convention: str | None = None,
        **options: Any,
    ) -> MobileNetV1:
        """A net in evaluation mode with the weights of a local file, folder or mapping of names to arrays.

        The names tell whose net it is: TF-slim's, timm's, transformers', keras.applications' or the published
        PyTorch code's. With it come activation, padding and batch norm's epsilon; classes, input channels,
        width, depth and convolution biases come from the arrays. See :mod:`mbv1.checkpoints`.

        Args:
            source: ``.safetensors``, ``.npz``, ``.pth``, ``.pt``, ``.bin``, ``.h5`` (keras; needs h5py), a
                folder of transformers, or a mapping. Nothing is downloaded.
            convention: ``"tf-slim"``, ``"timm"``, ``"transformers"``, ``"keras"``, ``"keras-v3"`` or
                ``"pytorch"``, where the names should not decide.
            options: any argument of the constructor (``fused``, ``activation``, ``padding``, ``bn_eps``, …);
                it goes before what the source says.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: names are missing, unexpected, or of another shape; the message lists them.
        """
        checkpoint = checkpoints.read(source, convention)
        return checkpoints.load(cls, checkpoint, **options)

    @property
    def fused(self) -> bool:
        """Whether the library's ops run the net."""
        return self._fused

    @fused.setter
    def fused(self, value: bool) -> None:
        self._fused = bool(value)
        self._tell_convolutions()

    @property
    def backend(self) -> str:
        """Backend of the library's ops; of no effect while ``fused`` is off."""
        return self._backend

    @backend.setter
    def backend(self, value: str) -> None:
        _require_choice("backend", value, BACKENDS)
        self._backend = value
        self._tell_convolutions()

    def _tell_convolutions(self) -> None:
        for module in self.model.modules():
            if isinstance(module, Conv2d):
                module.backend = self._backend if self._fused else None

    def forward(self, x: Tensor) -> Tensor:
        folded = self._folded(x)
        if folded is None:
            return self.fc(self.dropout(self.model(x).flatten(1)))
        x, layers = folded
        return layers.logits(x, self.model[-1], self.fc, self._backend)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last block's output, (N, C, H / 32, W / 32): what the average pool gets."""
        folded = self._folded(x)
        if folded is None:
            return self.model[:-1](x)
        x, layers = folded
        return layers.features(x, self._backend)

    def refold(self) -> None:
        """Folds again in the next fused call. Needed only after a write that torch cannot see."""
        self._fold = None

    def _pairs_to_fold(self) -> list[Pair] | None:
        """Each convolution with its batch norm, where this call runs on folded weights; else None.

        A net whose layers were exchanged for others runs module by module.
        """
        if not self._fused or self.training:
            return None
        *layers, pool = self.model._modules.values()
        if not isinstance(pool, nn.AdaptiveAvgPool2d):
            return None
        pairs: list[Pair] = []
        for block in layers:
            found = pairs_of(block, self.activation)
            if found is None:
                return None
            pairs += found
        return pairs

    def _folded(self, x: Tensor) -> tuple[Tensor, FoldedLayers] | None:
        """``x`` as the folded layers take it, and these; None where the net runs module by module."""
        if not self._fused or self.training:
            return None
        keep = not torch.compiler.is_compiling()
        fold = self._fold if keep else None  # read once: another thread may exchange it
        if fold is not None and not (fold.layers.activation == self.activation and fold.is_current(self)):
            fold = None
        pairs = self._pairs_to_fold() if fold is None else fold.pairs
        if pairs is None:
            return None
        if fold is None:
            dtype, device_type = pairs[0][0].weight.dtype, x.device.type
        else:
            dtype, device_type = fold.source_dtype, fold.layers.device_type
        if torch.is_autocast_enabled(device_type) and torch.float64 not in (dtype, x.dtype):
            # Folding straight to autocast's dtype spares the ops a cast of every weight in every call.
            dtype = torch.get_autocast_dtype(device_type)
            x = x.to(dtype)
        if keep and (fold is None or fold.dtype is not dtype):
            fold = self._fold = make_fold(self, self.model, pairs, dtype, self.activation)
        if fold is None or need_gradients(fold.sources):
            return x, fold_layers(pairs, dtype, self.activation, keep=False)
        return x, fold.layers

    def train(self, mode: bool = True) -> MobileNetV1:
        self.refold()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> MobileNetV1:
        # Every cast and move goes through here: the fold must not keep the old tensors alive.
        self.refold()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: everything but the fold, which a copy makes of its own tensors."""
        return {**self.__dict__, "_fold": None}

    def extra_repr(self) -> str:
        return (
            f"ch_in={self.ch_in}, n_classes={self.n_classes}, width_mult={self.width_mult}, "
            f"activation={self.activation}, padding={self.padding}, bn_eps={self.bn_eps}, "
            f"fused={self._fused}, backend={self._backend}"
        )


def _require(condition: bool, argument: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"MobileNetV1: {argument}: expected {expected}, got {got!r}")


def _require_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, argument, "one of " + ", ".join(choices), value)
