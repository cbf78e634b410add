"""LiteRT (TensorFlow Lite) with XNNPACK, which it uses on CPUs by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..workload import Workload
from . import LibraryPeer
from ._tflite import tflite_model


class LiteRt(LibraryPeer):
    name = "litert"
    title = "LiteRT with XNNPACK, float32, NHWC"
    needs = ("ai_edge_litert", "flatbuffers")

    def load(self, workload: Workload) -> Callable[[], Tensor]:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(
            model_content=tflite_model(workload.folded_float32, workload.x.shape), num_threads=torch.get_num_threads()
        )
        interpreter.allocate_tensors()
        (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(given["index"], workload.x.permute(0, 2, 3, 1).contiguous().numpy())
        output = interpreter.tensor(wanted["index"])

        def run() -> Tensor:
            interpreter.invoke()
            y = torch.from_numpy(output())
            return y.permute(0, 3, 1, 2) if y.dim() == 4 else y

        return run


PEERS = [LiteRt()]
