"""MobileNetV1's layers as calls of the ops, and their floors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: By the kernels' names; tf32 are float32 tensors whose product may round its factors to TF32.
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "tf32": torch.float32}
LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}

# Input channels, size, stride, output channels of the nine distinct blocks (arXiv 1704.04861, table 1).
_BLOCKS = {
    "block 1": (32, 112, 1, 64),
    "block 2": (64, 112, 2, 128),
    "block 3": (128, 56, 1, 128),
    "block 4": (128, 56, 2, 256),
    "block 5": (256, 28, 1, 256),
    "block 6": (256, 28, 2, 512),
    "blocks 7-11": (512, 14, 1, 512),
    "block 12": (512, 14, 2, 1024),
    "block 13": (1024, 7, 1, 1024),
}


@dataclass(frozen=True)
class Layer:
    """One layer of the net; ``size`` is the input's height and width."""

    name: str
    op: str
    channels: int
    size: int
    stride: int
    out: int

    @property
    def out_size(self) -> int:
        return (self.size - 1) // self.stride + 1

    def cut(self, most_channels: int) -> Layer:
        """The layer with at most so many channels: counts per output hardly change with their number."""
        channels, out = min(self.channels, most_channels), min(self.out, most_channels)
        return Layer(self.name, self.op, channels, self.size, self.stride, out)

    def elements(self, batch: int) -> tuple[int, int, int]:
        """Of the input, of the output, and of weights and biases."""
        c, o = self.channels, self.out
        pixels_in, pixels_out = self.size**2, self.out_size**2
        if self.op == "dwconv2d":
            return batch * c * pixels_in, batch * c * pixels_out, 10 * c
        if self.op == "pwconv2d":
            return batch * c * pixels_in, batch * o * pixels_in, c * o + o
        if self.op == "separable_conv2d":
            return batch * c * pixels_in, batch * o * pixels_out, 10 * c + c * o + o
        if self.op == "stem_conv2d":
            return batch * c * pixels_in, batch * o * pixels_out, 9 * c * o + o
        return batch * c * pixels_in, batch * o, c * o + o

    def floor_bytes(self, batch: int, dtype: str) -> int:
        """Each tensor through memory once."""
        return sum(self.elements(batch)) * DTYPES[dtype].itemsize

    def outputs(self, batch: int) -> int:
        return self.elements(batch)[1]

    def call(self, batch: int, dtype: str, layout: str, device: str = "cuda") -> tuple[Any, ...]:
        """Arguments of ``torch.ops.mbv1.<op>``; what the tensors hold does not matter."""
        kind, allow_tf32 = DTYPES[dtype], dtype == "tf32"

        def tensor(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=kind, device=device)

        x = torch.empty((batch, self.channels, self.size, self.size), dtype=kind, device=device,
                        memory_format=LAYOUTS[layout])  # fmt: skip
        c, o, stride = self.channels, self.out, [self.stride] * 2
        window: tuple[Any, ...] = (stride, [1, 1, 1, 1])
        if self.op == "dwconv2d":
            return x, tensor(c, 1, 3, 3), tensor(c), *window, [1, 1], "relu"
        if self.op == "pwconv2d":
            return x, tensor(o, c, 1, 1), tensor(o), "relu", None, allow_tf32
        if self.op == "separable_conv2d":
            weights = tensor(c, 1, 3, 3), tensor(c), tensor(o, c, 1, 1), tensor(o)
            return x, *weights, *window, [1, 1], "relu", "relu", None, allow_tf32
        if self.op == "stem_conv2d":
            return x, tensor(o, c, 3, 3), tensor(o), *window, "relu"
        return x, tensor(o, c), tensor(o)


def layers() -> Iterator[Layer]:
    """Every distinct layer, each half of a block alone and both together."""
    yield Layer("stem", "stem_conv2d", 3, 224, 2, 32)
    for name, (channels, size, stride, out) in _BLOCKS.items():
        yield Layer(name, "dwconv2d", channels, size, stride, channels)
        yield Layer(name, "pwconv2d", channels, (size - 1) // stride + 1, 1, out)
        yield Layer(name, "separable_conv2d", channels, size, stride, out)
    yield Layer("head", "pool_linear", 1024, 7, 1, 1000)


def settings() -> Iterator[tuple[Layer, str, str]]:
    """Every layer in every dtype and layout that its kernels know."""
    for layer in layers():
        for dtype in DTYPES:
            if dtype != "tf32" or layer.op in ("pwconv2d", "separable_conv2d"):
                yield from ((layer, dtype, layout) for layout in LAYOUTS)
