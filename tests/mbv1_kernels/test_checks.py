"""Bad arguments: an exception that names op, argument, expected and got, the same from every way in."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import mbv1_kernels
from mbv1_kernels import backends
from tests.cases import Call

X = torch.randn(2, 4, 5, 6)
DW, PW, STEM, FC = (
    torch.randn(4, 1, 3, 3),
    torch.randn(7, 4, 1, 1),
    torch.randn(7, 4, 3, 3),
    torch.randn(7, 4),
)
B4, B7 = torch.randn(4), torch.randn(7)

#: op, arguments, keyword arguments, what the message says after "mbv1::<op>: ".
BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("dwconv2d", (X[0], DW), {}, "x: expected a 4-D tensor (N, C, H, W), got 3-D (4, 5, 6)"),
    ("dwconv2d", (X[:, :0], DW), {}, "x: expected C, H and W >= 1, got (2, 0, 5, 6)"),
    ("dwconv2d", (X.to(torch.int32), DW), {}, "x: expected float32, float16, bfloat16 or float64, got"),
    ("dwconv2d", (X, DW[:3]), {}, "weight: expected shape (4, 1, 3, 3), got (3, 1, 3, 3)"),
    ("dwconv2d", (X, DW[:, 0]), {}, "weight: expected a 4-D tensor (C, 1, KH, KW), got 3-D (4, 3, 3)"),
    ("dwconv2d", (X, DW[:, :, :0]), {}, "weight: expected (C, 1, KH, KW) with no empty dimension"),
    ("dwconv2d", (X, DW.half()), {}, "weight: expected dtype float32 as x, got float16"),
    ("dwconv2d", (X, DW, B7), {}, "bias: expected shape (4,), got (7,)"),
    ("dwconv2d", (X, DW, B4.double()), {}, "bias: expected dtype float32 as x, got float64"),
    (
        "dwconv2d",
        (X, DW),
        {"activation": "gelu"},
        "activation: expected one of none, relu, relu6, hardswish, silu, got 'gelu'",
    ),
    ("dwconv2d", (X, DW), {"dilation": 3}, "x: expected padded height >= window 7, got 5"),
    ("dwconv2d", (X[..., :2], DW), {}, "x: expected padded width >= window 3, got 2"),
    ("pwconv2d", (X, PW[:, :3]), {}, "weight: expected shape (7, 4, 1, 1), got (7, 3, 1, 1)"),
    ("pwconv2d", (X, FC), {}, "weight: expected a 4-D tensor (O, C, 1, 1), got 2-D (7, 4)"),
    ("pwconv2d", (X, PW, B4), {}, "bias: expected shape (7,), got (4,)"),
    ("pwconv2d", (X, PW, B7), {"residual": X}, "residual: expected shape (2, 7, 5, 6), got (2, 4, 5, 6)"),
    ("pwconv2d", (X, PW), {"activation": ""}, "activation: expected one of"),
    ("separable_conv2d", (X, DW, B7, PW, B7), {}, "dw_bias: expected shape (4,), got (7,)"),
    ("separable_conv2d", (X, DW, B4, PW, B4), {}, "pw_bias: expected shape (7,), got (4,)"),
    (
        "separable_conv2d",
        (X, DW, B4, PW[:, :1], B7),
        {},
        "pw_weight: expected shape (7, 4, 1, 1), got (7, 1, 1, 1)",
    ),
    (
        "separable_conv2d",
        (X, DW[:2], B4, PW, B7),
        {},
        "dw_weight: expected shape (4, 1, 3, 3), got (2, 1, 3, 3)",
    ),
    ("separable_conv2d", (X, DW, B4, PW, B7), {"residual": X}, "residual: expected shape (2, 7, 3, 4), got"),
    ("separable_conv2d", (X, DW, B4, PW, B7), {"dw_activation": "elu"}, "dw_activation: expected one of"),
    ("stem_conv2d", (X, STEM[:, :2]), {}, "weight: expected shape (7, 4, 3, 3), got (7, 2, 3, 3)"),
    ("stem_conv2d", (X, STEM, B4), {}, "bias: expected shape (7,), got (4,)"),
    ("stem_conv2d", (X[:, :, :2], STEM), {}, "x: expected padded height >= window 3, got 2"),
    ("pool_linear", (X, FC[:, :3]), {}, "weight: expected shape (7, 4), got (7, 3)"),
    ("pool_linear", (X, PW), {}, "weight: expected a 2-D tensor (O, C), got 4-D (7, 4, 1, 1)"),
    ("pool_linear", (X, FC, B4), {}, "bias: expected shape (7,), got (4,)"),
]

#: What the wrappers refuse while they normalize.
BAD_INTEGERS = [
    ({"stride": 0}, "stride: expected integers >= 1, got 0"),
    ({"stride": (1, 2, 3)}, "stride: expected 1 or 2 integers, got (1, 2, 3)"),
    ({"stride": 1.5}, "stride: expected"),
    ({"stride": True}, "stride: expected"),
    ({"stride": (True, 1)}, "stride: expected 1 or 2 integers, got (True, 1)"),
    ({"padding": -1}, "padding: expected integers >= 0, got -1"),
    ({"padding": (1, 2, 3)}, "padding: expected 1 or 2 or 4 integers, got (1, 2, 3)"),
    ({"dilation": (1, 0)}, "dilation: expected integers >= 1, got (1, 0)"),
    ({"backend": "gpu"}, "backend: expected one of auto, cuda, triton, cpu, torch, got 'gpu'"),
]


@pytest.mark.parametrize("way", ["cpu", "torch", "fake", "explain"])
@pytest.mark.parametrize(("op", "args", "kwargs", "message"), BAD, ids=[f"{b[0]}-{b[3][:40]}" for b in BAD])
def test_bad_argument(op: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str, way: str) -> None:
    call = Call(op, args, kwargs)
    with pytest.raises(RuntimeError, match=re.escape(f"mbv1::{op}: {message}")):
        if way == "fake":
            getattr(torch.ops.mbv1, op)(*call.map(lambda t: t.to("meta")).normalized)
        elif way == "explain":
            mbv1_kernels.explain(op, *args, **kwargs)
        else:
            call(backend=way)


@pytest.mark.parametrize(("kwargs", "message"), BAD_INTEGERS, ids=[b[1][:40] for b in BAD_INTEGERS])
def test_bad_integers(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(f"mbv1::dwconv2d: {message}")):
        mbv1_kernels.dwconv2d(X, DW, **kwargs)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (([1], [0, 0, 0, 0], [1, 1]), "stride: expected 2 integers >= 1, got (1,)"),
        (([0, 1], [0, 0, 0, 0], [1, 1]), "stride: expected 2 integers >= 1, got (0, 1)"),
        (([1, 1], [0, 0, -1, 0], [1, 1]), "padding: expected 4 integers >= 0, got (0, 0, -1, 0)"),
        (([1, 1], [0, 0], [1, 1]), "padding: expected 4 integers >= 0, got (0, 0)"),
        (([1, 1], [0, 0, 0, 0], [1, 2**31]), "dilation: expected 2 integers >= 1, got (1, 2147483648)"),
        (([1, 1], [2**62, 2**62, 0, 0], [1, 1]), "padding: expected 4 integers >= 0"),
        (([1, 1], [2**30] * 4, [1, 1]), "x: expected an output of at most 2^50 elements, got ("),
    ],
)
def test_bad_integers_of_the_raw_op(window: tuple[list[int], ...], message: str) -> None:
    """torch.ops.mbv1 can be called without the wrapper; its own checks keep memory safe."""
    with pytest.raises(RuntimeError, match=re.escape(f"mbv1::dwconv2d: {message}")):
        torch.ops.mbv1.dwconv2d(X, DW, None, *window, "none")


def test_device_mismatch() -> None:
    with pytest.raises(RuntimeError, match="mbv1::dwconv2d: weight: expected device cpu as x, got meta"):
        mbv1_kernels.dwconv2d(X, DW.to("meta"), backend="torch")


@pytest.mark.parametrize("op", backends.OPS)
def test_every_op_is_documented(op: str) -> None:
    text = getattr(mbv1_kernels, op).__doc__
    assert "Equivalent to" in text and "Raises:" in text and "(N, C, H, W)" in text
