"""Every op of this project on a real device, each backend, against float64.

    python -m benchmarks.smoke [--device cuda] [--backends NAME …] [--small]

Needs nothing but torch, so it stands in for the tests where pytest is missing. A backend passes where its
largest error is at most twice that of torch at the same dtype, plus a few roundings.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .environment import pick_device
from .mobilenet import Net, make_net
from .report import Screen
from .workload import DTYPES, LAYOUTS

#: Errors of this many units of the dtype, relative to the largest value, are roundings.
_ROUNDINGS = 4

#: Calls that read at most so many numbers are small, for tools that slow each of them down a lot.
_SMALL = 600_000


@dataclass(frozen=True)
class Call:
    """One call of ``mbv1_kernels.<op>``: the shapes of its tensors in order, and its options."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    options: dict[str, object] = field(default_factory=dict)
    residual: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        """How many numbers it reads."""
        return sum(math.prod(shape) for shape in self.shapes)

    def tensors(self) -> list[Tensor]:
        """float64; weights scaled so that results are of the size of the input."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for i, shape in enumerate(self.shapes):
            t = torch.empty(shape, dtype=torch.float64).normal_(generator=generator)
            made.append(t / max(t[0].numel(), 1) ** 0.5 if i > 0 and t.dim() > 1 else t)
        return made


def _dw(n: int, c: int, h: int, w: int, k: int, dilation: int = 1, **options: object) -> Call:
    window = {"padding": dilation * (k - 1) // 2, "dilation": dilation, "activation": "relu", **options}
    return Call("dwconv2d", ((n, c, h, w), (c, 1, k, k), (c,)), window)


def _pw(n: int, c: int, h: int, w: int, o: int, residual: bool = False, **options: object) -> Call:
    added = (n, o, h, w) if residual else None
    return Call("pwconv2d", ((n, c, h, w), (o, c, 1, 1), (o,)), {"activation": "relu6", **options}, added)


def _separable(n: int, c: int, h: int, w: int, o: int, **options: object) -> Call:
    window = {"padding": 1, "dw_activation": "relu", "activation": "relu", **options}
    return Call("separable_conv2d", ((n, c, h, w), (c, 1, 3, 3), (c,), (o, c, 1, 1), (o,)), window)


def _stem(n: int, h: int, w: int, o: int, **options: object) -> Call:
    window = {"stride": 2, "padding": 1, "activation": "relu", **options}
    return Call("stem_conv2d", ((n, 3, h, w), (o, 3, 3, 3), (o,)), window)


CALLS = (
    _dw(2, 32, 15, 17, 3),
    _dw(2, 16, 14, 14, 3, stride=2, padding=(0, 1, 0, 1)),
    _dw(2, 24, 13, 13, 5),
    _pw(2, 32, 9, 9, 48, residual=True),
    _separable(2, 32, 14, 14, 64),
    _stem(2, 33, 33, 16),
    Call("pool_linear", ((3, 64, 7, 7), (10, 64), (10,))),
    _dw(3, 7, 9, 11, 3, activation="hardswish"),
    _dw(2, 24, 13, 13, 7, activation="silu"),
    _dw(2, 32, 14, 14, 3, dilation=2),
    _dw(1, 5, 8, 8, 5, stride=2, activation="none"),
    _dw(0, 8, 8, 8, 3),
    _dw(4, 512, 14, 14, 3),
    _pw(3, 7, 5, 5, 11, activation="silu"),
    _pw(1, 512, 7, 7, 1024, activation="relu"),
    _separable(2, 7, 9, 9, 13, stride=2, activation="hardswish"),
    _separable(1, 512, 14, 14, 512),
    _separable(1, 1024, 7, 7, 1024, dilation=2, padding=2),
    _stem(3, 32, 31, 7, padding=(0, 1, 0, 1), activation="relu6"),
    Call("pool_linear", ((5, 1024, 1, 1), (1001, 1024), (1001,))),
)


def check(call: Call, backend: str, dtype: torch.dtype, layout: str, device: torch.device) -> str:
    """Runs one call. Returns what the line says; raises AssertionError for a wrong result, and whatever the
    op raises where it cannot run."""
    import mbv1_kernels

    op = getattr(mbv1_kernels, call.op)
    tensors = [_place(t, dtype, layout, device) for t in call.tensors()]
    options = dict(call.options)
    if call.residual is not None:
        options["residual"] = _place(torch.ones(call.residual, dtype=torch.float64), dtype, layout, device)
    with torch.inference_mode():
        y = op(*tensors, **options, backend=backend)
        theirs = op(*tensors, **options, backend="torch")
        wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
        wanted = op(*(t.double() for t in tensors), **wide, backend="torch")
    assert y.shape == wanted.shape and y.dtype == dtype, (
        f"got {tuple(y.shape)} {y.dtype}, wanted {tuple(wanted.shape)}"
    )
    if not y.numel():
        return "empty"
    assert y.stride() == theirs.stride(), f"strides {y.stride()}, torch's are {theirs.stride()}"
    error, allowed = _error(y, wanted), _error(theirs, wanted)
    limit = 2 * allowed + _ROUNDINGS * torch.finfo(dtype).eps * wanted.abs().max().item()
    assert error <= limit, f"error {error:.2g}, allowed {limit:.2g} (torch's own: {allowed:.2g})"
    return f"error {error:.2g}, torch's {allowed:.2g}"


def _place(t: Tensor, dtype: torch.dtype, layout: str, device: torch.device) -> Tensor:
    t = t.to(device, dtype)
    return t.contiguous(memory_format=LAYOUTS[layout]) if t.dim() == 4 else t


def _error(y: Tensor, wanted: Tensor) -> float:
    return (y.double() - wanted).abs().max().nan_to_num(nan=float("inf")).item()


def net_error(dtype: torch.dtype, layout: str, device: torch.device) -> str:
    """The whole net, fused, at a small size."""
    net = Net(make_net(0.25, 64), (2, 3, 64, 64), dtype, layout, device)
    with torch.no_grad():
        error = net.error(net.ours()())
    assert error <= net.tolerance, f"error {error:.2g} of the largest value, allowed {net.tolerance:g}"
    return f"error {error:.2g} of the largest value"


def checks(device: torch.device, backends: Sequence[str], small: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    """(what, how) of every check; ``small`` leaves out large calls and the net."""
    for backend in backends:
        for call in (call for call in CALLS if not small or call.elements <= _SMALL):
            for name, dtype in DTYPES.items():
                for layout in LAYOUTS:
                    shape = "x".join(map(str, call.shapes[0]))
                    what = f"{call.op} {backend} {name} {layout} {shape} {call.options}"
                    yield what, partial(check, call, backend, dtype, layout, device)
    for name, dtype in () if small else DTYPES.items():
        for layout in LAYOUTS:
            yield f"MobileNetV1 fused {name} {layout}", partial(net_error, dtype, layout, device)


def main(arguments: list[str] | None = None) -> int:
    """Prints one line a check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="a torch device; default: the GPU, else the CPU")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help="default: cuda and triton, or cpu")
    parser.add_argument("--small", action="store_true", help="small calls only")
    given = parser.parse_args(arguments)
    screen, device = Screen(), pick_device(given.device)
    backends = given.backends or (("cuda", "triton") if device.type == "cuda" else ("cpu",))
    passed, skipped, failed = 0, 0, 0
    for what, how in checks(device, backends, given.small):
        try:
            line, style, passed = f"ok    {what}: {how()}", None, passed + 1
        except Exception as error:  # one op's failure must not hide the others'
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if "has no Triton kernel" in reason:
                line, style, skipped = f"skip  {what}: {reason}", "dim", skipped + 1
            else:
                line, style, failed = f"FAIL  {what}: {reason}", "bold red", failed + 1
        screen.print(line, style)
    screen.print(f"smoke on {device}: {passed} passed, {skipped} skipped, {failed} failed", "bold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
