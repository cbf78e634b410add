"""cuDNN's graph API, through its Python frontend: convolution, bias and ReLU in one plan.

Not yet run on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..workload import LAYOUTS, Unavailable, Workload
from . import CudaPeer


class CudnnGraph(CudaPeer):
    name = "cudnn graph"
    title = "cuDNN frontend: one plan for convolution, bias and ReLU, by its heuristics; the rest in torch"
    needs = ("cudnn",)
    allocates_in_torch = False  # outputs and workspaces are made beforehand

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        import cudnn

        handle = cudnn.create_handle()
        module = with_plans(cudnn, handle, workload.folded, workload.layout)
        x = workload.x

        def run() -> Tensor:
            cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
            return module(x)

        run()  # makes the plans
        return run


def with_plans(cudnn: Any, handle: Any, module: nn.Module, layout: str) -> nn.Module:
    """A copy of ``module`` in which each convolution, with a ReLU that directly follows it, is a plan."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        children = list(parent.named_children())
        for (name, conv), (next_name, relu) in pairwise([*children, ("", nn.Identity())]):
            if isinstance(conv, nn.Conv2d):
                fuse = isinstance(relu, nn.ReLU)
                setattr(parent, name, Plan(cudnn, handle, conv, fuse, layout))
                if fuse:
                    setattr(parent, next_name, nn.Identity())
    return module


class Plan(nn.Module):
    """A convolution with bias, and ReLU where ``relu``; made for the input of its first call. Its output is the same
    tensor every time. Raises :class:`Unavailable` where cuDNN has no plan."""

    def __init__(self, cudnn: Any, handle: Any, conv: nn.Conv2d, relu: bool, layout: str) -> None:
        super().__init__()
        self.cudnn, self.handle, self.conv, self.relu, self.layout = cudnn, handle, conv, relu, layout
        self.made: tuple[Any, dict[Any, Tensor], Any, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.made is None:
            self.made = self._make(x)
        graph, fixed, of_x, workspace, y = self.made
        graph.execute({**fixed, of_x: x}, workspace, handle=self.handle)
        return y

    def _make(self, x: Tensor) -> tuple[Any, dict[Any, Tensor], Any, Tensor, Tensor]:
        conv = self.conv
        of_conv = (conv.weight.to("meta"), None, conv.stride, conv.padding, conv.dilation, conv.groups)
        size = F.conv2d(x.to("meta"), *of_conv).shape
        y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=LAYOUTS[self.layout])
        graph, of_x, fixed = describe(self.cudnn, self.handle, conv, self.relu, x, y)
        try:
            graph.build([self.cudnn.heur_mode.A, self.cudnn.heur_mode.FALLBACK])
        except self.cudnn.cudnnGraphNotSupportedError as error:
            raise Unavailable(f"cuDNN has no plan for it: {error}".splitlines()[0]) from error
        workspace = torch.empty(graph.get_workspace_size(), dtype=torch.uint8, device=x.device)
        return graph, fixed, of_x, workspace, y


def describe(
    cudnn: Any, handle: Any, conv: nn.Conv2d, relu: bool, x: Tensor, y: Tensor
) -> tuple[Any, Any, dict[Any, Tensor]]:
    """The graph that computes ``y`` from ``x``, its tensor for ``x``, and its other ones with torch's for them."""
    kinds = {torch.float16: "HALF", torch.bfloat16: "BFLOAT16", torch.float32: "FLOAT"}
    kind, wide = getattr(cudnn.data_type, kinds[x.dtype]), cudnn.data_type.FLOAT
    graph = cudnn.pygraph(handle=handle, io_data_type=kind, intermediate_data_type=wide, compute_data_type=wide)
    assert conv.bias is not None

    def of_graph(name: str, tensor: Tensor) -> Any:
        return graph.tensor(name=name, dim=list(tensor.shape), stride=list(tensor.stride()), data_type=kind)

    bias = conv.bias.view(1, -1, 1, 1)
    of_x, of_weight, of_bias = (of_graph(n, t) for n, t in (("x", x), ("weight", conv.weight), ("bias", bias)))
    pads = list(conv.padding)
    made = graph.conv_fprop(
        image=of_x,
        weight=of_weight,
        pre_padding=pads,
        post_padding=pads,
        stride=list(conv.stride),
        dilation=list(conv.dilation),
    )
    made = graph.bias(name="add", input=made, bias=of_bias)
    made = graph.relu(name="relu", input=made) if relu else made
    made.set_output(True).set_data_type(kind).set_dim(list(y.shape)).set_stride(list(y.stride()))
    return graph, of_x, {of_weight: conv.weight, of_bias: bias, made: y}


PEERS = [CudnnGraph()]
