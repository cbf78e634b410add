"""TensorRT, with an engine that it builds of an ONNX model.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..environment import allows_tf32
from ..quiet import quiet
from ..workload import LAYOUTS, Unavailable, Workload
from . import CudaPeer
from ._model_files import INPUT, NEEDS, OUTPUT, onnx_model


class TensorRt(CudaPeer):
    name = "tensorrt"
    title = "TensorRT, strongly typed: all in the workload's dtype, input and output in its layout"
    needs = ("tensorrt", *NEEDS)
    allocates_in_torch = False

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return "building an engine takes longer than a quick run" if quick else None

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        import tensorrt

        with quiet():
            model = onnx_model(workload, workload.dtype)
        engine = _build(tensorrt, model, workload)
        context = engine.create_execution_context()
        reference, x = workload.reference, workload.x
        y = torch.empty((len(x), *reference.shape[1:]), dtype=x.dtype, device=x.device)
        if y.dim() == 4:
            y = y.contiguous(memory_format=LAYOUTS[workload.layout])
        context.set_tensor_address(INPUT, x.data_ptr())
        context.set_tensor_address(OUTPUT, y.data_ptr())

        def run() -> Tensor:
            context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
            return y

        return run


def _build(tensorrt: Any, model: bytes, workload: Workload) -> Any:
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    # From TensorRT 11 on every network is strongly typed, and the flag is ignored.
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise Unavailable(f"TensorRT cannot read the model: {parser.get_error(0).desc()}")
    if workload.layout == "nhwc":
        for tensor in (network.get_input(0), network.get_output(0)):
            _take_nhwc(tensorrt, tensor, workload.dtype)
    config = builder.create_builder_config()
    if not allows_tf32(workload.device):
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Unavailable("TensorRT builds no engine of the model")
    return tensorrt.Runtime(logger).deserialize_cuda_engine(plan)


def _take_nhwc(tensorrt: Any, tensor: Any, dtype: torch.dtype) -> None:
    """Has the engine read or write ``tensor`` as dense NHWC, which it has for two bytes and eight channels."""
    shape = tuple(tensor.shape)
    if len(shape) != 4:
        return
    if dtype.itemsize != 2 or shape[1] % 8:
        raise Unavailable("NHWC in TensorRT: only fp16 and bf16, channels in eights")
    tensor.allowed_formats = 1 << int(tensorrt.TensorFormat.HWC8)


PEERS = [TensorRt()]
