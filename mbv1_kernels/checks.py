"""Argument normalization and checks, shared by the wrappers, the fakes and the Triton and torch backends.

``csrc/common/checks.h`` makes the same checks with the same words for calls that come through
``torch.ops.mbv1`` directly. Every message names the op, the argument, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from .reference import ACTIVATIONS

#: What the ops compute in. float64 runs on the CPU (for gradcheck) and through the torch backend.
DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def fail(op: str, argument: str, expected: str, got: object) -> NoReturn:
    raise RuntimeError(f"mbv1::{op}: {argument}: expected {expected}, got {got}")


def _ints(op: str, argument: str, value: int | Sequence[int], lengths: tuple[int, ...], low: int) -> list[int]:
    # What most calls pass, without the price of the checks below.
    if type(value) is int and value >= low:
        return [value]
    if type(value) is tuple and len(value) in lengths and _are_ints(value) and min(value) >= low:
        return [*value]
    items = list(value) if isinstance(value, Sequence) else [value]
    # bool is an int in Python, and stride=True is a mistake.
    integers = all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in items)
    if len(items) not in lengths or not integers:
        fail(op, argument, " or ".join(map(str, lengths)) + " integers", repr(value))
    # Symbolic integers, in a trace with dynamic shapes, are left to the op's own check: comparing them here would
    # tie the trace to the outcome.
    if any(isinstance(v, int) and v < low for v in items):
        fail(op, argument, f"integers >= {low}", value)
    return items


def _are_ints(values: tuple[object, ...]) -> bool:
    """Whether all are plain integers; False in a trace, whose symbolic ones may pass for them."""
    return not torch.compiler.is_compiling() and {*map(type, values)} == {int}


def pair(op: str, argument: str, value: int | Sequence[int]) -> list[int]:
    """``stride`` or ``dilation`` as [vertical, horizontal]; takes 1 or 2 integers >= 1."""
    items = _ints(op, argument, value, (1, 2), 1)
    return items * 2 if len(items) == 1 else items


def padding4(op: str, value: int | Sequence[int]) -> list[int]:
    """``padding`` as [top, bottom, left, right]; takes 1, 2 (vertical, horizontal) or 4 integers >= 0."""
    items = _ints(op, "padding", value, (1, 2, 4), 0)
    if len(items) == 1:
        return items * 4
    return [items[0], items[0], items[1], items[1]] if len(items) == 2 else items


def check_activation(op: str, argument: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        fail(op, argument, "one of " + ", ".join(ACTIVATIONS), repr(activation))


def check_input(op: str, x: Tensor) -> None:
    """``x``: rank 4, a floating dtype the ops know, no empty dimension but the batch."""
    if x.dim() != 4:
        fail(op, "x", "a 4-D tensor (N, C, H, W)", f"{x.dim()}-D {_shape(x)}")
    if x.dtype not in DTYPES:
        fail(op, "x", "float32, float16, bfloat16 or float64", _name(x.dtype))
    if any(x.shape[d] <= 0 for d in (1, 2, 3)):
        fail(op, "x", "C, H and W >= 1", _shape(x))


def check_like(op: str, argument: str, tensor: Tensor | None, x: Tensor, shape: tuple[int, ...]) -> None:
    """A weight, bias or residual: the dtype and device of ``x``, and exactly ``shape``."""
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        fail(op, argument, f"shape {shape}", _shape(tensor))
    if tensor.dtype != x.dtype:
        fail(op, argument, f"dtype {_name(x.dtype)} as x", _name(tensor.dtype))
    if tensor.device != x.device:
        fail(op, argument, f"device {x.device} as x", tensor.device)


def check_weight(op: str, argument: str, weight: Tensor, rank: int, form: str) -> None:
    """The rank and non-emptiness of a weight, before its sizes are read."""
    if weight.dim() != rank:
        fail(op, argument, f"a {rank}-D tensor {form}", f"{weight.dim()}-D {_shape(weight)}")
    if any(size <= 0 for size in weight.shape):
        fail(op, argument, f"{form} with no empty dimension", _shape(weight))


def conv_output_size(
    op: str,
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> tuple[int, int]:
    """(OH, OW) for ``size`` = (H, W): ``(H + top + bottom - dilation * (k - 1) - 1) // stride + 1``."""
    out = []
    for axis in (0, 1):
        padded = size[axis] + padding[2 * axis] + padding[2 * axis + 1]
        window = dilation[axis] * (kernel[axis] - 1) + 1
        if padded < window:
            fail(op, "x", f"padded {'height' if axis == 0 else 'width'} >= window {window}", padded)
        out.append((padded - window) // stride[axis] + 1)
    return out[0], out[1]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
