"""What the kernels share: activation, rounding, matrix product, pixel indices, registration, launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import _attachments, unsupported

#: Whether @triton.jit makes interpreted functions (TRITON_INTERPRET=1).
INTERPRETING = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """``ACTIVATION(x)`` for a float32 tile; NaN stays NaN, as in torch."""
    tl.static_assert(
        ACTIVATION == "none"
        or ACTIVATION == "relu"
        or ACTIVATION == "relu6"
        or ACTIVATION == "hardswish"
        or ACTIVATION == "silu"
    )
    if ACTIVATION == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "relu6":
        x = tl.clamp(x, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "hardswish":
        x = x * tl.clamp(x + 3.0, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL) * (1.0 / 6.0)
    elif ACTIVATION == "silu":
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """A float32 tile rounded to the nearest ``dtype``, ties to even."""
    if INTERPRETING and dtype == tl.bfloat16:
        # The interpreter would truncate. NaN keeps its high bits: a carry cannot turn it into infinity.
        bits = x.to(tl.uint32, bitcast=True)
        carry = tl.where(x == x, 0x7FFF + ((bits >> 16) & 1), 0)
        y = ((bits + carry) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        y = x.to(dtype)
    return y


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """``acc + a @ b`` in float32; PRECISION ("tf32" or "ieee") is for float32 factors."""
    if INTERPRETING:
        # The interpreter multiplies the bit patterns of bfloat16; float32 holds these factors exactly.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def across(index, AXIS: tl.constexpr):
    """A vector as the AXIS (0: rows, 1: columns) of a 2-D tile."""
    return tl.expand_dims(index, 1 - AXIS)


@triton.jit
def pixels(start, height, width, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """(n, h, w) of the pixels ``start … start + BLOCK - 1``, counted through (N, height, width).

    ``start`` is an int64 scalar; the vectors divide in 32 bits unless the plane needs 64 (WIDE).
    """
    plane = tl.cast(height, tl.int64) * width
    first = start // plane
    offset = start % plane
    if not WIDE:
        offset = offset.to(tl.int32)
    rest = offset + tl.arange(0, BLOCK)
    plane = plane.to(rest.dtype)
    inside = rest % plane
    return first + rest // plane, inside // width, inside % width


def is_wide(plane: int) -> bool:
    """Whether 32-bit pixel numbers could overflow in a plane of that many pixels, plus a tile's."""
    return plane >= 2**30


def power_of_2(n: int, low: int, high: int) -> int:
    """The least power of 2 >= ``n``, within [low, high]. Takes a SymInt too, at the cost of guards."""
    block = low
    while block < high and block < n:
        block *= 2
    return block


def sizes(name: str, tensor: Tensor) -> dict[str, int]:
    """The plane's size as the kernel arguments ``<name>_height`` and ``<name>_width``."""
    return {f"{name}_height": tensor.shape[2], f"{name}_width": tensor.shape[3]}


def strides(name: str, tensor: Tensor | None) -> dict[str, int]:
    """The strides, in elements, as the kernel arguments ``<name>_stride_n`` and so on; 0 for None."""
    return {f"{name}_stride_{d}": 0 if tensor is None else tensor.stride(i) for i, d in enumerate("nchw")}


@dataclass(frozen=True)
class Launch:
    """One kernel call, all but the kernel: what the ops launch and the tests compile ahead of time."""

    op: str
    grid: tuple[int, ...]
    args: dict[str, Any]
    num_warps: int
    num_stages: int

    def __call__(self, kernel: Any, y: Tensor) -> None:
        """Runs ``kernel`` on the device of ``y``, its output, or traces it where ``y`` is a fake tensor.

        Raises:
            RuntimeError: where ``y`` is a real tensor of a device or dtype that the kernels do not take.
        """
        real = type(y) is Tensor
        if y.is_meta or (INTERPRETING and not real):
            return
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        if real:
            reason = unsupported(y)
            if reason is not None:
                raise RuntimeError(f"mbv1::{self.op}_triton: cannot run: {reason}")
        # Triton launches on the current device, and generated code that traced the call sets that itself.
        with torch.cuda.device(y.device if real and y.is_cuda else -1):
            kernel[self.grid](**self.args, **options)


def wrap_triton(kernel: Any) -> Any:
    """``torch.library.wrap_triton``, which not every torch allows on an interpreted kernel.

    Called by this name, and in the op itself: ``triton_op`` looks for it there to learn the op's kernels.
    """
    return kernel if INTERPRETING else torch.library.wrap_triton(kernel)


def register(op: str, arguments: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Registers a function as ``mbv1::<op>_triton(<arguments>) -> Tensor``, and what is attached to that op.

    Interpreted kernels cannot be traced, so that their ops are opaque ones, whose fake is the op itself.
    """
    name = f"mbv1::{op}_triton"
    schema = f"({arguments}) -> Tensor"

    def decorate(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if INTERPRETING:
            torch.library.custom_op(name, fn, mutates_args=(), schema=schema).register_fake(fn)
        else:
            torch.library.triton_op(name, fn, mutates_args=(), schema=schema)
        if op in _attachments:
            _attachments[op](f"{op}_triton")
        return fn

    return decorate
