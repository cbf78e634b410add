"""The layers of MobileNetV1 one by one: the stem, each distinct depthwise and pointwise layer, each distinct block,
and pooling with the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

from torch import Tensor, nn

from mbv1 import MobileNetV1
from mbv1_kernels import pool_linear, separable_conv2d

from .options import Setting
from .roofline import Roofline
from .suite import Case
from .work import layers_of, total
from .workload import DTYPES, Workload, checked


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


class LayerWorkload(Workload):
    """One part; ours is the op that the fused net has for it, with batch norm folded."""

    def ours(self, backend: str = "auto") -> Callable[[], Tensor]:
        x = self.x
        layers = [m for m in self.folded.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        weights = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        if isinstance(layers[0], nn.Linear):
            return checked(lambda: pool_linear(x, *weights, backend=backend), backend)
        if len(layers) == 1:
            return checked(lambda: layers[0].run(x, *weights, "relu", backend), backend)
        window = {"stride": layers[0].stride, "padding": layers[0].padding}
        run = partial(separable_conv2d, x, *weights, **window, dw_activation="relu", activation="relu")
        return checked(partial(run, backend=backend), backend)


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
    cases = []
    for dtype, batch, layout, threads in product(setting.dtypes, setting.batches, setting.layouts, setting.threads):
        roofline, torch_dtype = rooflines[threads], DTYPES[dtype]
        for part in parts_of(net, resolution):
            shape = (batch, *part.size)
            layers = layers_of(part.module, shape)
            bound = roofline.blocks_bound(layers, torch_dtype)
            make = partial(LayerWorkload, part.module, shape, torch_dtype, layout, setting.device)
            work, rate = total(layers, torch_dtype.itemsize), roofline.rate(layers[-1].kind, torch_dtype)
            facts: dict[str, object] = {"times": max(len(part.blocks), 1)}
            cases.append(Case(part.name, batch, dtype, layout, threads, work, bound, rate, make, facts))
    return cases
