"""The layers to measure, from the JSON files of this folder: one file a net, and what users report.

A file has a ``source``, a ``net`` (its short name) and lists of layers under ``dwconv`` (depthwise convolutions),
``pwconv`` (1x1 convolutions) and ``separable`` (a depthwise and the pointwise after it). A layer has ``channels`` and
``size`` of its input (H = W, or [H, W]); ``kernel`` (or [KH, KW]) and ``stride`` of a depthwise half; ``out``, the
channels of a pointwise half; and may have

- ``name``: by default the net's, with the sizes;
- ``from``: where it occurs, by default the file's ``source``;
- ``times``: how many layers of the net are of this shape (default 1);
- ``dilation`` (default 1);
- ``batch``: its own, whatever the command line says;
- ``large``: left out on CPUs unless asked for.

Padding is ``dilation * (kernel - 1) // 2``: with an odd kernel it keeps the size at stride 1. Every layer is measured
with batch norm and ReLU, whatever its net has there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

#: The lists of a file, named as the suites that run them.
OPS = ("dwconv", "pwconv", "separable")


@dataclass(frozen=True)
class Shape:
    """One layer: sizes of its input without the batch, and windows. ``kernel`` and ``stride`` are of the depthwise
    half, ``out`` of the pointwise one; ``kernel`` or ``out`` is None where there is no such half."""

    op: str
    name: str
    net: str
    origin: str
    channels: int
    height: int
    width: int
    kernel: tuple[int, int] | None = None
    stride: int = 1
    dilation: int = 1
    out: int | None = None
    times: int = 1
    batch: int | None = None
    large: bool = False

    @property
    def padding(self) -> tuple[int, int]:
        """(vertical, horizontal)."""
        height, width = self.kernel or (1, 1)
        return self.dilation * (height - 1) // 2, self.dilation * (width - 1) // 2

    @property
    def facts(self) -> dict[str, object]:
        """What a row of results says about the layer."""
        sizes = {"channels": self.channels, "height": self.height, "width": self.width, "out": self.out}
        window = {"kernel": self.kernel, "stride": self.stride, "dilation": self.dilation}
        return {"net": self.net, "origin": self.origin, "times": self.times, **sizes, **window}


def load(op: str, folder: Path = FOLDER) -> list[Shape]:
    """Every layer for the suite ``op`` (one of ``OPS``) of every file in ``folder``, MobileNetV1's first. Raises
    ValueError for two of the same name."""
    shapes: list[Shape] = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (path.stem != "mobilenetv1", path.stem)):
        shapes += _shapes(op, json.loads(path.read_text()))
    names = [shape.name for shape in shapes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"benchmark shapes: {op}: name: expected no two alike, got {', '.join(twice)}")
    return shapes


def _shapes(op: str, file: Mapping[str, Any]) -> Iterator[Shape]:
    for layer in file.get(op, []):
        layer = dict(layer)
        height, width = _pair(layer.pop("size"))
        kernel = _pair(layer.pop("kernel")) if "kernel" in layer else None
        origin = layer.pop("from", file["source"])
        name = layer.pop("name", None) or _name(file["net"], height, kernel, layer)
        yield Shape(op, name, file["net"], origin, layer.pop("channels"), height, width, kernel, **layer)


def _pair(size: int | list[int]) -> tuple[int, int]:
    height, width = size if isinstance(size, list) else (size, size)
    return height, width


def _name(net: str, height: int, kernel: tuple[int, int] | None, layer: Mapping[str, Any]) -> str:
    """``mbv2 96x112 k3s2``, ``mbv2 96-24x56``: channels in and out, size, window."""
    channels = f"{layer['channels']}-{layer['out']}" if "out" in layer else str(layer["channels"])
    window = f" k{kernel[0]}s{layer['stride']}" if kernel else ""
    return f"{net} {channels}x{height}{window}"
