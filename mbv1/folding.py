"""Batch norm folded into the convolution before it, and a cache that knows when the fold is out of date.

In evaluation, batch norm after a convolution is an affine map of each channel, so that

    scale  = gamma / sqrt(running_var + eps)
    weight = conv.weight * scale                                  (per output channel)
    bias   = beta + (conv.bias - running_mean) * scale            (conv.bias = 0 where there is none)

give ``conv(x; weight, bias) = bn(conv(x))``. The fold is computed in float32 (float64 for float64 parameters)
and cast once to the dtype that the net runs in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: (weight, bias) of one folded convolution.
Folded = tuple[Tensor, Tensor]


def fold_conv_bn(conv: nn.Conv2d, bn: _BatchNorm, dtype: torch.dtype | None = None) -> Folded:
    """``(weight, bias)`` of the one convolution that equals ``bn(conv(x))`` in evaluation.

    Differentiable in every parameter. ``dtype`` is the result's, by default that of ``conv.weight``. A
    depthwise weight keeps its shape (C, 1, KH, KW) but lies tap by tap in memory, (KH, KW, C), so that the
    kernels for channels-last inputs load the C weights of one tap with consecutive lanes.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("fold_conv_bn: bn: expected one with running statistics, got one without")
    dtype = dtype or conv.weight.dtype
    wide = torch.float64 if conv.weight.dtype == torch.float64 else torch.float32
    scale = bn.weight.to(wide) * torch.rsqrt(bn.running_var.to(wide) + bn.eps)
    shift = -bn.running_mean.to(wide) if conv.bias is None else conv.bias.to(wide) - bn.running_mean.to(wide)
    weight = (conv.weight.to(wide) * scale.view(-1, 1, 1, 1)).to(dtype)
    bias = (bn.bias.to(wide) + shift * scale).to(dtype)
    if conv.groups == conv.in_channels > 1 and weight.shape[1] == 1:
        weight = weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    return weight, bias


@dataclass(frozen=True)
class Fold:
    """Folded weights, and what tells whether the tensors that they came from are still the same.

    A tensor counts as unchanged while it is the same object, at the same address, with the same version
    counter, which torch raises at every in-place write. ``sources`` and ``storages`` hold references, so that
    neither an id nor an address can come back as somebody else's. A write through ``.data`` raises no counter
    and is not seen. The check runs in every call: about 0.2 µs a tensor, in list comparisons.
    """

    weights: list[Folded]
    dtype: torch.dtype
    epsilons: list[float]
    sources: list[Tensor]
    ids: list[int]
    versions: list[int]
    pointers: list[int]
    storages: list[torch.UntypedStorage]
    #: What is made of the weights at their first use, and goes with them.
    derived: dict[str, Any] = field(default_factory=dict)

    def is_current(self, sources: Sequence[Tensor], epsilons: Sequence[float], dtype: torch.dtype) -> bool:
        return (
            dtype is self.dtype
            and epsilons == self.epsilons
            and [id(t) for t in sources] == self.ids
            and [t._version for t in sources] == self.versions
            and [t.data_ptr() for t in sources] == self.pointers
        )


def sources_of(pairs: Iterable[tuple[nn.Conv2d, _BatchNorm]]) -> list[Tensor] | None:
    """Every tensor to watch for the folds of ``pairs``; None where a weight is computed (parametrization).

    What the folds read, and ``num_batches_tracked``: torch's batch norm writes its running statistics in
    training without raising their version counters, but counts the batch. This goes through the modules'
    dictionaries, as ``nn.Module.__getattr__`` would cost more than the whole check.
    """
    found: list[Tensor | None] = []
    try:
        for conv, bn in pairs:
            parameters = conv._parameters
            found += (parameters["weight"], parameters["bias"])
            parameters, buffers = bn._parameters, bn._buffers
            found += (parameters["weight"], parameters["bias"])
            found += (buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"])
    except KeyError:
        return None
    return [t for t in found if t is not None]


def make_fold(
    pairs: Sequence[tuple[nn.Conv2d, _BatchNorm]], sources: Sequence[Tensor], dtype: torch.dtype
) -> Fold | None:
    """A fold to keep; None where the sources cannot be watched or the result must not outlive the call.

    Inference tensors have no version counter, tensor subclasses and the wrappers of ``torch.func`` have no
    address, and what a CUDA graph computes while it is captured has no value until the graph is replayed.
    """
    if any(type(t) not in (Tensor, nn.Parameter) or t.is_inference() for t in sources):
        return None
    try:
        versions, pointers = [t._version for t in sources], [t.data_ptr() for t in sources]
        storages = [t.untyped_storage() for t in sources]
    except (RuntimeError, NotImplementedError):
        return None
    device = sources[0].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None
    # Made as ordinary tensors even in inference mode: a later call may need gradients of its input.
    with torch.inference_mode(False), torch.no_grad():
        weights = [fold_conv_bn(conv, bn, dtype) for conv, bn in pairs]
    if device.type == "cuda":
        # Later calls may come from other streams, which do not wait for this one.
        torch.cuda.current_stream(device).synchronize()
    epsilons, ids = [bn.eps for _, bn in pairs], [id(t) for t in sources]
    return Fold(weights, dtype, epsilons, list(sources), ids, versions, pointers, storages)
