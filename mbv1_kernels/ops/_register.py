"""What every op gets beside its kernels: fake, autograd and autocast, for the C++ op and its Triton twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import triton as triton_backend

# Kept alive: a Library unregisters its implementations when it is collected.
_LIBRARY = torch.library.Library("mbv1", "IMPL")


def register(
    name: str,
    fake: Callable[..., Tensor],
    backward: Callable[..., Any],
    setup_context: Callable[..., None],
    has_triton: bool,
) -> None:
    """Attaches the Python side to ``mbv1::<name>`` and, where it exists, to ``mbv1::<name>_triton``."""
    torch.library.register_fake(f"mbv1::{name}", fake)

    def attach(op: str) -> None:
        torch.library.register_autograd(f"mbv1::{op}", backward, setup_context=setup_context)
        for device in ("cpu", "cuda"):
            _register_autocast(op, device)

    attach(name)
    if has_triton:
        triton_backend.when_registered(name, attach)


def _register_autocast(op: str, device: str) -> None:
    """Runs the op in the dtype of the autocast region, as torch's own convolutions do."""
    key = "Autocast" + device.upper()
    overload = getattr(torch.ops.mbv1, op).default
    below = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def autocast(*args: Any, **kwargs: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(device)

        def cast(value: Any) -> Any:
            eligible = (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and value.dtype != torch.float64
                and value.device.type == device
            )
            return value.to(dtype) if eligible else value

        with torch._C._ExcludeDispatchKeyGuard(below):
            return overload(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    _LIBRARY.impl(op, autocast, key)
