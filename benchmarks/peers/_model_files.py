"""ONNX models of workloads, for the libraries that read them."""

from __future__ import annotations

import io
import logging
import weakref

import torch

from ..workload import Workload

_models: weakref.WeakKeyDictionary[Workload, bytes] = weakref.WeakKeyDictionary()

#: The names of the model's input and output.
INPUT, OUTPUT = "x", "y"

#: What exporting takes besides torch.
NEEDS = ("onnx", "onnxscript")


def onnx_model(workload: Workload) -> bytes:
    """The workload's function in float32 for exactly its shape, as torch exports it; made once."""
    if workload not in _models:
        # It names each torchvision op that it does without.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        file = io.BytesIO()
        with torch.inference_mode(False), torch.no_grad():
            exported = torch.onnx.export(
                workload.folded_float32,
                (torch.zeros(workload.x.shape),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        assert exported is not None
        exported.save(file)
        _models[workload] = file.getvalue()
    return _models[workload]
