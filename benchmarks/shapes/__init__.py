"""Depthwise layers to measure, from the JSON files of this folder.

A file has a ``source`` and ``layers``; a layer has ``name``, ``channels``, ``size`` (H = W, or [H, W]),
``kernel``, ``stride`` and ``from`` (where it occurs), and may have ``dilation`` (default 1), ``batch`` (its
own, whatever the command line says) and ``large`` (left out on CPUs unless asked for). Padding keeps the size
at stride 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class DwShape:
    """One depthwise layer: square kernel, stride and dilation, symmetric padding."""

    name: str
    origin: str
    channels: int
    height: int
    width: int
    kernel: int
    stride: int
    dilation: int = 1
    batch: int | None = None
    large: bool = False

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel - 1) // 2

    @property
    def output_size(self) -> tuple[int, int]:
        def out(size: int) -> int:
            return (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

        return out(self.height), out(self.width)


def load(folder: Path = FOLDER) -> list[DwShape]:
    """Every layer of every file in ``folder``. Raises ValueError for two of the same name."""
    shapes = []
    for path in sorted(folder.glob("*.json")):
        shapes += [_shape(layer) for layer in json.loads(path.read_text())["layers"]]
    names = [shape.name for shape in shapes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"benchmark shapes: name: expected no two alike, got {', '.join(twice)}")
    return shapes


def _shape(layer: dict) -> DwShape:
    layer = dict(layer)
    size = layer.pop("size")
    height, width = size if isinstance(size, list) else (size, size)
    return DwShape(origin=layer.pop("from"), height=height, width=width, **layer)
