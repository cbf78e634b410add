"""Builds the compiled libraries: _C (schemas, CPU kernels) always, _cuda (CUDA kernels) where nvcc is.

Both use LibTorch's stable ABI and Python's limited API: one wheel serves every torch from 2.10 on.

MBV1_CUDA=1 makes missing CUDA an error, MBV1_CUDA=0 skips CUDA. TORCH_CUDA_ARCH_LIST is honoured.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'"(.+)"', (ROOT / "mbv1_kernels/_version.py").read_text())[1]

# Every architecture with tensor cores; the last one also as PTX, for those to come.
DEFAULT_ARCHITECTURES = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"


def say(text: str) -> None:
    print(f"mbv1-kernels: {text}", flush=True)


def cuda_toolkit() -> Path | None:
    """The folder of the CUDA toolkit, also where the nvcc on PATH is a wrapper script."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home and (Path(home) / "bin/nvcc").exists():
        return Path(home)
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "x.cu"
        source.touch()
        run = subprocess.run([nvcc, "--dryrun", str(source)], capture_output=True, text=True, cwd=folder)
    top = re.search(r"^#\$ TOP=(.+)$", run.stderr, re.M)
    return Path(top[1].strip()).resolve() if top else Path(nvcc).resolve().parent.parent


def use_cuda() -> Path | None:
    """The toolkit to build with, or None for a build without CUDA; says why."""
    wish = os.environ.get("MBV1_CUDA", "auto")
    toolkit = cuda_toolkit()
    if wish == "0":
        reason = "MBV1_CUDA=0"
    elif torch.version.cuda is None:
        reason = f"torch {torch.__version__} in the build environment is a build without CUDA"
    elif toolkit is None:
        reason = "no nvcc on PATH and no CUDA_HOME"
    else:
        return toolkit
    if wish == "1":
        raise SystemExit(f"mbv1-kernels: MBV1_CUDA=1, but CUDA kernels cannot be built: {reason}")
    say(f"building the CPU kernels only: {reason}")
    return None


toolkit = use_cuda()
if toolkit is not None:
    os.environ["CUDA_HOME"] = str(toolkit)  # torch would take the folder of a wrapper script for it

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

DEFINES = [
    ("TORCH_TARGET_VERSION", "0x020a000000000000"),
    ("Py_LIMITED_API", "0x030A0000"),
    ("MBV1_VERSION", f'"{VERSION}"'),
]
CXX_FLAGS = [
    "-O3",
    "-g0",  # Python's own flags have -g: minutes, and 56 of 60 MB, for templates that nobody steps through
    "-std=c++20",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
]


def sources(*patterns: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))


extensions = [
    CppExtension(
        "mbv1_kernels._C",
        ["csrc/ops.cpp", *sources("csrc/cpu/*.cpp")],
        define_macros=DEFINES,
        extra_compile_args={"cxx": CXX_FLAGS},
        py_limited_api=True,
    )
]
if toolkit is not None:
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "those of the visible GPUs")
    say(f"building CPU and CUDA kernels with {toolkit}, for {architectures}")
    extensions.append(
        CUDAExtension(
            "mbv1_kernels._cuda",
            sources("csrc/cuda/*.cpp", "csrc/cuda/*.cu"),
            define_macros=[*DEFINES, ("USE_CUDA", None)],
            extra_compile_args={"cxx": CXX_FLAGS, "nvcc": ["-O3", "-std=c++20", "--threads=2", "-lineinfo"]},
            py_limited_api=True,
        )
    )

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
