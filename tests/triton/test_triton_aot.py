"""Compiles the launches of the Triton ops for GPUs that need not be there, and reads what came out."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mbv1_kernels import triton as backend
from mbv1_kernels.layout import new_output

triton = pytest.importorskip("triton")
backend.load()
aot = importlib.import_module("mbv1_kernels.triton.aot")

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
CAPABILITIES = [80, 90, 100]
# The product on tensor cores, in PTX, of a large enough tile.
TENSOR_CORE = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
# What sm_86, sm_89 and sm_120 have for a block, the least of all that the backend admits.
MAX_SHARED = 99 * 1024
# What waits for the epilogue may lie on the stack meanwhile. A tile too large for the registers takes
# hundreds of bytes.
MAX_STACK = 32


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def meta(*shape: int, dtype: torch.dtype, nhwc: bool = False) -> Tensor:
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x.to(memory_format=torch.channels_last) if nhwc else x


def compiled(op: str, args: tuple[Any, ...], size: tuple[int, ...], capability: int) -> Any:
    module = importlib.import_module(f"mbv1_kernels.triton.{op}")
    launch = module.plan(*args, new_output(args[0], size))
    binary = aot.compile_ahead(getattr(module, f"{op}_kernel"), launch, capability)
    assert binary.metadata.shared <= MAX_SHARED
    assert stack_bytes(binary.asm["cubin"]) <= MAX_STACK
    return binary


def stack_bytes(cubin: bytes, tool: Path = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump") -> int:
    """The stack of a kernel, which is where spilled registers go."""
    path = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    path.write_bytes(cubin)
    usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"STACK:(\d+)", usage)
    assert found, usage
    return int(found.group(1))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("nhwc", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize(
    ("dtype", "size", "k", "stride"), [(F16, 14, 3, 1), (F32, 112, 3, 2), (BF16, 7, 5, 1), (F32, 14, 7, 1)]
)
def test_dwconv2d(capability: int, nhwc: bool, dtype: torch.dtype, size: int, k: int, stride: int) -> None:
    x = meta(32, 512, size, size, dtype=dtype, nhwc=nhwc)
    args = (x, meta(512, 1, k, k, dtype=dtype), meta(512, dtype=dtype), [stride] * 2, [k // 2] * 4, [1, 1])
    binary = compiled("dwconv2d", (*args, "relu6"), (32, 512, size // stride, size // stride), capability)
    if nhwc:
        assert re.search(r"ld\.global\.v[24]", binary.asm["ptx"]), "loads of 8 or 16 bytes"


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("nhwc", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize(
    ("dtype", "batch", "allow_tf32"), [(F16, 32, False), (BF16, 1, False), (F32, 32, True), (F32, 32, False)]
)
def test_pwconv2d(capability: int, nhwc: bool, dtype: torch.dtype, batch: int, allow_tf32: bool) -> None:
    x = meta(batch, 512, 14, 14, dtype=dtype, nhwc=nhwc)
    weight, bias = meta(512, 512, 1, 1, dtype=dtype), meta(512, dtype=dtype)
    binary = compiled("pwconv2d", (x, weight, bias, "silu", x, allow_tf32), tuple(x.shape), capability)
    check_product(binary, capability, dtype, allow_tf32, large=batch == 32)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("nhwc", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize(
    ("dtype", "out", "allow_tf32"),
    [(F16, 512, False), (BF16, 64, False), (F32, 512, True), (F32, 128, False)],
)
def test_separable_conv2d(capability: int, nhwc: bool, dtype: torch.dtype, out: int, allow_tf32: bool) -> None:
    x = meta(32, 512, 14, 14, dtype=dtype, nhwc=nhwc)
    dw, dw_bias = meta(512, 1, 3, 3, dtype=dtype), meta(512, dtype=dtype)
    pw, pw_bias = meta(out, 512, 1, 1, dtype=dtype), meta(out, dtype=dtype)
    window = [1, 1], [1] * 4, [1, 1]
    args = (x, dw, dw_bias, pw, pw_bias, *window, "relu", "relu", None, allow_tf32)
    binary = compiled("separable_conv2d", args, (32, out, 14, 14), capability)
    check_product(binary, capability, dtype, allow_tf32, large=out == 512)


def check_product(binary: Any, capability: int, dtype: torch.dtype, allow_tf32: bool, large: bool) -> None:
    ptx = binary.asm["ptx"]
    if dtype == F32 and not allow_tf32:
        assert not re.search(r"\bw?g?mma|tcgen05\.mma", ptx), "IEEE float32 on tensor cores"
    elif large:
        assert TENSOR_CORE[capability] in ptx
    else:
        assert any(name in ptx for name in TENSOR_CORE.values())


@pytest.mark.parametrize("nhwc", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("op", backend.OPS)
def test_odd_sizes_compile(op: str, nhwc: bool) -> None:
    """Nothing aligned, nothing specialized, all that is optional absent, strides beyond 32 bits."""
    x = meta(3, 19, 9, 11, dtype=F16, nhwc=nhwc).as_strided((3, 19, 9, 11), (2**33, 1 if nhwc else 2**31, 5700, 19))
    dw, pw = meta(19, 1, 5, 9, dtype=F16), meta(35, 19, 1, 1, dtype=F16)
    window = [2, 3], [1, 2, 3, 4], [2, 1]
    args = {
        "dwconv2d": (x, dw, None, *window, "none"),
        "pwconv2d": (x, pw, None, "hardswish", None, False),
        "separable_conv2d": (x, dw, None, pw, None, *window, "silu", "none", None, False),
    }[op]
    size = {"dwconv2d": (3, 19, 2, 4), "pwconv2d": (3, 35, 9, 11), "separable_conv2d": (3, 35, 2, 4)}[op]
    assert compiled(op, args, size, 90).asm["cubin"]
