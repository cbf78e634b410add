"""The layers of MobileNetV1 one by one: the stem, each distinct depthwise and pointwise layer, each distinct block,
and pooling with the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from torch import nn

from mbv1 import MobileNetV1

from .cases import Case
from .layers import layer_case
from .options import Setting
from .roofline import Roofline
from .work import layers_of


@dataclass(frozen=True)
class Part:
    """A part of the net and the size of its input for one image. ``blocks`` have it in the same sizes."""

    kind: str
    module: nn.Sequential
    size: tuple[int, int, int]
    blocks: list[int]

    @property
    def name(self) -> str:
        if not self.blocks:
            return self.kind
        first, last = self.blocks[0], self.blocks[-1]
        return f"block {first}{f'-{last}' if last > first else ''} {self.kind}"


def parts_of(net: MobileNetV1, resolution: int) -> list[Part]:
    """In the order in which they run, those of the same sizes together."""
    stem, *layers, _ = layers_of(net, (1, net.ch_in, resolution, resolution))
    found: dict[tuple[object, ...], Part] = {}
    for i, (block, dw, pw) in enumerate(zip(net.model[1:-1], layers[::2], layers[1::2], strict=True), start=1):
        dw_size, pw_size = ((layer.channels, layer.height, layer.width) for layer in (dw, pw))
        for kind, module, size, sizes in (
            ("dw", block[:3], dw_size, (dw.stride,)),
            ("pw", block[3:], pw_size, (pw.outputs,)),
            ("dw+pw", block, dw_size, (dw.stride, pw.outputs)),
        ):
            found.setdefault((kind, size, sizes), Part(kind, module, size, [])).blocks.append(i)
    last = layers[-1]
    pixels = last.height * last.width
    head = nn.Sequential(net.model[-1], nn.Flatten(), net.fc)
    return [
        Part("stem", net.model[0], (stem.channels, stem.height, stem.width), []),
        *found.values(),
        Part("pool+linear", head, (last.outputs // pixels, last.height, last.width), []),
    ]


def make_cases(setting: Setting, rooflines: Mapping[int, Roofline], net: MobileNetV1, resolution: int) -> list[Case]:
    """One case for each part, batch, dtype, layout and number of threads."""
    return [
        layer_case(
            f"{net.width_mult:g}-{resolution} {part.name}",
            part.module,
            (batch, *part.size),
            dtype,
            layout,
            threads,
            setting.device,
            rooflines[threads],
            {"times": max(len(part.blocks), 1), "width_mult": net.width_mult, "resolution": resolution},
        )
        for dtype, batch, layout, threads in product(
            setting.dtypes, setting.batches, setting.layouts, setting.threads
        )
        for part in parts_of(net, resolution)
    ]
