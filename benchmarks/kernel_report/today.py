"""What users run today, in the cost model's terms, layer by layer.

torch's native depthwise kernel is read from its machine code in libtorch_cuda: one output a thread, each of its
window's inputs and weights by a scalar load. Batch norm, ReLU and Inductor's fused pass over a convolution's result
read and write each element once. A pointwise convolution counts as a product of matrices at its floor: all of the
tensor cores, each tensor through memory once. In NHWC, where cuDNN's depthwise kernel is closed, it too counts at its
floor. So the bounds are kind to what they stand for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .binaries import Binary, ToolError, read_file, run, tool
from .layers import DTYPES, Layer

_KERNEL = re.compile(r"Function (\S*conv_depthwise2d_forward_kernelILi3E\S*):")
_TYPES = {"f16": "c104Half", "bf16": "c108BFloat16", "f32": "ELi3EfiE"}
_SECTOR = 32
_ELEMENTWISE_THREADS, _ELEMENTS_A_THREAD = 128, 4  # of torch's vectorized elementwise kernels
_NATIVE_THREADS = 1024  # of torch's GET_BLOCKS
_FLOOR_BLOCKS = 1024  # whatever the layer: enough for every SM of every device, in at most three waves


@dataclass(frozen=True)
class Work:
    """The members of ``Work`` in csrc/cuda/cost_model.h, in order."""

    blocks: float
    threads: float
    registers: float
    shared_bytes: float
    dram_bytes: float
    l2_bytes: float
    l1_bytes: float
    ffma: float
    mma_flops: float
    instructions: float
    round_trips: float = 1

    def numbers(self) -> list[float]:
        return [float(value) for value in vars(self).values()]


@dataclass(frozen=True)
class Native:
    """torch's native 3x3 depthwise kernel for one dtype."""

    binary: Binary
    instructions: int  # for an output
    loads: int


def native_kernels(arch: str = "sm_80") -> dict[str, Native]:
    """By dtype, from this torch's libtorch_cuda. ToolError where that cannot be read."""
    path = Path(torch.__file__).parent / "lib/libtorch_cuda.so"
    if not path.exists():
        raise ToolError(f"{path.name} is not part of this torch")
    symbols = _KERNEL.findall(run(tool("cuobjdump"), "-arch", arch, "-res-usage", path))
    found = {}
    for dtype, marker in _TYPES.items():
        symbol = next((s for s in symbols if marker in s.replace("kernelILi3Ef", "kernelELi3Ef")), None)
        if symbol is None:
            raise ToolError(f"libtorch_cuda has no depthwise kernel for {dtype} and {arch}")
        (binary,) = read_file(path, arch, [symbol])
        code = run(tool("cuobjdump"), "-arch", arch, "-sass", "-fun", symbol, path)
        instructions, loads = output_loop(code)
        found[dtype] = Native(binary, instructions, loads)
    return found


