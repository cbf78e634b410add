"""A net's folded weights, kept between calls, and what tells when they are out of date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Pair
from .folded import FoldedLayers
from .folding import fold_conv_bn

_END = object()


@dataclass(frozen=True)
class Fold:
    """Folded layers, and what tells whether the modules and tensors that they came from are still the same.

    A tensor counts as unchanged while it is the same object in the same place of the net, at the same address,
    with the same version counter, which torch raises at every in-place write. The fold holds references to all of
    them, so that neither an id nor an address can come back as somebody else's. A write through ``.data`` raises no
    counter and is not seen. The check runs in every call, most of it on memory that the kernels have driven out of
    the caches: hence the few, flat lists.
    """

    layers: FoldedLayers
    dtype: torch.dtype
    source_dtype: torch.dtype
    pairs: list[Pair]
    #: Dictionaries that hold the net's modules and tensors, and all of their values.
    holders: list[dict[str, Any]]
    values: list[Any]
    #: The attributes of each pair, and what those say that the fold and the kernels are told.
    attributes: list[tuple[dict[str, Any], dict[str, Any]]]
    settings: list[Any]
    sources: list[Tensor]
    state: list[int]
    storages: list[torch.UntypedStorage]

    def is_current(self, net: nn.Module) -> bool:
        """For ``net``, which may be a replica that got this fold with its other attributes."""
        return (
            self.holders[0] is net._modules
            and all(map(is_, values_of(self.holders), self.values))
            and settings_of(self.attributes) == self.settings
            and state_of(self.sources) == self.state
        )


def values_of(holders: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """All values, and behind the last one a mark: of two such sequences, neither is the beginning of the other."""
    return chain(chain.from_iterable(map(dict.values, holders)), (_END,))


def settings_of(attributes: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Any]:
    """What the fold and the kernels are told beside tensors; layers are changed in place, too."""
    return [(c["stride"], c["padding"], c["dilation"], bn["eps"], bn["training"]) for c, bn in attributes]


def state_of(tensors: Sequence[Tensor]) -> list[int]:
    """Versions and addresses."""
    return [*(t._version for t in tensors), *map(Tensor.data_ptr, tensors)]


def sources_of(pairs: Sequence[Pair]) -> list[Tensor] | None:
    """Every tensor to watch for the folds of ``pairs``; None where a weight is computed (parametrization).

    What the folds read, and ``num_batches_tracked``: torch's batch norm writes its running statistics in
    training without raising their version counters, but counts the batch.
    """
    found: list[Tensor | None] = []
    try:
        for conv, bn in pairs:
            found += (conv._parameters["weight"], conv._parameters["bias"])
            found += (bn._parameters["weight"], bn._parameters["bias"])
            found += (bn._buffers[name] for name in ("running_mean", "running_var", "num_batches_tracked"))
    except KeyError:
        return None
    return [t for t in found if t is not None]


def need_gradients(tensors: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def fold_layers(pairs: Sequence[Pair], dtype: torch.dtype, activation: str, *, keep: bool) -> FoldedLayers:
    """The layers of ``pairs`` with batch norm folded in, for weights of ``dtype``."""
    weights = [fold_conv_bn(conv, bn, dtype) for conv, bn in pairs]
    return FoldedLayers([conv for conv, _ in pairs], weights, activation, keep=keep)


def make_fold(net: nn.Module, body: nn.Module, pairs: list[Pair], dtype: torch.dtype, activation: str) -> Fold | None:
    """A fold to keep, of the ``pairs`` in the blocks of ``body``, a child of ``net``.

    None where the sources cannot be watched or the result must not outlive the call. Inference tensors have no
    version counter, tensor subclasses and the wrappers of ``torch.func`` have no address, and what a CUDA graph
    computes while it is captured has no value until the graph is replayed.
    """
    sources = sources_of(pairs)
    if sources is None or need_gradients(sources):
        return None
    if any(type(t) not in (Tensor, nn.Parameter) or t.is_inference() for t in sources):
        return None
    try:
        state, storages = state_of(sources), [t.untyped_storage() for t in sources]
    except (RuntimeError, NotImplementedError):
        return None
    device = sources[0].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return None
    # Made as ordinary tensors even in inference mode: a later call may need gradients of its input.
    with torch.inference_mode(False), torch.no_grad():
        layers = fold_layers(pairs, dtype, activation, keep=True)
    if device.type == "cuda":
        # Later calls may come from other streams, which do not wait for this one.
        torch.cuda.current_stream(device).synchronize()
    holders = [module._modules for module in (net, body, *body._modules.values())]
    holders += [module._parameters for pair in pairs for module in pair]
    holders += [bn._buffers for _, bn in pairs]
    values = list(values_of(holders))
    attributes = [(conv.__dict__, bn.__dict__) for conv, bn in pairs]
    settings = settings_of(attributes)
    return Fold(
        layers, dtype, sources[0].dtype, pairs, holders, values, attributes, settings, sources, state, storages
    )
