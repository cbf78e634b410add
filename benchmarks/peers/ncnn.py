"""ncnn on the CPU, with the model that pnnx makes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..workload import Workload
from . import LibraryPeer
from ._model_files import NEEDS, onnx_model


class Ncnn(LibraryPeer):
    name = "ncnn"
    title = "ncnn, float32 (its 16-bit options off), one image after the other"
    needs = ("ncnn", "pnnx", *NEEDS)

    def load(self, workload: Workload) -> Callable[[], Tensor]:
        import ncnn
        import numpy as np

        net = ncnn.Net()
        options = net.opt
        options.num_threads = torch.get_num_threads()
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = options.use_vulkan_compute = False
        with tempfile.TemporaryDirectory() as folder:
            _convert(workload, Path(folder))
            net.load_param(f"{folder}/net.ncnn.param")
            net.load_model(f"{folder}/net.ncnn.bin")
        size = workload.reference.shape[1:]  # ncnn drops dimensions of size 1
        images = [ncnn.Mat(image) for image in workload.x_nchw.numpy()]

        def one(image: ncnn.Mat) -> Tensor:
            extractor = net.create_extractor()
            extractor.input("in0", image)
            return torch.from_numpy(np.asarray(extractor.extract("out0")[1])).reshape(size)

        def run() -> Tensor:
            outputs = [one(image) for image in images]
            return torch.stack(outputs) if len(outputs) > 1 else outputs[0][None]

        return run


def _convert(workload: Workload, folder: Path) -> None:
    import pnnx

    (folder / "net.onnx").write_bytes(onnx_model(workload))
    command = [str(Path(pnnx.__file__).with_name("pnnx")), "net.onnx", "fp16=0"]
    shape = "inputshape=" + str(list(workload.x.shape)).replace(" ", "")
    subprocess.run([*command, shape], cwd=folder, check=True, capture_output=True)


PEERS = [Ncnn()]
