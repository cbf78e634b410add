"""The Triton backend: one file an op, registered as ``torch.ops.mbv1.<op>_triton`` by :func:`load`.

Importing this package is cheap and never fails: it needs no ``triton``. Registering the ops imports
``triton`` and, through ``torch.library.triton_op``, torch's compiler: that takes 1.3 s, so :func:`load` waits
for the first call that runs on this backend. ``TRITON_INTERPRET=1`` in the environment when this package is
imported runs the kernels on CPU tensors, in triton's interpreter.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor

#: The ops with a Triton kernel.
OPS: tuple[str, ...] = ("dwconv2d", "pwconv2d", "separable_conv2d")

DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16)

# The tiles are sized for the shared memory, and the bfloat16 code needs the instructions, of sm_80.
_MIN_CAPABILITY = (8, 0)

# Pixel coordinates are 32-bit; offsets are not.
_MAX_SIZE = 2**30

_INSTALLED = importlib.util.find_spec("triton") is not None
#: Whether the kernels run on CPU tensors, in triton's interpreter.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")

_attachments: dict[str, Callable[[str], None]] = {}


def unsupported(x: Tensor) -> str | None:
    """Why no Triton kernel can run on ``x``; None where each can. Does not import ``triton``."""
    if not _INSTALLED:
        return "triton is not installed"
    if x.dtype not in DTYPES:
        return f"no kernel for {x.dtype}: float32, float16, bfloat16 only"
    if any(size > _MAX_SIZE for size in x.shape):
        return f"a dimension of {tuple(x.shape)} is beyond 2^30"
    if INTERPRETING:
        return None if x.is_cpu else f"x is on {x.device}, and triton's interpreter takes CPU tensors here"
    if not x.is_cuda:
        return f"x is on {x.device}, not on a CUDA device"
    # A fake CUDA tensor can be traced on a machine without a GPU, which has no capability to ask for.
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(x.device)
        capability = properties.major, properties.minor
        if capability < _MIN_CAPABILITY:
            return f"{x.device} has compute capability {capability}, not at least {_MIN_CAPABILITY}"
    return None


def when_registered(op: str, attach: Callable[[str], None]) -> None:
    """Has ``attach("<op>_triton")`` called once that op is registered: how it gets autograd and autocast."""
    _attachments[op] = attach


def load() -> None:
    """Registers ``torch.ops.mbv1.<op>_triton`` for every op of :data:`OPS`; cheap after the first call.

    Import statements and nothing else, so that ``torch.compile`` can trace a first call.

    Raises:
        ImportError: where ``triton`` is not installed.
    """
    from . import dwconv2d, pwconv2d, separable_conv2d  # noqa: F401
