"""The Triton kernels in triton's interpreter, on the CPU, against float64.

Not collected by itself: the interpreter has to be chosen before triton is imported, so
``test_triton_interpreted.py`` runs this file in a process of its own. By hand:
``TRITON_INTERPRET=1 pytest tests/triton/interpreted_ops.py``.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

import mbv1_kernels as mk
from mbv1_kernels import reference
from mbv1_kernels import triton as backend
from mbv1_kernels.layout import is_channels_last
from tests.cases import CASES, DTYPES, LAYOUTS, Call, Case, build, check
from tests.special_calls import cancelling, rounded_between

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1"
backend.load()
torch.set_num_threads(1)

OPS_CASES = [case for case in CASES if case.op in backend.OPS]
DENSE = ["nchw", "nhwc"]
# The interpreter is slow: each case meets both layouts, the dtypes take turns.
TURNS = [
    (case, layout, ["f32", "f16", "bf16"][(i + j) % 3])
    for i, case in enumerate(OPS_CASES)
    for j, layout in enumerate(DENSE)
]


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def samples(dtype: torch.dtype = torch.float32, n: int = 1) -> dict[str, tuple[Any, ...]]:
    """One call of each op, with weights and biases that are views too."""
    x = random(n, 4, 5, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    dw = random(3, 3, 1, 8, dtype=dtype).permute(3, 2, 0, 1)[::2]
    pw = random(4, 7, 2, 1, dtype=dtype).transpose(0, 1)[:, :, 1:]
    dw_bias, pw_bias = random(8, dtype=dtype)[::2], random(1, dtype=dtype).expand(7)
    residual = random(n, 7, 5, 6, dtype=dtype)
    window = [1, 1], [1, 1, 1, 1], [1, 1]
    return {
        "dwconv2d": (x, dw, dw_bias, *window, "relu"),
        "pwconv2d": (x, pw, pw_bias, "relu", residual, False),
        "separable_conv2d": (x, dw, dw_bias, pw, pw_bias, *window, "relu", "relu", residual, False),
    }


@pytest.mark.parametrize(("case", "layout", "dtype"), TURNS, ids=str)
def test_case(case: Case, layout: str, dtype: str) -> None:
    run(case, layout, dtype)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in DENSE])
@pytest.mark.parametrize("op", backend.OPS)
def test_strides(op: str, layout: str) -> None:
    """Reads and writes by stride, where memory is not dense; weights, bias and residual are views too."""
    options = {"padding": 1, "stride": (1, 2)}
    case = {
        "dwconv2d": Case(op, (2, 6, 5, 7), (3, 3), weights="sliced", options=options),
        "pwconv2d": Case(op, (2, 6, 5, 7), out=20, residual=True, weights="sliced"),
        "separable_conv2d": Case(op, (2, 6, 5, 7), (3, 3), 20, residual=True, weights="sliced", options=options),
    }[op]
    run(case, layout, "f16")


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("layout", DENSE)
def test_flat_pixels(dtype: str, layout: str) -> None:
    """A residual in the layout of x, so that the pixels of all tensors can be one dimension."""
    x, _, _, pw, bias, *_, residual, _ = samples(DTYPES[dtype], n=3)["separable_conv2d"]
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    x, residual = x.contiguous(memory_format=memory_format), residual.contiguous(memory_format=memory_format)
    call = Call("pwconv2d", (x, pw, bias), {"residual": residual, "activation": "hardswish"})
    check(call, call(backend="triton"))


def run(case: Case, layout: str, dtype: str) -> None:
    call = build(case, DTYPES[dtype], layout)
    y = call(backend="triton")
    check(call, y)
    x = call.args[0]
    expected = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    assert y.is_contiguous(memory_format=expected)


@pytest.mark.parametrize("tile", [{"WIDE": True}, {"BLOCK_M": 128, "BLOCK_N": 128}, {"BLOCK_K": 32}], ids=str)
@pytest.mark.parametrize("op", ["pwconv2d", "separable_conv2d"])
def test_other_tiles(op: str, tile: dict[str, Any]) -> None:
    """The tiles and index widths that only large shapes get."""
    module = importlib.import_module(f"mbv1_kernels.triton.{op}")
    args = samples(n=3)[op]
    expected = getattr(reference, op)(*args[:-1])
    y = torch.full_like(expected, float("nan"))
    launch = module.plan(*args, y)
    changed = {**launch.args, **tile}
    assert changed != launch.args
    blocks = triton.cdiv(y[:, 0].numel(), changed["BLOCK_M"]) * triton.cdiv(y.shape[1], changed["BLOCK_N"])
    dataclasses.replace(launch, args=changed, grid=(blocks,))(getattr(module, f"{op}_kernel"), y)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", backend.OPS)
def test_empty_batch(op: str) -> None:
    args = samples(n=0)[op]
    y = getattr(torch.ops.mbv1, f"{op}_triton")(*args)
    assert y.shape == (0, 4 if op == "dwconv2d" else 7, 5, 6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("activation", mk.ACTIVATIONS)
@pytest.mark.parametrize("op", backend.OPS)
def test_special_values(op: str, activation: str) -> None:
    """NaN and infinities go where they go in torch; bfloat16 is where rounding could lose a NaN."""
    args = list(samples(torch.bfloat16)[op])
    args[0] = args[0].clone()
    args[0][0, :, 0, 0], args[0][0, :, 2, 3], args[0][0, :, 4, 5] = float("nan"), float("inf"), -float("inf")
    args = [activation if a == "relu" else a for a in args]
    y = getattr(torch.ops.mbv1, f"{op}_triton")(*args)
    expected = getattr(reference, op)(*(args if op == "dwconv2d" else args[:-1]))
    assert torch.equal(y.isnan(), expected.isnan()) and y.isnan().any()
    assert torch.equal(y.isinf(), expected.isinf())


@pytest.mark.parametrize("dim", range(4), ids="nchw".__getitem__)
@pytest.mark.parametrize("op", backend.OPS)
def test_offsets_beyond_32_bits(op: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 2^30 elements in one dimension: a stride fits 32 bits, 2 do not. Only the touched pages exist."""
    # The interpreter would copy the whole storage onto itself afterwards.
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *args: None)

    def placed(x: Tensor) -> Tensor:
        near = [1 if i == dim else size for i, size in enumerate(x.shape)]
        strides = list(torch.empty(near).stride())
        strides[dim] = 2**30
        return torch.empty(2**30 * x.shape[dim], dtype=x.dtype).as_strided(x.shape, strides).copy_(x)

    args = samples(torch.float16, n=3)[op]
    far = [placed(a) if isinstance(a, Tensor) and a.shape[-2:] == (5, 6) else a for a in args]
    run = getattr(torch.ops.mbv1, f"{op}_triton")
    torch.testing.assert_close(run(*far), run(*args), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("op", backend.OPS)
def test_autocast(op: str) -> None:
    args = samples()[op]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert getattr(torch.ops.mbv1, f"{op}_triton")(*args).dtype == torch.bfloat16


@pytest.mark.parametrize("op", backend.OPS)
def test_sums_are_made_in_float32(op: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        for layout in DENSE:
            call, expected = cancelling(op, dtype, layout)
            assert torch.equal(call(backend="triton"), expected)


@pytest.mark.parametrize("layout", DENSE)
@pytest.mark.parametrize("dtype", backend.DTYPES, ids=str)
def test_the_tensor_between_the_parts_is_rounded(dtype: torch.dtype, layout: str) -> None:
    call, expected = rounded_between(dtype, layout)
    assert (call(backend="triton") == expected).all()


@pytest.mark.parametrize("op", backend.OPS)
def test_opcheck(op: str) -> None:
    """Schema, fake and autograd registration of the op, which opcheck can only see where it can run."""
    args = samples()[op]
    leaves = [a.detach().clone().requires_grad_() if isinstance(a, Tensor) else a for a in args]
    torch.library.opcheck(getattr(torch.ops.mbv1, f"{op}_triton").default, leaves)


@pytest.mark.parametrize("op", backend.OPS)
def test_gradients_are_torchs(op: str) -> None:
    def gradients(run) -> list[Tensor]:
        leaves = [a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in samples()[op]]
        run(leaves).square().sum().backward()
        return [a.grad for a in leaves if isinstance(a, Tensor)]

    ours = gradients(lambda args: getattr(torch.ops.mbv1, f"{op}_triton")(*args))
    theirs = gradients(lambda args: getattr(reference, op)(*(args if op == "dwconv2d" else args[:-1])))
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