def output_loop(code: str) -> tuple[int, int]:
    """The number of instructions, and of loads, in the shortest loop that stores an output."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.+?) ;", code)
    loops = []
    for i, (address, text) in enumerate(lines):
        target = re.search(r"\bBRA 0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < int(address, 16):
            body = [t for a, t in lines[: i + 1] if int(a, 16) >= int(target[1], 16)]
            if any("STG" in t for t in body):
                loops.append((len(body), sum("LDG" in t for t in body)))
    if not loops:
        raise ToolError("the machine code of torch's depthwise kernel has no loop over outputs")
    return min(loops)


def native_depthwise(layer: Layer, batch: int, dtype: str, native: Native) -> Work:
    """Neighbouring lanes make neighbours along W: a load of inputs is a row of at least 32 elements (one sector more,
    as it starts anywhere), one of weights a single sector. A block's rows meet in L1."""
    inputs, outputs, weights = layer.elements(batch)
    size = DTYPES[dtype].itemsize
    warps = outputs / 32
    row_sectors = 32 * layer.stride * size / _SECTOR + 1
    rows = max(1.0, _NATIVE_THREADS / layer.out_size)
    again = (rows * layer.stride + 2) / (rows * layer.stride)  # the rows that the next block reads too
    return Work(
        blocks=-(-outputs // _NATIVE_THREADS),
        threads=_NATIVE_THREADS,
        registers=native.binary.registers,
        shared_bytes=0,
        dram_bytes=(inputs + outputs + weights) * size,
        l2_bytes=(inputs * min(again, 3.0) + outputs) * size,
        l1_bytes=warps * (9 * row_sectors + 9 + 1) * _SECTOR + outputs * size,
        ffma=9 * outputs,
        mma_flops=0,
        instructions=native.instructions * outputs,
    )


def elementwise(elements: int, dtype: str) -> Work:
    """A pass that reads and writes each element once: batch norm, ReLU, or both as Inductor makes them."""
    moved = 2 * elements * DTYPES[dtype].itemsize
    block = _ELEMENTWISE_THREADS * _ELEMENTS_A_THREAD
    return Work(-(-elements // block), _ELEMENTWISE_THREADS, 32, 0, moved, moved, moved, elements, 0, 6 * elements)


def at_floor(layer: Layer, batch: int, dtype: str) -> Work:
    """A convolution as good as it can be: each tensor through memory once; tensor cores for a product of matrices."""
    outputs = layer.outputs(batch)
    moved = layer.floor_bytes(batch, dtype)
    macs = outputs * (9 if layer.op == "dwconv2d" else layer.channels)
    on_tensor_cores = layer.op != "dwconv2d" and dtype != "f32"
    return Work(
        blocks=_FLOOR_BLOCKS,
        threads=256,
        registers=64,
        shared_bytes=0,
        dram_bytes=moved,
        l2_bytes=moved,
        l1_bytes=moved,
        ffma=0 if on_tensor_cores else macs,
        mma_flops=2 * macs * (2 if dtype == "tf32" else 1) if on_tensor_cores else 0,
        instructions=0 if on_tensor_cores else macs,
    )


def launches(layer: Layer, batch: int, dtype: str, layout: str, native: dict[str, Native]) -> dict[str, list[Work]]:
    """Of eager mode and of torch.compile for one layer with batch norm and ReLU. A separable layer is both of its
    halves."""
    if layer.op == "separable_conv2d":
        dw = Layer(layer.name, "dwconv2d", layer.channels, layer.size, layer.stride, layer.channels)
        pw = Layer(layer.name, "pwconv2d", layer.channels, layer.out_size, 1, layer.out)
        halves = [launches(half, batch, dtype, layout, native) for half in (dw, pw)]
        return {mode: halves[0][mode] + halves[1][mode] for mode in halves[0]}
    depthwise = native.get("f32" if dtype == "tf32" else dtype)
    if layer.op == "dwconv2d" and layout == "nchw" and depthwise is not None:
        convolution = native_depthwise(layer, batch, dtype, depthwise)
    else:
        convolution = at_floor(layer, batch, dtype)
    if layer.op == "pool_linear":
        return {mode: _pool_and_linear(layer, batch, dtype) for mode in ("eager", "torch.compile")}
    single = elementwise(layer.outputs(batch), dtype)
    return {"eager": [convolution, single, single], "torch.compile": [convolution, single]}


def _pool_and_linear(layer: Layer, batch: int, dtype: str) -> list[Work]:
    """A pass over the input, and a product of matrices; both at their floor."""
    inputs, outputs, weights = layer.elements(batch)
    size = DTYPES[dtype].itemsize
    product = at_floor(layer, batch, dtype)
    pooled = batch * layer.channels * size
    moved = (weights + outputs) * size + pooled
    pool = replace(product, dram_bytes=inputs * size + pooled, l2_bytes=inputs * size, l1_bytes=inputs * size, ffma=0,
                   mma_flops=0, instructions=inputs)  # fmt: skip
    return [pool, replace(product, dram_bytes=moved, l2_bytes=moved, l1_bytes=moved)]
