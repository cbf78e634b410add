"""Writes the table of cases for driver.cpp: inputs, what a kernel is told, and what is right within which error.

python -m tests.cpu.cases_file FILE
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mbv1_kernels import ACTIVATIONS, backends
from mbv1_kernels.layout import is_channels_last
from tests import chains
from tests.cases import CASES, DTYPES, LAYOUTS, Call, build, expectation
from tests.special_calls import cancelling, every_16_bit_value, rounded_between, sums_to_round

_ALIGNMENT = 64  # of torch's memory

#: An item of the params of a kernel; Output stands for y.
Item = int | Tensor | None


class Output:
    """The result of a call, which lies as the binding would allocate it, and the error that is allowed."""

    def __init__(self, nhwc: bool, exact: Tensor, allowed: float) -> None:
        self.exact = exact.contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
        self.allowed = allowed


def calls() -> Iterator[tuple[str, Call, Tensor, float]]:
    """Each call with its name, the exact result and the error that is allowed. Every case comes in NCHW and NHWC in
    each dtype, and in each other layout in one dtype or two."""
    rare = [layout for layout in LAYOUTS if layout not in ("nchw", "nhwc")]
    for i, case in enumerate(CASES):
        for j, (name, dtype) in enumerate(DTYPES.items()):
            for layout in ("nchw", "nhwc", *(rare[(i + 3 * j + k) % len(rare)] for k in range(3))):
                call = build(case, dtype, layout)
                yield (f"{case}-{name}-{layout}", call, *expectation(call))
    for name, dtype in DTYPES.items():
        for layout in ("nchw", "nhwc"):
            for op in backends.OPS:
                call, exact = cancelling(op, dtype, layout)
                yield f"cancelling-{op}-{name}-{layout}", call, exact.double(), 0.0
            call, value = rounded_between(dtype, layout)
            yield f"rounded-{name}-{layout}", call, torch.full_like(call(), value).double(), 0.0
    for name in ("f16", "bf16"):
        for make in (every_16_bit_value, sums_to_round):
            call, exact = make(DTYPES[name])
            yield f"{make.__name__}-{name}", call, exact.double(), 0.0


def write(file: BinaryIO) -> int:
    """Writes all cases; how many."""
    count = 0
    for case in calls():
        write_case(file, *case)
        count += 1
    for net in chains.NETS:
        for name, dtype in DTYPES.items():
            for layout in chains.LAYOUTS:
                write_chain(file, f"{net}-{name}-{layout}", *chains.make(net, dtype, layout))
                count += 1
    return count


def write_case(
    file: BinaryIO, name: str, call: Call, exact: Tensor, allowed: float, missing: dict[int, int] | None = None
) -> None:
    """Writes one case. ``missing`` has the number of bytes that the memory of an item lacks at its end, by the item's
    index: whoever reads the whole item reads beyond it."""
    _write_text(file, name)
    _write_text(file, call.op)
    y = Output(exact.dim() == 4 and is_channels_last(call.args[0]), exact, allowed)
    for index, item in enumerate(_items(call, y)):
        _write_item(file, item, (missing or {}).get(index, 0))


def write_chain(file: BinaryIO, name: str, x: Tensor, weights, activations, windows) -> None:
    """Writes a chain as one case."""
    y = Output(True, *chains.expectation(x, weights, activations, windows))
    _write_text(file, name)
    _write_text(file, "chain")
    dtype = list(DTYPES.values()).index(x.dtype)
    items: list[Item | Output] = [x, y, x.shape[0], *x.stride(), *y.exact.stride(), len(weights), dtype]
    channels, h, w = x.shape[1:]
    for (dw, dw_bias, weight, bias), pair, window in zip(weights, activations, windows, strict=True):
        sliding = weight if dw is None else dw
        top, bottom, left, right = window.padding
        padded = h + top + bottom, w + left + right
        out_h, out_w = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                padded, sliding.shape[2:], window.stride, window.dilation, strict=True
            )
        )
        items += [int(dw is not None), channels, weight.shape[0], h, w, out_h, out_w]
        items += _window(sliding, window.stride, window.padding, window.dilation)
        items += [ACTIVATIONS.index(activation) for activation in pair]
        items += [dw, dw_bias, weight, bias, *(sliding.stride(i) for i in (0, 2, 3)), _stride(dw_bias)]
        items += [weight.stride(0), weight.stride(1), _stride(bias)]
        channels, h, w = weight.shape[0], out_h, out_w
    for item in items:
        _write_item(file, item, 0)


def _items(call: Call, y: Output) -> list[Item | Output]:
    """The fields of the op's params in the order of driver.cpp."""
    arguments = call.normalized
    x = arguments[0]
    dtype = list(DTYPES.values()).index(x.dtype)
    if call.op == "dwconv2d":
        _, weight, bias, stride, padding, dilation, activation = arguments
        return _depthwise(x, weight, bias, y, stride, padding, dilation, activation, dtype, y.exact)
    if call.op == "pwconv2d":
        _, weight, bias, activation, residual, _ = arguments
        return _pointwise(x, x.shape[1], weight, bias, activation, residual, dtype, y)
    if call.op == "separable_conv2d":
        _, dw_weight, dw_bias, weight, bias, stride, padding, dilation, dw_activation, activation, residual, _ = (
            arguments
        )
        dw = _depthwise(x, dw_weight, dw_bias, None, stride, padding, dilation, dw_activation, dtype, y.exact)
        return dw + _pointwise(None, x.shape[1], weight, bias, activation, residual, dtype, y)
    _, weight, bias, *window = arguments
    if call.op == "stem_conv2d":
        stride, padding, activation = window
        sizes = [x.shape[0], x.shape[1], weight.shape[0], *x.shape[2:], *y.exact.shape[2:]]
        strides = [*x.stride(), *y.exact.stride(), *weight.stride(), _stride(bias)]
        window = _window(weight, stride, padding, (1, 1))
        return [x, weight, bias, y, *sizes, *strides, *window, ACTIVATIONS.index(activation), dtype]
    sizes = [*x.shape, weight.shape[0]]
    return [x, weight, bias, y, *sizes, *x.stride(), *weight.stride(), _stride(bias), dtype]


