"""ONNX models of workloads, for the libraries that read them."""

from __future__ import annotations

import copy
import io
import logging
import weakref

import torch

from ..workload import Workload

_models: weakref.WeakKeyDictionary[Workload, dict[torch.dtype, bytes]] = weakref.WeakKeyDictionary()

#: The names of the model's input and output.
INPUT, OUTPUT = "x", "y"

#: What exporting takes besides torch.
NEEDS = ("onnx", "onnxscript")


def onnx_model(workload: Workload, dtype: torch.dtype = torch.float32) -> bytes:
    """The workload's function in ``dtype`` for exactly its shape, as torch exports it; made once."""
    models = _models.setdefault(workload, {})
    if dtype not in models:
        # It names each torchvision op that it does without.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        file = io.BytesIO()
        with torch.inference_mode(False), torch.no_grad():
            exported = torch.onnx.export(
                copy.deepcopy(workload.folded_float32).to(dtype),
                (torch.zeros(workload.x.shape, dtype=dtype),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
        assert exported is not None
        exported.save(file)
        models[dtype] = file.getvalue()
    return models[dtype]
