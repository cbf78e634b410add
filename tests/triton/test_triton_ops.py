"""The Triton ops as torch sees them on a machine without a GPU: fakes, tracing, refusals, import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode

import mbv1_kernels as mk
from mbv1_kernels import backends
from mbv1_kernels import triton as backend

triton = pytest.importorskip("triton")
LAYOUTS = ["nchw", "nhwc", "sliced_nhwc", "nhcw"]


@pytest.fixture(autouse=True)
def loaded() -> None:
    backend.load()


def image(n: int, c: int, h: int, w: int, layout: str, device: str, dtype: torch.dtype) -> Tensor:
    if layout == "sliced_nhwc":
        return image(n, c + 2, h, w, "nhwc", device, dtype)[:, 1:-1]
    if layout == "nhcw":
        return torch.empty(n, h, c, w, device=device, dtype=dtype).transpose(1, 2)
    x = torch.empty(n, c, h, w, device=device, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "nhwc" else x


def samples(layout: str, device: str, dtype: torch.dtype = torch.float16) -> dict[str, tuple[Any, ...]]:
    x = image(4, 19, 9, 11, layout, device, dtype)
    dw, dw_bias = (
        torch.empty(19, 1, 3, 3, device=device, dtype=dtype),
        torch.empty(19, device=device, dtype=dtype),
    )
    pw, pw_bias = (
        torch.empty(35, 19, 1, 1, device=device, dtype=dtype),
        torch.empty(35, device=device, dtype=dtype),
    )
    residual = image(4, 35, 9, 11, layout, device, dtype)
    window = [1, 1], [1, 1, 1, 1], [1, 1]
    return {
        "dwconv2d": (x, dw, dw_bias, [2, 1], [0, 1, 1, 2], [1, 2], "relu6"),
        "pwconv2d": (x, pw, pw_bias, "silu", residual, True),
        "separable_conv2d": (x, dw, dw_bias, pw, pw_bias, *window, "relu", "hardswish", residual, False),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", ["cuda", "meta"])
@pytest.mark.parametrize("op", backend.OPS)
def test_fake_is_like_the_real_one(op: str, device: str, layout: str) -> None:
    """The fake has shape, strides and dtype of the C++ op on real tensors of the same strides."""
    with FakeTensorMode():
        fake = getattr(torch.ops.mbv1, f"{op}_triton")(*samples(layout, device)[op])
    real = getattr(torch.ops.mbv1, op)(*samples(layout, "cpu")[op])
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)
    assert fake.device.type == device


@pytest.mark.parametrize("op", backend.OPS)
def test_same_schema_as_the_cpp_op(op: str) -> None:
    ours, theirs = (str(getattr(torch.ops.mbv1, name).default._schema) for name in (f"{op}_triton", op))
    assert ours == theirs.replace(f"mbv1::{op}", f"mbv1::{op}_triton").replace("SymInt", "int")


@pytest.mark.parametrize("op", backend.OPS)
def test_gradient_is_registered(op: str) -> None:
    args = [a.requires_grad_() if isinstance(a, Tensor) else a for a in samples("nhwc", "meta")[op]]
    getattr(torch.ops.mbv1, f"{op}_triton")(*args).sum().backward()
    for a in args:
        assert not isinstance(a, Tensor) or a.grad.shape == a.shape


class _Sm90:
    """Stands in for triton's driver, so that torch's analysis of what a kernel writes finds a target."""

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


@pytest.fixture
def sm90(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.runtime.driver, "_active", _Sm90())


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", backend.OPS)
def test_compile_sees_the_kernel(op: str, dynamic: bool, sm90: None) -> None:
    """Under torch.compile the op becomes one output and one kernel, which writes nothing else."""
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    def call(*args: Any) -> Tensor:
        return backends.run(backends.OPS[op], "triton", args)

    torch._dynamo.reset()
    with FakeTensorMode():
        args = samples("nhwc", "cuda")[op]
        compiled = torch.compile(
            call, fullgraph=True, dynamic=dynamic, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep)
        )
        y = compiled(*args)
        assert y.stride() == getattr(torch.ops.mbv1, f"{op}_triton")(*args).stride()
    kernels = [n for n in graphs[0].graph.nodes if "triton_kernel_wrapper" in str(n.target)]
    allocations = [n for n in graphs[0].graph.nodes if "empty" in str(n.target)]
    assert len(kernels) == 1 and len(allocations) == 1
    assert kernels[0].kwargs["tensors_to_clone"] == ["y_ptr"]


@pytest.mark.parametrize("op", backend.OPS)
def test_export_keeps_the_op(op: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, *args: Tensor) -> Tensor:
            tensors = iter(args)
            return getattr(torch.ops.mbv1, f"{op}_triton")(
                *(next(tensors) if isinstance(a, Tensor) else a for a in samples("nhwc", "meta")[op])
            )

    args = tuple(a for a in samples("nhwc", "meta")[op] if isinstance(a, Tensor))
    program = torch.export.export(Model(), args)
    assert f"mbv1.{op}_triton" in program.graph_module.code


def test_reasons() -> None:
    def reason(dtype: torch.dtype = torch.float32, device: str = "cpu") -> str | None:
        with FakeTensorMode():
            return backend.unsupported(torch.empty(1, 3, 4, 4, dtype=dtype, device=device))

    assert "not on a CUDA device" in reason()
    assert "float64" in reason(torch.float64, "cuda")
    assert reason(torch.bfloat16, "cuda") is None
    assert "2^30" in backend.unsupported(torch.empty(1, 1, 1, 2**30 + 1, device="meta"))


@pytest.mark.parametrize("op", backend.OPS)
def test_call_on_the_cpu_is_refused(op: str) -> None:
    args = samples("nchw", "cpu", torch.float32)[op]
    with pytest.raises(RuntimeError, match=f"mbv1::{op}_triton: cannot run: x is on cpu"):
        getattr(torch.ops.mbv1, f"{op}_triton")(*args)


def test_bad_arguments_name_op_and_argument() -> None:
    args = list(samples("nchw", "meta")["pwconv2d"])
    args[1] = args[1][:, 1:]
    with pytest.raises(RuntimeError, match=r"mbv1::pwconv2d: weight: expected shape \(35, 19, 1, 1\), got"):
        torch.ops.mbv1.pwconv2d_triton(*args)


def test_import_registers_nothing() -> None:
    """``import mbv1_kernels`` leaves the slow part, torch.library.triton_op, to the first call."""
    script = (
        "import sys, mbv1_kernels, torch\n"
        "assert not hasattr(torch.ops.mbv1, 'dwconv2d_triton')\n"
        "assert 'mbv1_kernels.triton.common' not in sys.modules\n"
        "mbv1_kernels.triton.load()\n"
        "assert hasattr(torch.ops.mbv1, 'dwconv2d_triton')\n"
    )
    root = Path(mk.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_without_triton() -> None:
    """The package imports, and the backend says why it cannot run."""
    script = (
        "import importlib.util as u, torch\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'triton' else find(name, *rest)\n"
        "import mbv1_kernels as mk\n"
        "x, w = torch.ones(1, 2, 4, 4), torch.ones(2, 1, 3, 3)\n"
        "assert mk.dwconv2d(x, w).shape == (1, 2, 2, 2)\n"
        "print(mk.explain('dwconv2d', x, w))\n"
    )
    root = Path(mk.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "triton is not installed" in run.stdout