def _depthwise(x, weight, bias, y, stride, padding, dilation, activation, dtype, exact) -> list[Item | Output]:
    n, c, h, w = x.shape
    _, _, out_h, out_w = exact.shape
    y_strides = [0] * 4 if y is None else list(exact.stride())
    weight_strides = [weight.stride(i) for i in (0, 2, 3)]
    strides = [*x.stride(), *y_strides, *weight_strides, _stride(bias)]
    window = _window(weight, stride, padding, dilation)
    activation = ACTIVATIONS.index(activation)
    return [x, weight, bias, y, n, c, h, w, out_h, out_w, *strides, *window, activation, dtype]


def _pointwise(x, channels, weight, bias, activation, residual, dtype, y) -> list[Item | Output]:
    n, out, h, w = y.exact.shape
    x_strides, residual_strides = ([0] * 4 if t is None else list(t.stride()) for t in (x, residual))
    weight_strides = [weight.stride(0), weight.stride(1)]
    strides = [*x_strides, *residual_strides, *y.exact.stride(), *weight_strides, _stride(bias)]
    return [x, weight, bias, residual, y, n, channels, out, h, w, *strides, ACTIVATIONS.index(activation), dtype]


def _window(weight: Tensor, stride, padding, dilation) -> list[int]:
    return [weight.shape[2], weight.shape[3], *stride, padding[0], padding[2], *dilation]


def _stride(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.stride(0)


def _write_item(file: BinaryIO, item: Item | Output, missing: int) -> None:
    if isinstance(item, int):
        file.write(b"i" + struct.pack("<q", item))
    elif item is None:
        file.write(b"n")
    elif isinstance(item, Output):
        memory = item.exact.as_strided((item.exact.numel(),), (1,))
        file.write(b"y" + struct.pack("<dq", item.allowed, memory.numel()) + memory.numpy().tobytes())
    else:
        # From the first element to the last: no kernel has business outside.
        last = sum((size - 1) * stride for size, stride in zip(item.shape, item.stride(), strict=True))
        memory = item.as_strided((last + 1,), (1,)).view(torch.uint8).numpy().tobytes()
        memory = memory[: len(memory) - missing]
        file.write(b"t" + struct.pack("<qq", item.data_ptr() % _ALIGNMENT, len(memory)) + memory)


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(struct.pack("<q", len(text)) + text.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    with parser.parse_args().file.open("wb") as opened:
        print(write(opened), "cases")
