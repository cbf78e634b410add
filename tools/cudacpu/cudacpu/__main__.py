"""Runs a command with the emulated CUDA device.

    python -m cudacpu --sources csrc/*.cu [--nvcc-flags "..."] -- pytest tests

builds the sources' kernels for the CPU, and starts the command with the substitute CUDA libraries
preloaded, so that a PyTorch extension compiled from those sources runs on device="cuda".
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import sys
from pathlib import Path

from . import build


def _torch_directory() -> Path | None:
    spec = importlib.util.find_spec("torch")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _torch_flags(sources: list[Path], flags: list[str]) -> list[str]:
    """Include paths and language level for sources that use PyTorch's headers."""
    uses_torch = any(
        re.search(r"#include\s*[<\"](torch|ATen|c10)/", s.read_text(errors="replace")) for s in sources
    )
    directory = _torch_directory()
    if not uses_torch or directory is None:
        return []
    include = directory / "include"
    paths = [f"-I{include}", f"-I{include / 'torch/csrc/api/include'}"]
    return paths + ([] if any("-std" in f for f in flags) else ["-std=c++20"]) + ["-DUSE_CUDA"]


def _check_cuda_versions() -> None:
    directory = _torch_directory()
    version_file = directory / "version.py" if directory else None
    if version_file is None or not version_file.exists():
        return
    version = re.search(r"^cuda\b.*=\s*['\"](\d+)", version_file.read_text(), re.MULTILINE)
    if version and version[1] != build.nvcc_version().partition(".")[0]:
        raise build.BuildError(
            f"torch uses CUDA {version[1]}, but nvcc is {build.nvcc_version()}; "
            "the substitute runtime needs the same major version"
        )


def _sanitizer_library(sanitize: str | None) -> list[str]:
    if build.compiler_sanitizer(sanitize) is None:
        return []
    name = {"address": "libasan.so", "thread": "libtsan.so"}[sanitize]
    return [build.run_tool([os.environ.get("CXX", "g++"), f"-print-file-name={name}"]).strip()]


def _nvidia_library_directories() -> list[str]:
    directory = _torch_directory()
    return [str(p) for p in sorted(directory.parent.glob("nvidia/*/lib"))] if directory else []


def environment(kernels: Path, arch: str, sanitize: str | None, caching: bool) -> dict[str, str]:
    """The environment variables that a command on the emulated device needs."""
    capability = re.match(r"sm_(\d+)", arch)[1]
    libraries = _sanitizer_library(sanitize) + [str(p) for p in build.build_cuda_libraries(sanitize)]
    previous = os.environ.get("LD_PRELOAD")
    package_parent = str(Path(__file__).resolve().parent.parent)
    variables = {
        "LD_PRELOAD": ":".join(libraries + ([previous] if previous else [])),
        "CUDACPU_KERNELS": str(kernels),
        "CUDACPU_CAPABILITY": capability,
        "CUDACPU_SHARED_LIMIT": str(build.SHARED_MEMORY_LIMITS.get(int(capability), 48 << 10)),
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package_parent])),
    }
    if not caching:
        variables["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    if build.compiler_sanitizer(sanitize):
        # The sanitizers intercept dlopen, and the loader then ignores the run path of its caller.
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(
            filter(None, [*_nvidia_library_directories(), os.environ.get("LD_LIBRARY_PATH")])
        )
        variables.setdefault("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "detect_leaks=0"))
        variables.setdefault("TSAN_OPTIONS", os.environ.get("TSAN_OPTIONS", "halt_on_error=0:history_size=2"))
    return variables


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cudacpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sources", nargs="+", type=Path, default=[], metavar="FILE", help=".cu files of the extension"
    )
    parser.add_argument("--nvcc-flags", default="", help="flags for nvcc, in one string")
    parser.add_argument("--arch", default="sm_80", help="architecture to emulate (default sm_80)")
    parser.add_argument("--sanitize", choices=build.SANITIZERS, help="instrument the kernels")
    parser.add_argument(
        "--count", action="store_true", help="count accesses and instructions (cudacpu.counts)"
    )
    parser.add_argument(
        "--caching", action="store_true", help="keep PyTorch's caching allocator (weaker bounds checks)"
    )
    parser.add_argument(
        "--print-env", action="store_true", help="print the environment instead of running a command"
    )
    options, extra = parser.parse_known_args(arguments)
    if extra:
        parser.error("unknown arguments: " + " ".join(extra))
    if options.count and options.sanitize:
        parser.error("--count and --sanitize exclude each other")
    return options


def main() -> int:
    arguments, command = sys.argv[1:], []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, command = arguments[:split], arguments[split + 1 :]
    options = _parse(arguments)
    if not command and not options.print_env:
        print("python -m cudacpu: no command after --", file=sys.stderr)
        return 2
    try:
        _check_cuda_versions()
        flags = shlex.split(options.nvcc_flags)
        flags += _torch_flags(options.sources, flags)
        kernels, unsupported = build.build_kernel_library(
            options.sources, flags, options.arch, build.COUNTS if options.count else options.sanitize
        )
        variables = environment(kernels, options.arch, options.sanitize, options.caching)
    except build.BuildError as error:
        print(f"cudacpu: {error}", file=sys.stderr)
        return 1
    for name, why in unsupported.items():
        print(f"cudacpu: kernel {name} cannot be emulated: {why}", file=sys.stderr)
    if options.print_env:
        for name, value in variables.items():
            print(f"export {name}={shlex.quote(value)}")
        return 0
    os.environ.update(variables)
    if options.count:
        os.environ["CUDACPU_COUNTS"] = "1"
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
