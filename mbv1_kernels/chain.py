"""A whole net's layers in one call on the CPU, with weights packed once.

The ops pack their weights in every call, and write every layer's output to memory. A :class:`Chain` keeps the weights
as the kernels read them, and runs layers whose outputs would fall out of the cache depth first, a band of rows at a
time. For inference: it has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import _extension, checks  # noqa: F401 - the former registers the operators
from .reference import ACTIVATIONS

#: Layers that one chain may have.
MAX_LAYERS = 64

_RUN = torch.ops.mbv1.chain.default  # looked up once: a name less in every call, on cold caches


class Plan(NamedTuple):
    """How a chain's layers slide over inputs of one height and width: what :meth:`Chain.plan` returns."""

    layers: Tensor  #: (layers, 13), int64
    size: list[int]  #: channels, height and width of the last layer's output


@dataclass(frozen=True)
class Window:
    """How a layer's kernel slides: (vertical, horizontal), and padding as [top, bottom, left, right]."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)


class Chain:
    """Layers for :meth:`__call__`, packed for this processor and for the dtype of their weights.

    Equivalent to ``stem_conv2d`` and ``separable_conv2d`` one after another. Each layer is ``(dw_weight, dw_bias,
    weight, bias)``, tensors as :func:`mbv1_kernels.separable_conv2d` takes them, on the CPU, float32, float16,
    bfloat16 or float64; the first one may have ``dw_weight`` None: a dense convolution, as
    :func:`mbv1_kernels.stem_conv2d`. Later changes of the tensors are not seen.

    Args:
        layers: the weights, see above.
        activations: (of the depthwise half, of the whole layer) for each layer.
        strassen: whether pointwise products of at least 128 channels may be made by one level of Strassen's
            algorithm: seven multiplications for eight, and 7/4 of the memory for such weights. Rounding errors are
            then bounded by the largest values of a feature map, not by those of a pixel (Higham, Accuracy and
            Stability of Numerical Algorithms, 2002, section 23.2.2), and NaN or infinity in one pixel makes NaN of
            another one, too. Never where BFloat16 is multiplied as such.

    Raises:
        RuntimeError: for a layer that does not fit; it names the op, the argument, what was expected and what came.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]],
        activations: Sequence[tuple[str, str]],
        *,
        strassen: bool = True,
    ) -> None:
        if not 1 <= len(layers) <= MAX_LAYERS or len(layers) != len(activations):
            raise RuntimeError(
                f"mbv1::chain: layers: expected 1 to {MAX_LAYERS}, each with (dw_activation, activation), "
                f"got {len(layers)} and {len(activations)} pairs of activations"
            )
        for names in activations:
            for name in names:
                if name not in ACTIVATIONS:
                    raise RuntimeError(
                        f"mbv1::chain: activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}"
                    )
        self._packed = torch.ops.mbv1.in_huge_pages(
            [
                torch.ops.mbv1.chain_pack(*(t.detach() if t is not None else None for t in layer), strassen)
                for layer in layers
            ]
        )
        self._fixed = [
            ([int(k) for k in (weight if dw is None else dw).shape[2:]], int(weight.shape[0]), pair)
            for (dw, _, weight, _), pair in zip(layers, activations, strict=True)
        ]

    def plan(self, windows: Sequence[Window], size: Sequence[int]) -> Plan:
        """What :meth:`__call__` takes for inputs of ``size`` = (H, W): worth keeping where many have the same.

        Raises:
            RuntimeError: another number of windows than of layers, a bad one, or a padded input smaller than it.
        """
        if len(windows) != len(self._fixed):
            raise RuntimeError(f"mbv1::chain: windows: expected {len(self._fixed)}, got {len(windows)}")
        layers = []
        for (kernel, out, pair), w in zip(self._fixed, windows, strict=True):
            stride, dilation = (checks.pair("chain", name, getattr(w, name)) for name in ("stride", "dilation"))
            padding = checks.padding4("chain", w.padding)
            # ACTIVATIONS has the order of the kernels' enumeration.
            layers.append([*kernel, *stride, *padding, *dilation, out, *map(ACTIVATIONS.index, pair)])
            size = checks.conv_output_size("chain", size, kernel, stride, padding, dilation)
        return Plan(torch.tensor(layers, device="cpu"), [out, *size])

    def __call__(self, x: Tensor, plan: Plan, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """(N, C, H, W) of any strides, in the weights' dtype, to (N, O, OH, OW) in ``channels_last`` memory.

        With ``weight`` the result is ``pool_linear(y, weight, bias)`` of that instead: (N, classes).
        """
        return _RUN(x, self._packed, *plan, weight, bias)


def in_huge_pages(weight: Tensor) -> Tensor:
    """A contiguous copy of a tensor on the CPU, in huge pages where the system has them.

    Weights of several megabytes, which every call reads, are read faster there.
    """
    data = weight.detach().contiguous()
    copy: Tensor = torch.ops.mbv1.in_huge_pages([data.view(-1).view(torch.uint8)])
    return copy.view(data.dtype).view(data.shape)


@torch.library.register_fake("mbv1::chain")
def _fake(
    x: Tensor,
    packed: Tensor,
    layers: Tensor,
    size: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    if weight is not None:
        return x.new_empty((x.shape[0], weight.shape[0]))
    return x.new_empty((x.shape[0], *size)).contiguous(memory_format=torch.channels_last)
