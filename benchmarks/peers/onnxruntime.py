"""ONNX Runtime with its own CPU kernels (MLAS)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..workload import Workload
from . import LibraryPeer
from ._model_files import INPUT, NEEDS, OUTPUT, onnx_model


class OnnxRuntime(LibraryPeer):
    name = "onnxruntime"
    title = "ONNX Runtime, float32, input and output bound to memory"
    needs = ("onnxruntime", *NEEDS)

    def load(self, workload: Workload) -> Callable[[], Tensor]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        session = onnxruntime.InferenceSession(onnx_model(workload), options, ["CPUExecutionProvider"])
        x = workload.x_nchw.numpy()
        y = torch.empty(session.get_outputs()[0].shape)
        binding = session.io_binding()
        binding.bind_cpu_input(INPUT, x)
        binding.bind_output(OUTPUT, "cpu", 0, x.dtype, y.shape, y.data_ptr())

        def run() -> Tensor:
            session.run_with_iobinding(binding)
            return y

        return run


PEERS = [OnnxRuntime()]
