"""Compiles the test extension as its users would: real host code, real device code for the GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from cudacpu import build

DIRECTORY = Path(__file__).resolve().parent / "extension"
SOURCES = [DIRECTORY / "ops.cu", DIRECTORY / "plain.cu"]
FLAGS = ["-O2", "-std=c++20", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"]


def extension_library() -> Path:
    torch_directory = Path(torch.__file__).resolve().parent
    include, library = torch_directory / "include", torch_directory / "lib"
    command = [
        build.nvcc(),
        "-shared",
        "-arch=sm_80",
        "-cudart",
        "shared",
        "-Xcompiler",
        "-fPIC",
        *FLAGS,
        f"-I{include}",
        f"-I{include / 'torch/csrc/api/include'}",
        *map(str, SOURCES),
        f"-L{library}",
        "-ltorch",
        "-ltorch_cpu",
        "-ltorch_cuda",
        "-lc10",
        "-Xlinker",
        "--no-as-needed",
    ]
    name = f"{build.digest(*command, *map(build.file_digest, sorted(DIRECTORY.iterdir())))}.so"
    return build.cached(name, lambda out: build.run_tool([*command, "-o", out]))
