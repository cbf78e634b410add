"""The choice of backend and of kernel, and what `explain` tells of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import mbv1_kernels
from mbv1_kernels import backends
from tests.cases import CASES, DTYPES, LAYOUTS, build
from tests.instruction_sets import INSTRUCTION_SETS, processor_has


@pytest.mark.parametrize("op", backends.OPS)
def test_explain(op: str) -> None:
    call = build(next(c for c in CASES if c.op == op), torch.float32)
    explanation = mbv1_kernels.explain(op, *call.args, **call.kwargs)
    assert explanation.chosen == "cpu"
    assert explanation.kernel.startswith(op) and "_f32_" in explanation.kernel
    assert [c.backend for c in explanation.candidates] == ["cuda", "triton", "cpu", "torch"]
    assert all((c.kernel is None) != (c.reason is None) for c in explanation.candidates)
    text = str(explanation)
    assert f"runs on backend 'cpu': {explanation.kernel}" in text and "cannot run: " in text


def test_explain_of_an_unknown_op() -> None:
    with pytest.raises(RuntimeError, match=r"op_name: expected one of dwconv2d, .*, got 'conv'"):
        mbv1_kernels.explain("conv")


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_forced_backend_says_why_not(backend: str) -> None:
    call = build(CASES[0], torch.float32)
    with pytest.raises(RuntimeError, match=f"mbv1::dwconv2d: backend '{backend}' cannot run this call: .+"):
        call(backend=backend)


@pytest.mark.parametrize("op", backends.OPS)
def test_every_cpu_kernel_is_reached(op: str) -> None:
    """Each line of the table of kernels is what some case of the table of cases runs."""
    reached = {
        mbv1_kernels.explain(op, *call.args, **call.kwargs).kernel
        for case in CASES
        if case.op == op
        for call in (build(case, torch.float32, layout) for layout in LAYOUTS)
    }
    for kernel in torch.ops.mbv1.cpu_kernels(op).split("\n"):
        assert any(name.startswith(f"{kernel}_f32_") for name in reached), f"{kernel} never runs, only {reached}"


def test_kernel_names_end_with_dtype_and_instruction_set() -> None:
    for suffix, dtype in DTYPES.items():
        call = build(CASES[0], dtype, "nhwc")
        name = mbv1_kernels.explain(call.op, *call.args, **call.kwargs).kernel
        assert name.startswith(f"dwconv2d_nhwc_{suffix}_") and name.rsplit("_", 1)[1] in INSTRUCTION_SETS


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_forced_instruction_set(isa: str) -> None:
    """MBV1_CPU_ISA runs the whole table on another instruction set, or says that the processor lacks it."""
    code = (
        "import torch, mbv1_kernels\n"
        "from tests.cases import CASES, DTYPES, build, check\n"
        "for case in CASES:\n"
        "    for dtype in DTYPES.values():\n"
        "        for layout in ('nchw', 'nhwc_sliced'):\n"
        "            call = build(case, dtype, layout)\n"
        "            check(call, call(backend='cpu'))\n"
        "print(mbv1_kernels.explain(call.op, *call.args, **call.kwargs).kernel)\n"
    )
    environment = dict(os.environ, MBV1_CPU_ISA=isa)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if processor_has(isa):
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip().endswith(isa)
    else:
        assert run.returncode != 0
        assert "mbv1: MBV1_CPU_ISA: expected one of " in run.stderr and f"got '{isa}'" in run.stderr


def test_unknown_instruction_set() -> None:
    code = "import torch, mbv1_kernels; mbv1_kernels.pool_linear(torch.ones(1, 1, 1, 1), torch.ones(1, 1))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=dict(os.environ, MBV1_CPU_ISA="sse9"),
    )
    assert "MBV1_CPU_ISA: expected one of " in run.stderr and "got 'sse9'" in run.stderr


def test_auto_takes_torch_where_no_kernel_can_run() -> None:
    x = torch.ones(1, 2, 3, 3, device="meta")
    assert mbv1_kernels.explain("pool_linear", x, torch.ones(4, 2, device="meta")).chosen == "torch"
    assert mbv1_kernels.pool_linear(x, torch.ones(4, 2, device="meta")).shape == (1, 4)


def test_explain_of_parameters_with_gradients() -> None:
    call = build(CASES[0], torch.float32).map(lambda t: t.requires_grad_())
    assert mbv1_kernels.explain(call.op, *call.args, **call.kwargs).chosen == "cpu"
