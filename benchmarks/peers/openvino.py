"""OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..workload import Workload
from . import LibraryPeer
from ._model_files import NEEDS, onnx_model


class OpenVino(LibraryPeer):
    name = "openvino"
    title = "OpenVINO, its precision pinned to the workload's, one stream"
    needs = ("openvino", *NEEDS)
    dtypes = frozenset({torch.float32, torch.bfloat16})

    def load(self, workload: Workload) -> Callable[[], Tensor]:
        import openvino
        from openvino.preprocess import PrePostProcessor

        kind = {torch.float32: openvino.Type.f32, torch.bfloat16: openvino.Type.bf16}[workload.dtype]
        core = openvino.Core()
        steps = PrePostProcessor(core.read_model(onnx_model(workload), b""))
        steps.input().tensor().set_element_type(kind)
        steps.output().tensor().set_element_type(kind)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32" if workload.dtype == torch.float32 else "bf16",
            "ENABLE_CPU_PINNING": False,  # its choice of cores would outlive this workload
        }
        compiled = core.compile_model(steps.build(), "CPU", options)
        request = compiled.create_infer_request()
        x = workload.x_nchw
        y = torch.empty(tuple(compiled.output().shape), dtype=x.dtype)

        def shared(t: Tensor) -> Any:
            # numpy has no bfloat16: the bits under another name.
            bits = t.numpy() if t.dtype == torch.float32 else t.view(torch.int16).numpy()
            return openvino.Tensor(bits, t.shape, kind)

        request.set_input_tensor(shared(x))
        request.set_output_tensor(shared(y))

        def run() -> Tensor:
            request.infer()
            return y

        return run


PEERS = [OpenVino()]
