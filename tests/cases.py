"""The table of cases that every backend is tested with, and what a right result is.

A case is one op with its sizes and options. `build` makes its tensors, for a dtype, a memory layout and a device;
`check` compares an output with float64 on the CPU. The inputs hold no case twice: odd sizes, single pixels, single
rows, channel counts around the vector widths, windows larger than the input, borders on one side only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

import mbv1_kernels
from mbv1_kernels import backends

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}


@dataclass(frozen=True)
class Layout:
    """How x lies in memory: the size of a dense tensor, made on the CPU, and the view of it that is x."""

    base: Callable[[int, int, int, int], tuple[int, int, int, int]]
    view: Callable[[Tensor, tuple[int, int, int, int]], Tensor]
    channels_last: bool = False


LAYOUTS: dict[str, Layout] = {
    "nchw": Layout(lambda n, c, h, w: (n, c, h, w), lambda t, s: t),
    "nhwc": Layout(lambda n, c, h, w: (n, c, h, w), lambda t, s: t, channels_last=True),
    # Slices: the first element is unaligned, rows and planes have gaps.
    "nchw_sliced": Layout(lambda n, c, h, w: (n, c + 1, h + 1, w + 3), lambda t, s: t[:, 1:, 1:, 2 : 2 + s[3]]),
    "nhwc_sliced": Layout(
        lambda n, c, h, w: (n, c + 3, h, w + 1), lambda t, s: t[:, 1 : 1 + s[1], :, 1:], channels_last=True
    ),
    # A slice whose pixels start 16-byte vectors, which need not end with the channels.
    "nhwc_aligned": Layout(
        lambda n, c, h, w: (n, (c + 15) // 8 * 8, h, w), lambda t, s: t[:, 8 : 8 + s[1]], channels_last=True
    ),
    # Aligned too: gaps between rows, and gaps between planes that no vector divides.
    "nchw_rows": Layout(lambda n, c, h, w: (n, c, h, (w + 15) // 8 * 8), lambda t, s: t[..., : s[3]]),
    "nchw_planes": Layout(lambda n, c, h, w: (n, c, h + 1, w), lambda t, s: t[:, :, : s[2]]),
    # No dimension has stride 1.
    "nchw_strided": Layout(lambda n, c, h, w: (n, c, h, 2 * w), lambda t, s: t[..., ::2]),
    "nhwc_strided": Layout(lambda n, c, h, w: (n, 2 * c, h, w), lambda t, s: t[:, ::2], channels_last=True),
    # Stride 0, and rows and columns swapped.
    "expanded": Layout(lambda n, c, h, w: (1, c, h, w), lambda t, s: t.expand(s)),
    "transposed": Layout(lambda n, c, h, w: (n, c, w, h), lambda t, s: t.transpose(2, 3)),
}


@dataclass(frozen=True)
class Case:
    """One call of an op. ``out`` is O; ``weights`` says how the weights lie: dense, packed for NHWC, or every second
    element of rows that are not aligned (sliced) or are (strided).

    ``residual``: none, one that is neither dense NCHW nor dense NHWC, or one that lies like x.
    """

    op: str
    shape: tuple[int, int, int, int]
    kernel: tuple[int, int] = (1, 1)
    out: int = 1
    bias: bool = True
    residual: bool | Literal["like_x"] = False
    weights: str = "dense"
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        text = [
            self.op,
            "x".join(map(str, self.shape)),
            f"k{self.kernel[0]}x{self.kernel[1]}",
            f"o{self.out}",
        ]
        text += [f"{name[:3]}{value}" for name, value in self.options.items()]
        flags = {
            "nobias": not self.bias,
            "residual": self.residual,
            "like_x": self.residual == "like_x",
            self.weights: self.weights != "dense",
        }
        return "-".join(text + [name for name, on in flags.items() if on]).replace(" ", "")


def _dw(shape, k, *, weights="dense", bias=True, **options):
    kernel = (k, k) if isinstance(k, int) else k
    return Case("dwconv2d", shape, kernel, bias=bias, weights=weights, options=options)


def _pw(shape, out, *, bias=True, residual=False, weights="dense", **options):
    return Case("pwconv2d", shape, out=out, bias=bias, residual=residual, weights=weights, options=options)


def _sep(shape, k, out, *, bias=True, residual=False, weights="dense", **options):
    kernel = (k, k) if isinstance(k, int) else k
    return Case("separable_conv2d", shape, kernel, out, bias, residual, weights, options)


def _stem(shape, k, out, *, bias=True, weights="dense", **options):
    kernel = (k, k) if isinstance(k, int) else k
    return Case("stem_conv2d", shape, kernel, out, bias, weights=weights, options=options)


def _pool(shape, out, *, bias=True, weights="dense"):
    return Case("pool_linear", shape, out=out, bias=bias, weights=weights)


CASES: tuple[Case, ...] = (
    # The net's own: k3, stride 1 and 2, symmetric and TensorFlow's padding.
    _dw((2, 32, 14, 14), 3, padding=1, activation="relu"),
    _dw((1, 64, 13, 29), 3, stride=2, padding=1, activation="relu6", weights="packed"),
    _dw((1, 24, 12, 12), 3, stride=2, padding=(0, 1, 0, 1), activation="relu6"),
    _dw((2, 8, 7, 7), 3, padding=1, activation="silu", bias=False),
    # Sizes that no vector divides, single pixels and rows.
    _dw((1, 1, 1, 1), 3, padding=1),
    _dw((2, 3, 1, 17), 3, padding=1, activation="hardswish"),
    _dw((1, 100, 29, 1), 3, padding=1, activation="relu", weights="sliced"),
    _dw((1, 3, 5, 70), 3, padding=1, stride=(1, 2), activation="relu"),
    # Several tiles and bands of a plane, both ways.
    _dw((1, 2, 67, 130), 3, padding=1, stride=2, activation="relu"),
    # Strips of NHWC side by side in a warp, and channel groups of which the last is not full.
    _dw((2, 8, 9, 18), 3, padding=1, activation="relu"),
    _dw((1, 72, 10, 7), 3, padding=1, stride=2, activation="hardswish"),
    _dw((1, 144, 6, 9), 5, padding=2, stride=2, activation="relu"),
    # Bands of planes of which the last has rows for the first of its threads only.
    _dw((2, 16, 31, 45), 3, padding=1, activation="relu"),
    _dw((1, 16, 61, 101), 3, stride=2, padding=1, activation="relu6"),
    # Small planes together, of odd size: groups of planes, the last not full; bands of large planes.
    _dw((3, 21, 7, 7), 3, padding=1, activation="relu"),
    _dw((1, 19, 15, 15), 5, padding=2, activation="relu6", weights="packed"),
    _dw((2, 5, 31, 33), 3, padding=(2, 0, 1, 2), activation="relu"),
    _dw((1, 2, 45, 51), 7, padding=3, activation="relu"),
    _dw((1, 1, 70, 57), 5, padding=2, stride=2),
    # Two output rows at once, of few columns and of many, whole and overlapping, and one that is left over.
    _dw((1, 40, 9, 5), 3, padding=1, activation="relu"),
    _dw((1, 36, 13, 17), 5, padding=2, stride=2, activation="relu6"),
    _dw((1, 20, 12, 16), 7, padding=3, activation="hardswish"),
    # Wide rows with a padding, a stride and a dilation of their own; one output row of them.
    _dw((1, 3, 10, 121), 3, padding=(1, 0, 2, 1), stride=2, dilation=(1, 2), activation="silu"),
    _dw((1, 2, 3, 64), 3, padding=(0, 0, 1, 1), bias=False),
    # Rows that are cut into tiles.
    _dw((1, 2, 5, 600), 3, padding=1, activation="relu"),
    _dw((1, 1, 6, 1096), 3, padding=1, stride=2, activation="relu"),
    # An input tile that shared memory cannot hold.
    _dw((1, 1, 128, 128), 3, padding=1, stride=4),
    # Other kernels: large, small, even, oblong, larger than the input.
    _dw((1, 24, 11, 13), 5, padding=2, activation="relu"),
    _dw((2, 8, 9, 10), 5, stride=2, padding=(1, 2, 1, 2), activation="hardswish", weights="packed"),
    _dw((1, 32, 15, 9), 7, padding=3, activation="silu"),
    _dw((1, 3, 13, 13), 7, stride=2, padding=3),
    _dw((1, 8, 14, 15), 7, stride=2, padding=3, activation="relu", weights="packed"),
    _dw((1, 8, 6, 6), 1, activation="relu"),
    _dw((1, 5, 7, 8), 2, stride=2, activation="relu6"),
    _dw((1, 4, 12, 11), 9, padding=4),
    _dw((1, 16, 14, 10), (9, 3), padding=(4, 1), activation="relu"),
    _dw((1, 6, 8, 9), (3, 5), padding=(1, 2), activation="relu"),
    _dw((1, 3, 2, 3), 5, padding=(4, 3, 2, 1), activation="silu"),
    # Dilation, strides beyond the window, padding beyond it.
    _dw((1, 16, 13, 13), 3, padding=2, dilation=2, activation="relu"),
    _dw((1, 3, 20, 23), 5, padding=(2, 6), dilation=(1, 3), stride=(2, 1), bias=False),
    _dw((1, 7, 17, 19), 3, stride=5, padding=1),
    # Dilated windows as undilated ones over every d-th column, with strides that divide d, share a factor or do not;
    # phases that fill a run and that do not.
    _dw((1, 24, 9, 31), 3, padding=2, dilation=2, activation="relu"),
    _dw((1, 20, 7, 32), 3, padding=2, dilation=2, stride=2),
    _dw((1, 17, 5, 70), 5, padding=(4, 8), dilation=(2, 4), stride=(1, 2), activation="relu6"),
    _dw((1, 16, 6, 50), 7, padding=(3, 9), dilation=(1, 3), stride=(1, 2)),
    _dw((1, 33, 5, 40), (1, 4), padding=(0, 0, 6, 3), dilation=(1, 3)),
    # One row of each dilated window in the image, and fewer columns than a window's dilation.
    _dw((1, 16, 3, 20), 3, padding=4, dilation=4, activation="silu"),
    _dw((2, 9, 12, 3), 3, padding=4, dilation=4, activation="hardswish"),
    # Windows of many taps, as rows and as columns, in images wide and one pixel wide; strides that no kernel is for.
    _dw((1, 40, 1, 75), (1, 31), padding=(0, 15), activation="relu"),
    _dw((2, 19, 45, 1), (31, 1), padding=(15, 0), activation="relu", weights="packed"),
    _dw((1, 18, 33, 1), (5, 3), padding=(2, 1), stride=(2, 1), dilation=(3, 1)),
    _dw((1, 21, 20, 17), (11, 1), padding=(5, 0), weights="sliced"),
    _dw((1, 16, 19, 23), 9, padding=4, stride=(1, 3), activation="silu"),
    _dw((1, 2, 4, 4), 3, padding=(5, 0, 0, 6), activation="relu"),
    _pw((2, 32, 7, 7), 64, activation="relu"),
    _pw((1, 64, 14, 14), 128, activation="relu6", weights="packed"),
    _pw((1, 100, 13, 3), 24, activation="hardswish", residual=True),
    # One more than whole tiles of 6, pixels and channels.
    _pw((1, 48, 7, 7), 43, activation="relu6"),
    _pw((1, 1, 1, 1), 1),
    _pw((3, 3, 1, 17), 8, activation="silu", bias=False),
    _pw((1, 8, 29, 1), 100, residual=True, activation="relu", weights="sliced"),
    _pw((1, 130, 5, 5), 33, activation="none", bias=False, residual=True),
    _pw((1, 256, 3, 3), 72, activation="relu"),
    _pw((1, 16, 4, 4), 24, weights="strided"),
    _pw((2, 32, 4, 6), 40, residual="like_x", activation="relu"),
    # Several tiles with a rest both ways, and more slices of K than are in flight, with a rest.
    _pw((1, 136, 13, 11), 136, activation="relu", residual="like_x"),
    _pw((1, 72, 10, 14), 264, activation="relu6"),
    # Planes that no vector divides, several to a tile: odd ones, and ones of whole words of 4 bytes.
    _pw((5, 72, 7, 7), 136, activation="relu", residual="like_x"),
    _pw((4, 40, 11, 3), 24, activation="hardswish", residual=True),
    _pw((3, 40, 6, 5), 40, activation="relu6", residual="like_x"),
    _pw((9, 8, 1, 2), 16),
    # Planes large enough to be multiplied where they lie; of one the last pixels fill no panel, channels no block.
    _pw((2, 16, 28, 28), 24, activation="relu", residual=True),
    _pw((1, 12, 30, 29), 40, activation="relu6"),
    _sep((2, 32, 14, 14), 3, 64, padding=1, dw_activation="relu", activation="relu"),
    _sep(
        (1, 64, 13, 29),
        3,
        32,
        stride=2,
        padding=1,
        dw_activation="relu6",
        activation="relu6",
        weights="packed",
    ),
    _sep((1, 24, 12, 12), 3, 100, stride=2, padding=(0, 1, 0, 1), dw_activation="relu6", activation="relu6"),
    _sep((1, 1, 1, 1), 3, 1, padding=1),
    _sep((2, 3, 1, 17), 3, 8, padding=1, dw_activation="hardswish", activation="silu", bias=False),
    _sep((1, 100, 7, 1), 3, 33, padding=1, dw_activation="silu", activation="hardswish", weights="sliced"),
    _sep((1, 40, 9, 11), 5, 40, padding=2, dw_activation="relu", residual=True),
    _sep((1, 8, 13, 13), 7, 16, stride=2, padding=3, dw_activation="relu", activation="relu", residual=True),
    _sep((2, 16, 8, 8), 3, 36, padding=1, residual="like_x"),
    # Patches with a rest both ways, across images, of images wider than a tile; several tiles of outputs.
    _sep((2, 72, 9, 14), 3, 136, padding=1, dw_activation="relu", activation="relu", weights="packed"),
    _sep((3, 136, 7, 7), 3, 72, padding=1, dw_activation="relu", residual="like_x"),
    _sep((1, 16, 20, 75), 3, 24, stride=2, padding=1, dw_activation="relu6"),
    _sep((3, 24, 9, 10), 3, 40, stride=2, padding=1, dw_activation="relu"),
    _sep((1, 8, 3, 150), 3, 8, padding=1),
    # Runs of pixels that start inside rows, across images, and parts of rows, the last of them narrower.
    _sep((2, 40, 28, 28), 3, 72, padding=1, dw_activation="relu", residual=True),
    _sep((3, 8, 6, 72), 3, 136, stride=2, padding=1, dw_activation="relu6"),
    _sep((1, 40, 16, 112), 3, 24, padding=1, dw_activation="relu", activation="relu"),
    _sep((1, 8, 32, 224), 3, 8, stride=2, padding=(0, 1, 0, 1), dw_activation="hardswish"),
    # Planes that are never transposed: rows that no step and no vector divides, in two images, with a stride, and of
    # channels too few for every instruction set.
    _sep((2, 16, 31, 45), 3, 24, padding=1, dw_activation="relu", residual=True, weights="packed"),
    _sep((1, 24, 57, 71), 3, 40, stride=2, padding=1, dw_activation="silu", activation="relu6", weights="sliced"),
    _sep((1, 20, 28, 33), 3, 8, padding=(0, 1, 2, 1), bias=False, residual=True),
    # Rows of whole words, 4 elements or 2, to the right of which windows go on.
    _sep((2, 24, 16, 16), 3, 40, stride=2, padding=1, dw_activation="relu"),
    _sep((3, 40, 12, 12), 3, 24, stride=2, padding=1, dw_activation="hardswish"),
    _sep((2, 20, 6, 12), 3, 24, padding=(2, 1, 1, 5), dw_activation="relu6"),
    _sep((2, 24, 11, 9), 5, 40, stride=2, padding=2, activation="relu"),
    _sep((1, 16, 13, 11), 3, 24, padding=2, dilation=2, activation="relu"),
    _sep((1, 5, 11, 12), (8, 9), 6, padding=4, dw_activation="relu"),
    _sep((1, 5, 8, 9), (2, 4), 6, padding=(1, 0, 2, 1), stride=(1, 3)),
    _stem((2, 3, 32, 32), 3, 32, stride=2, padding=1, activation="relu"),
    _stem((1, 3, 23, 17), 3, 8, stride=2, padding=(0, 1, 0, 1), activation="relu6", weights="packed"),
    _stem((1, 1, 28, 28), 5, 10, padding=2, activation="silu", bias=False),
    _stem((1, 4, 9, 1), 3, 33, padding=1, activation="hardswish"),
    _stem((1, 12, 6, 7), (1, 2), 5, weights="sliced"),
    _stem((1, 1, 16, 33), (3, 1), 20, activation="relu"),
    _stem((1, 3, 1, 1), 7, 100, padding=3, activation="relu"),
    # Rows of windows of 32 values, one more, and odd and even numbers of more.
    _stem((1, 4, 3, 12), (1, 8), 20),
    _stem((1, 3, 4, 15), (2, 11), 20, padding=(0, 1, 3, 2), activation="relu"),
    _stem((1, 7, 8, 9), 5, 20, stride=2, padding=1, activation="relu"),
    _stem((1, 12, 7, 9), 3, 36, padding=1, activation="relu"),
    # The net's window: tiles of which the last is not full, groups of channels of which the last is not full, all
    # paddings, no tile that lies inside x, and more tiles than a device holds at once.
    _stem((1, 3, 7, 264), 3, 40, stride=2, padding=1, activation="relu"),
    _stem((1, 3, 10, 144), 3, 16, stride=2, padding=(0, 1, 0, 1), activation="silu", weights="packed"),
    _stem((1, 3, 6, 14), 3, 72, stride=2, padding=(4, 1, 1, 3), bias=False, weights="sliced"),
    _stem((1400, 3, 2, 16), 3, 8, stride=2, padding=(1, 1, 1, 0), activation="relu6"),
    _pool((2, 64, 7, 7), 10),
    _pool((1, 100, 1, 1), 33, bias=False),
    _pool((3, 3, 13, 5), 1, weights="sliced"),
    _pool((1, 130, 4, 29), 100, weights="packed"),
    _pool((2, 300, 2, 3), 5),
    # 16-byte vectors of channels and weights: one image, several, and tiles that are not full.
    _pool((1, 264, 7, 7), 70),
    _pool((5, 72, 3, 9), 13),
    _pool((3, 8, 17, 1), 4, bias=False),
    _pool((9, 8, 1, 2), 1740),
    _pool((33, 256, 2, 1), 1000),
)


@dataclass(frozen=True)
class Call:
    """The arguments of one call of ``mbv1_kernels.<op>``."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, backend: str = "auto", **more: Any) -> Tensor:
        return getattr(mbv1_kernels, self.op)(*self.args, **self.kwargs, backend=backend, **more)

    def map(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The call with every tensor changed."""

        def apply(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) else value

        return Call(
            self.op, tuple(map(apply, self.args)), {name: apply(value) for name, value in self.kwargs.items()}
        )

    @property
    def normalized(self) -> tuple[Any, ...]:
        """The arguments of ``torch.ops.mbv1.<op>``."""
        return backends.OPS[self.op].arguments(*self.args, **self.kwargs)


def build(case: Case, dtype: torch.dtype, layout: str = "nchw", device: str = "cpu") -> Call:
    """The case's tensors, the same for the same arguments. Weights are scaled to keep outputs near 1."""
    generator = torch.Generator().manual_seed(sum(map(ord, str(case) + layout)))

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    def weight(*shape: int) -> Tensor:
        inner = torch.Size(shape[1:]).numel()
        if case.weights == "sliced":
            return random(*shape[:-1], 2 * shape[-1] + 1, scale=inner**-0.5).to(device)[..., 1::2]
        if case.weights == "strided":
            return random(*shape[:-1], 2 * shape[-1], scale=inner**-0.5).to(device)[..., ::2]
        dense = random(*shape, scale=inner**-0.5)
        if case.weights == "packed":  # the first dimension is the fastest
            return dense.movedim(0, -1).contiguous().to(device).movedim(-1, 0)
        return dense.to(device)

    def bias(count: int) -> Tensor | None:
        return random(2 * count).to(device)[::2] if case.bias else None

    def image(*size: int) -> Tensor:
        """A view of NaN: what does not belong to it must not reach a result."""
        base = random(*place.base(*size))
        ids = torch.arange(base.numel()).reshape(base.shape)
        outside = torch.isin(ids, place.view(ids, size).flatten(), invert=True)
        base.masked_fill_(outside, float("nan"))
        if place.channels_last:
            base = base.contiguous(memory_format=torch.channels_last)
        return place.view(base.to(device), size)

    n, c, h, w = case.shape
    place = LAYOUTS[layout]
    x = image(n, c, h, w)
    kwargs = dict(case.options)
    if case.op == "dwconv2d":
        args = (x, weight(c, 1, *case.kernel), bias(c))
    elif case.op == "stem_conv2d":
        args = (x, weight(case.out, c, *case.kernel), bias(case.out))
    elif case.op == "pool_linear":
        args = (x, weight(case.out, c), bias(case.out))
    elif case.op == "pwconv2d":
        args = (x, _with_ones(weight(case.out, c)), bias(case.out))
    else:
        args = (x, weight(c, 1, *case.kernel), bias(c), _with_ones(weight(case.out, c)), bias(case.out))
    if case.residual:
        size = backends.OPS[case.op].check(*Call(case.op, args, kwargs).normalized)
        if case.residual == "like_x":
            kwargs["residual"] = image(*size)
        else:
            wide = random(size[0], size[2], size[1], 2 * size[3])
            kwargs["residual"] = wide.to(device).transpose(1, 2)[..., ::2]
    return Call(case.op, args, kwargs)


def _with_ones(matrix: Tensor) -> Tensor:
    return matrix[:, :, None, None]


def allowed_error(torchs: Tensor, exact: Tensor, depth: int, tf32: bool = False) -> float:
    """The largest error that is allowed, ``torchs`` being torch's result.

    The rule: our largest error is at most twice that of torch at the same dtype, both against float64, plus one
    unit in the last place of the largest value (torch may be exact by luck where few values are made). Where
    factors were rounded to TF32, that unit is TF32's, 2^-10. Sums of ``depth`` products made one after another may
    also err by half of sqrt(depth) roundings to float32: on some processors torch makes each of several short ones.
    """
    torch_error = (torchs.double() - exact).abs().max().item()
    # float64 itself has no more exact reference: sums in another order differ by some units.
    unit = 64 * 2**-52 if torchs.dtype == torch.float64 else 2**-10 if tf32 else torch.finfo(torchs.dtype).eps
    if torchs.dtype != torch.float64:
        unit += 2**-25 * depth**0.5
    return 2 * torch_error + unit * exact.abs().max().item()


def expectation(call: Call, tf32: bool = False) -> tuple[Tensor, float]:
    """The exact result of ``call`` in float64 on the CPU, and the largest error that is allowed."""
    call = call.map(lambda t: t.cpu())
    exact = call.map(lambda t: t.double())(backend="torch")
    if exact.numel() == 0:
        return exact, 0.0
    depth = max(t[0].numel() for t in call.args[1:] if t is not None and t.dim() > 1)
    return exact, allowed_error(call(backend="torch"), exact, depth, tf32)


def check(call: Call, actual: Tensor, tf32: bool = False) -> None:
    """``actual`` has the shape and dtype of ``call``'s result and is as accurate as torch's."""
    exact, allowed = expectation(call, tf32)
    assert actual.shape == exact.shape
    assert actual.dtype == call.args[0].dtype
    if actual.numel() == 0:
        return
    error = (actual.cpu().double() - exact).abs().max().item()
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
