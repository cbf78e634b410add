"""Single layers as workloads and as cases: a depthwise or pointwise convolution, both of them, a stem, or pooling
with a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mbv1_kernels

from .cases import Case
from .roofline import Roofline
from .work import fused, layers_of
from .workload import DTYPES, Workload, checked

Step = Callable[[Tensor], Tensor]


class LayerWorkload(Workload):
    """conv → batch norm → ReLU, once or twice, or global average pool → linear: what one op of this project computes.

    Torch and ours are both called as functions: a layer is too short to pay for ``nn.Module`` on one side only.
    """

    def ours(self, backend: str = "auto") -> Callable[[], Tensor]:
        name, tensors, options = self._call
        return checked(partial(getattr(mbv1_kernels, name), self.x, *tensors, **options, backend=backend), backend)

    def kernel(self, backend: str = "auto") -> str:
        name, tensors, options = self._call
        return mbv1_kernels.explain(name, self.x, *tensors, **options, backend=backend).kernel

    def eager(self, module: nn.Module) -> Callable[[], Tensor]:
        x, steps = self.x, [_step(m) for m in module.modules() if not list(m.children())]
        return lambda: reduce(lambda y, step: step(y), steps, x)

    @cached_property
    def _call(self) -> tuple[str, list[Tensor | None], dict[str, Any]]:
        """Our op for the layers and the ReLU after each convolution, its tensors after the input, and its options."""
        layers = [m for m in self.folded.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        first = layers[0]
        if isinstance(first, nn.Linear):
            return "pool_linear", tensors, {}
        window = {"stride": first.stride, "padding": first.padding, "activation": "relu"}
        if len(layers) == 2:
            return "separable_conv2d", tensors, {**window, "dilation": first.dilation, "dw_activation": "relu"}
        if first.groups > 1:
            return "dwconv2d", tensors, {**window, "dilation": first.dilation}
        if first.kernel_size == (1, 1):
            return "pwconv2d", tensors, {"activation": "relu"}
        return "stem_conv2d", tensors, window


def _step(module: nn.Module) -> Step:
    if isinstance(module, nn.Conv2d):
        fixed = (module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)
        return lambda y: torch.conv2d(y, *fixed)
    if isinstance(module, nn.BatchNorm2d):
        parameters = (module.running_mean, module.running_var, module.weight, module.bias)
        return lambda y: F.batch_norm(y, *parameters, eps=module.eps)
    return torch.relu_ if isinstance(module, nn.ReLU) else module


def layer_case(
    name: str,
    module: nn.Module,
    shape: tuple[int, ...],
    dtype: str,
    layout: str,
    threads: int,
    device: torch.device,
    roofline: Roofline,
    facts: Mapping[str, object],
) -> Case:
    """``module`` on an input of ``shape``: its bound is that of one kernel, whose halves share nothing but their
    tile."""
    torch_dtype, layers = DTYPES[dtype], layers_of(module, shape)
    return Case(
        name,
        shape[0],
        dtype,
        layout,
        threads,
        fused(layers, torch_dtype.itemsize),
        roofline.blocks_bound(layers, torch_dtype),
        roofline.rate(layers[-1].kind, torch_dtype),
        partial(LayerWorkload, module, shape, torch_dtype, layout, device),
        dict(facts),
    )
