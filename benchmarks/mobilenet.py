"""The whole of MobileNetV1, fused, against the same net in every peer.

    python -m benchmarks.mobilenet [--quick] [--batch N …] [--dtype …] [--layout …] [--threads N …] [--peers all]
    [--per-layer] [--width-mult A …] [--resolution R …]

``roof`` is the share of what the device's measured limits allow a net of one kernel a layer (each activation
goes through memory once between two layers); fused blocks and caches can pass 100%. ``peak`` is the share of the
measured multiply-add rate alone; by Strassen's algorithm, which takes fewer of them than are counted, nets can pass
100% of that, too. ``--per-layer`` measures every distinct layer and block of the net by itself,
``--full`` the net in every width and resolution of the paper.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from mbv1 import MobileNetV1, frozen

from . import options, per_layer, suite
from .cases import Case
from .peers import MOBILENET
from .report import Screen
from .roofline import Roofline, measure
from .work import layers_of, total
from .workload import DTYPES, Workload, checked, randomize_batch_norm

#: Those of the paper (arXiv 1704.04861), the net as it is best known first.
WIDTHS, RESOLUTIONS = (1.0, 0.75, 0.5, 0.25), (224, 192, 160, 128)

_DEFAULTS = options.Defaults(cpu_batches=(1, 8), cuda_batches=options.FULL_BATCHES, cpu_dtypes=("fp32",))


class Net(Workload):
    """MobileNetV1; ours is the same net with ``fused`` on."""

    def ours(self, backend: str = "auto") -> Callable[[], Tensor]:
        net, x = copy.deepcopy(self.unfolded), self.x
        assert isinstance(net, MobileNetV1)
        net.fused, net.backend = True, backend
        return checked(lambda: net(x), backend)

    def frozen(self) -> Callable[[], Tensor]:
        net, x = copy.deepcopy(self.unfolded), self.x
        assert isinstance(net, MobileNetV1)
        net.fused = True
        model = frozen(net)
        return lambda: model(x)


def make_net(width_mult: float, resolution: int) -> MobileNetV1:
    """MobileNetV1 with random weights, in eval mode, whose activations have the same scale in every layer:
    with batch norm as initialised they would vanish, and a wrong layer would change nothing in the result."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MobileNetV1(width_mult=width_mult).requires_grad_(False)
        randomize_batch_norm(net)
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        momentum = norms[0].momentum
        for norm in norms:
            norm.momentum = 1.0  # running statistics become this batch's
        net.train()(torch.randn(4 if resolution >= 128 else 16, 3, resolution, resolution))
        for norm in norms:
            norm.momentum = momentum
    return net.eval()


def make_cases(
    setting: options.Setting, rooflines: Mapping[int, Roofline], net: MobileNetV1, resolution: int
) -> list[Case]:
    """One case for each batch, dtype, layout and number of threads."""
    cases = []
    for batch in setting.batches:
        shape = (batch, 3, resolution, resolution)
        layers = layers_of(net, shape)
        for dtype, layout, threads in product(setting.dtypes, setting.layouts, setting.threads):
            roofline, torch_dtype = rooflines[threads], DTYPES[dtype]
            cases.append(
                Case(
                    f"MobileNetV1 {net.width_mult:g}-{resolution}",
                    batch,
                    dtype,
                    layout,
                    threads,
                    total(layers, torch_dtype.itemsize),
                    roofline.layers_bound(layers, torch_dtype),
                    roofline.rate("pw", torch_dtype),
                    partial(Net, net, shape, torch_dtype, layout, setting.device),
                    {
                        "width_mult": net.width_mult,
                        "resolution": resolution,
                        "blocks_bound_us": roofline.blocks_bound(layers, torch_dtype) * 1e6,
                    },
                )
            )
    return cases


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit code."""
    parser = options.parser(__doc__.splitlines()[0], _DEFAULTS)
    parser.add_argument("--width-mult", type=float, nargs="+", metavar="A", help="default: 1.0; in a full run all")
    parser.add_argument("--resolution", type=int, nargs="+", metavar="R", help="default: 224; in a full run all")
    parser.add_argument("--per-layer", action="store_true", help="each distinct layer and block by itself")
    given = parser.parse_args(arguments)
    if given.batch is None and (given.quick or (given.per_layer and not given.full)):
        given.batch = [1]
    widths = given.width_mult or (WIDTHS if given.full else WIDTHS[:1])
    resolutions = given.resolution or (RESOLUTIONS if given.full else RESOLUTIONS[:1])
    setting = options.resolve(given, MOBILENET, _DEFAULTS)
    dtypes = [DTYPES[d] for d in setting.dtypes]
    rooflines = measure(setting.device, dtypes, setting.threads, 0.2 if setting.quick else 0.6)
    make = per_layer.make_cases if given.per_layer else make_cases
    cases = [
        case
        for width, resolution in product(widths, resolutions)
        for case in make(setting, rooflines, make_net(width, resolution), resolution)
    ]
    return suite.run(MOBILENET, setting, cases, rooflines, Screen(), [])


if __name__ == "__main__":
    sys.exit(main())
