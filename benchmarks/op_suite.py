"""The suites of one op each: every layer of ``shapes/`` that is such an op, in every batch, dtype and layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from . import options, suite
from .cases import Case
from .layers import layer_case
from .report import Screen
from .roofline import Roofline, measure
from .shapes import Shape, load
from .workload import DTYPES, randomize_batch_norm

#: The nets, as files of ``shapes/`` call them, whose layers run unless others are asked for.
_NETS = ("mbv1", "users")

_DEFAULTS = options.Defaults(cpu_batches=(1,), cuda_batches=(1, 128), cpu_dtypes=("fp32", "bf16"))


@dataclass(frozen=True)
class OpSuite:
    """The benchmark of one op. ``name`` is its list in ``shapes/``, ``quick`` are the names of the layers that
    --quick runs."""

    name: str
    title: str
    quick: tuple[str, ...]

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Runs the benchmark; the exit code."""
        parser = options.parser(self.title, _DEFAULTS)
        parser.add_argument("--filter", default="", metavar="TEXT", help="only layers whose name contains TEXT")
        nets = list(dict.fromkeys(shape.net for shape in load(self.name)))
        of_nets = f"the layers of these nets; default: {', '.join(_NETS)}, and all with --full or --filter"
        parser.add_argument("--net", nargs="+", choices=nets, metavar="NET", help=f"{of_nets}; of {', '.join(nets)}")
        parser.add_argument("--large", action="store_true", help="large layers too; on a GPU they always run")
        given = parser.parse_args(arguments)
        setting = options.resolve(given, self.name, _DEFAULTS)
        wanted = given.net or (nets if given.full or given.filter else _NETS)
        shapes, notes = self.select(setting, wanted, given.filter, given.large or setting.device.type == "cuda")
        if not shapes:
            parser.error(f"--filter: expected part of a layer's name, got {given.filter!r}")
        dtypes = [DTYPES[d] for d in setting.dtypes]
        rooflines = measure(setting.device, dtypes, setting.threads, 0.2 if setting.quick else 0.6)
        return suite.run(self.name, setting, make_cases(setting, rooflines, shapes), rooflines, Screen(), notes)

    def select(
        self, setting: options.Setting, nets: Sequence[str], text: str, large: bool
    ) -> tuple[list[Shape], list[str]]:
        """The layers to run, and a note for what is left out."""
        shapes = [shape for shape in load(self.name) if text in shape.name]
        if setting.quick and not text:
            notes = [f"quick: {len(self.quick)} of {len(shapes)} layers"]
            shapes = [shape for shape in shapes if shape.name in self.quick]
        else:
            others = list(dict.fromkeys(shape.net for shape in shapes if shape.net not in nets))
            notes = [f"left out: the layers of {', '.join(others)}; --net and --full run them"] if others else []
            shapes = [shape for shape in shapes if shape.net in nets]
        if not large:
            notes += [f"{shape.name} left out: large; --large runs it" for shape in shapes if shape.large]
            shapes = [shape for shape in shapes if not shape.large]
        return shapes, notes


def make_cases(setting: options.Setting, rooflines: Mapping[int, Roofline], shapes: Sequence[Shape]) -> list[Case]:
    """One dtype comes after the other, so that a run that is out of time has every layer in the first one."""
    modules = {shape: make_module(shape) for shape in shapes}
    return [
        layer_case(
            shape.name,
            modules[shape],
            (batch, shape.channels, shape.height, shape.width),
            dtype,
            layout,
            threads,
            setting.device,
            rooflines[threads],
            shape.facts,
        )
        for dtype in setting.dtypes
        for shape in shapes
        for batch in ((shape.batch,) if shape.batch else setting.batches)
        for layout in setting.layouts
        for threads in setting.threads
    ]


def make_module(shape: Shape) -> nn.Sequential:
    """conv → batch norm → ReLU for each half of ``shape``, in eval mode, with random weights."""
    c, halves = shape.channels, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if shape.kernel is not None:
            window = (shape.kernel, shape.stride, shape.padding, shape.dilation)
            halves.append(nn.Sequential(nn.Conv2d(c, c, *window, groups=c, bias=False), nn.BatchNorm2d(c), nn.ReLU()))
        if shape.out is not None:
            out = shape.out
            halves.append(nn.Sequential(nn.Conv2d(c, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()))
    module = nn.Sequential(*halves).eval().requires_grad_(False)
    randomize_batch_norm(module)
    return module
