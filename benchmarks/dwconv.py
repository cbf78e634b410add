"""One depthwise layer at a time: convolution + bias + ReLU, against every peer.

    python -m benchmarks.dwconv [--quick] [--batch N …] [--dtype …] [--layout …] [--filter TEXT] [--json FILE]

Layers come from ``benchmarks/shapes/``. ``roof`` is the share of what the device's measured memory bandwidth
and multiply-add rate allow; small layers stay in caches and can pass 100%. ``peak`` is the share of the
multiply-add rate alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mbv1_kernels

from . import options, suite
from .peers import DWCONV
from .report import Screen
from .roofline import Roofline, measure
from .shapes import DwShape, load
from .suite import Case
from .work import dwconv_work
from .workload import DTYPES, Workload, checked, randomize_batch_norm

#: What --quick runs: a large and a small layer of the net, stride 2, and each of the harder kinds.
QUICK = ("mbv1 block 1", "mbv1 block 4", "mbv1 block 7", "k5 mbv3", "k7 convnext 3", "dilated mbv1 os16")

_DEFAULTS = options.Defaults(cpu_batches=(1,), cuda_batches=(1, 128), cpu_dtypes=("fp32", "bf16"))


class DwConv(Workload):
    """conv → batch norm → ReLU with ``shape``'s window. Torch and ours are both called as functions: a layer
    is too short to pay for ``nn.Module`` on one side only."""

    def __init__(self, shape: DwShape, batch: int, dtype: torch.dtype, layout: str, device: torch.device) -> None:
        c, self._shape = shape.channels, shape
        window = (shape.kernel, shape.stride, shape.padding, shape.dilation)
        conv = nn.Conv2d(c, c, *window, groups=c, bias=False)
        layer = nn.Sequential(conv, nn.BatchNorm2d(c), nn.ReLU()).eval().requires_grad_(False)
        randomize_batch_norm(layer)
        super().__init__(layer, (batch, c, shape.height, shape.width), dtype, layout, device)

    def ours(self, backend: str = "auto") -> Callable[[], Tensor]:
        (conv,) = (m for m in self.folded.modules() if isinstance(m, nn.Conv2d))
        run = partial(
            mbv1_kernels.dwconv2d,
            self.x,
            conv.weight,
            conv.bias,
            stride=self._shape.stride,
            padding=self._shape.padding,
            dilation=self._shape.dilation,
            activation="relu",
            backend=backend,
        )
        return checked(run, backend)

    def eager(self, module: nn.Module) -> Callable[[], Tensor]:
        (conv,) = (m for m in module.modules() if isinstance(m, nn.Conv2d))
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        window = (conv.stride, conv.padding, conv.dilation, conv.groups)
        convolve = partial(torch.conv2d, self.x, conv.weight, conv.bias, *window)
        if not norms:
            return lambda: torch.relu_(convolve())
        (norm,) = norms
        parameters = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return lambda: torch.relu_(F.batch_norm(convolve(), *parameters, eps=norm.eps))


def make_cases(
    setting: options.Setting, rooflines: Mapping[int, Roofline], filter_text: str, large: bool
) -> tuple[list[Case], list[str]]:
    """The cases to run, and a note for what is left out. One dtype comes after the other, so that a run that
    is out of time has every layer in the first one."""
    shapes = [shape for shape in load() if filter_text in shape.name]
    notes = []
    if setting.quick and not filter_text:
        notes.append(f"quick: {len(QUICK)} of {len(shapes)} layers")
        shapes = [shape for shape in shapes if shape.name in QUICK]
    if not large:
        notes += [f"{shape.name} left out: large; --large runs it" for shape in shapes if shape.large]
        shapes = [shape for shape in shapes if not shape.large]
    cases = [
        _case(shape, batch, dtype, layout, threads, setting.device, rooflines[threads])
        for dtype in setting.dtypes
        for shape in shapes
        for batch in ((shape.batch,) if shape.batch else setting.batches)
        for layout in setting.layouts
        for threads in setting.threads
    ]
    return cases, notes


def _case(
    shape: DwShape, batch: int, dtype: str, layout: str, threads: int, device: torch.device, roofline: Roofline
) -> Case:
    torch_dtype = DTYPES[dtype]
    size_in = (shape.height, shape.width)
    work = dwconv_work(batch, shape.channels, size_in, shape.output_size, shape.kernel, torch_dtype.itemsize)
    return Case(
        shape.name,
        batch,
        dtype,
        layout,
        threads,
        work,
        roofline.bound(work),
        roofline.rate("dw", torch_dtype),
        partial(DwConv, shape, batch, torch_dtype, layout, device),
        {"origin": shape.origin, "channels": shape.channels, "height": shape.height, "width": shape.width}
        | {"kernel": shape.kernel, "stride": shape.stride, "dilation": shape.dilation},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit code."""
    parser = options.parser(__doc__.splitlines()[0], _DEFAULTS)
    parser.add_argument("--filter", default="", metavar="TEXT", help="only layers whose name contains TEXT")
    parser.add_argument("--large", action="store_true", help="large layers too; on a GPU they always run")
    given = parser.parse_args(arguments)
    setting = options.resolve(given, DWCONV, _DEFAULTS)
    dtypes = [DTYPES[d] for d in setting.dtypes]
    rooflines = measure(setting.device, dtypes, setting.threads, 0.2 if setting.quick else 0.6)
    cases, notes = make_cases(setting, rooflines, given.filter, given.large or setting.device.type == "cuda")
    if not cases:
        parser.error(f"--filter: expected part of a layer's name, got {given.filter!r}")
    return suite.run(DWCONV, setting, cases, rooflines, Screen(), notes)


if __name__ == "__main__":
    sys.exit(main())
