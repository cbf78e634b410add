"""Loads the compiled libraries: ``_C`` (schemas and CPU kernels) always, ``_cuda`` where torch has CUDA.

A checkout's ``mbv1_kernels/`` folder may hide an installed, compiled package of the same name (running
``python -m benchmarks.dwconv`` or ``pytest`` from the checkout's root does that), so the libraries are looked
for next to this file first and then in every ``mbv1_kernels`` folder on ``sys.path``.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch

from ._version import __version__

_SUFFIX = ".abi3.pyd" if sys.platform == "win32" else ".abi3.so"


def _find(name: str) -> Path | None:
    folders = [Path(__file__).parent, *(Path(entry or ".") / "mbv1_kernels" for entry in sys.path)]
    return next((f / (name + _SUFFIX) for f in folders if (f / (name + _SUFFIX)).is_file()), None)


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"mbv1_kernels.{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load_cpu() -> None:
    path = _find("_C")
    if path is None:
        raise ImportError(
            "mbv1_kernels: the compiled library _C was not found. Install the package (pip install .) or build "
            "it in place (pip install -e .)."
        )
    built = _load("_C", path).__version__
    if built != __version__:
        raise ImportError(
            f"mbv1_kernels: {path} was built from version {built}, but this is version {__version__}: "
            "install the package again (pip install .)."
        )


def _load_cuda() -> str | None:
    """Loads the CUDA kernels; returns why there are none, or None."""
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    path = _find("_cuda")
    if path is None:
        return "mbv1_kernels was built without CUDA (no nvcc at build time)"
    try:
        _load("_cuda", path)
    except ImportError as error:
        reason = f"the CUDA kernels could not be loaded: {error}"
        if torch.cuda.is_available():
            warnings.warn(f"mbv1_kernels: {reason}", stacklevel=2)
        return reason
    return None


_load_cpu()

#: Why the CUDA kernels are not there; None where they are.
cuda_missing: str | None = _load_cuda()
