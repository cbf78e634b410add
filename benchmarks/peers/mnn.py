"""MNN's CPU backend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..workload import Workload
from . import LibraryPeer
from ._model_files import NEEDS, onnx_model


class Mnn(LibraryPeer):
    name = "mnn"
    title = "MNN, precision high (float32), input and output copied as its sessions want it"
    needs = ("MNN", *NEEDS)

    def load(self, workload: Workload) -> Callable[[], Tensor]:
        import MNN

        with tempfile.TemporaryDirectory() as folder:
            source, model = Path(folder, "net.onnx"), Path(folder, "net.mnn")
            source.write_bytes(onnx_model(workload))
            _convert(source, model)
            interpreter = MNN.Interpreter(str(model))
        session = interpreter.createSession(
            {"backend": "CPU", "precision": "high", "numThread": torch.get_num_threads()}
        )
        x = workload.x_nchw
        given, wanted = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
        y = torch.empty(wanted.getShape())

        def shared(t: Tensor) -> MNN.Tensor:
            return MNN.Tensor(tuple(t.shape), MNN.Halide_Type_Float, t.numpy(), MNN.Tensor_DimensionType_Caffe)

        x_shared, y_shared = shared(x), shared(y)

        def run() -> Tensor:
            given.copyFrom(x_shared)
            interpreter.runSession(session)
            wanted.copyToHostTensor(y_shared)
            return y_of(y_shared)

        def y_of(tensor: MNN.Tensor) -> Tensor:
            return torch.from_numpy(tensor.getNumpyData()).reshape(y.shape)

        return run


def _convert(source: Path, model: Path) -> None:
    # The converter itself: MNN.tools.mnnconvert would install a package and report its use to a server.
    import _tools

    _tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(model), "--bizCode", "net"]
    )


PEERS = [Mnn()]
