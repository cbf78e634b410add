"""The ops under torch's transforms: autograd, opcheck, compile, export, autocast, inference mode."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import mbv1_kernels
from mbv1_kernels import ACTIVATIONS
from tests.cases import CASES, Call, Case, build

OPS = ["dwconv2d", "pwconv2d", "separable_conv2d", "stem_conv2d", "pool_linear"]

#: Small enough for gradcheck: asymmetric padding, stride, dilation, residual.
SMALL = [
    Case(
        "dwconv2d",
        (2, 3, 6, 5),
        (3, 3),
        options={"padding": (0, 1, 2, 1), "stride": (2, 1), "dilation": (1, 2)},
    ),
    Case("pwconv2d", (2, 3, 2, 3), out=4, residual=True),
    Case(
        "separable_conv2d",
        (2, 3, 5, 4),
        (3, 3),
        4,
        residual=True,
        options={"padding": (1, 0, 1, 2), "stride": 2},
    ),
    Case("stem_conv2d", (2, 2, 5, 4), (3, 3), 3, options={"padding": (1, 1, 0, 1), "stride": 2}),
    Case("pool_linear", (2, 3, 2, 3), out=4),
]


def _with_activation(case: Case, activation: str) -> Case:
    options = dict(case.options, activation=activation)
    if case.op == "separable_conv2d":
        options["dw_activation"] = activation
    return Case(case.op, case.shape, case.kernel, case.out, case.bias, case.residual, options=options)


def _leaves(call: Call) -> tuple[Call, list[Tensor]]:
    """The call with its tensors as leaves that want gradients."""
    call = call.map(lambda t: t.detach().clone().requires_grad_())
    tensors = [*call.args, *call.kwargs.values()]
    return call, [t for t in tensors if isinstance(t, Tensor)]


SMALL_WITH_ACTIVATION = [
    _with_activation(case, a) if case.op != "pool_linear" else case
    for case in SMALL
    for a in (ACTIVATIONS if case.op != "pool_linear" else ["none"])
]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("case", SMALL_WITH_ACTIVATION, ids=str)
def test_gradcheck(case: Case, layout: str) -> None:
    call, leaves = _leaves(build(case, torch.float64, layout))

    def function(*tensors: Tensor) -> Tensor:
        replace = dict(zip(map(id, leaves), tensors, strict=True))
        return call.map(lambda t: replace[id(t)])(backend="cpu")

    torch.autograd.gradcheck(function, leaves)
    smooth = call.kwargs.get("activation", "none") in ("none", "silu")
    if smooth:
        torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_on_both_sides_of_every_kink(activation: str) -> None:
    gradients = []
    for backend in ("cpu", "torch"):
        x = torch.tensor([-4.0, -2.0, 2.0, 4.0, 8.0]).reshape(1, 1, 1, 5).requires_grad_()
        y = mbv1_kernels.dwconv2d(x, torch.ones(1, 1, 1, 1), activation=activation, backend=backend)
        gradients += torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_gradients_are_torchs(case: Case) -> None:
    gradients = []
    for backend in ("cpu", "torch"):
        call, leaves = _leaves(build(case, torch.float32, "nhwc"))
        y = call(backend=backend)
        gradients.append(torch.autograd.grad(y, leaves, torch.cos(torch.arange(y.numel())).reshape(y.shape)))
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wanted", range(6))
def test_gradients_only_where_wanted(wanted: int) -> None:
    call, leaves = _leaves(build(SMALL[2], torch.float32))
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i == wanted)
    call().sum().backward()
    ours = leaves[wanted].grad
    assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != wanted)
    torch.testing.assert_close(ours, *torch.autograd.grad(call(backend="torch").sum(), leaves[wanted]))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhwc_sliced"])
@pytest.mark.parametrize("case", SMALL_WITH_ACTIVATION[1::2], ids=str)
def test_opcheck(case: Case, layout: str, requires_grad: bool) -> None:
    call = build(case, torch.float32, layout)
    if requires_grad:
        call = call.map(lambda t: t.detach().requires_grad_())
    torch.library.opcheck(getattr(torch.ops.mbv1, case.op).default, call.normalized)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nchw_sliced", "nhwc_sliced", "expanded", "transposed"])
@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_fake_has_the_real_strides(case: Case, layout: str) -> None:
    call = build(case, torch.float32, layout)
    real = call(backend="cpu")
    meta = getattr(torch.ops.mbv1, case.op)(*call.map(lambda t: t.to("meta")).normalized)
    if layout not in ("expanded", "nchw_sliced", "nhwc_sliced"):  # .to() makes those dense
        assert (meta.shape, meta.stride(), meta.dtype) == (real.shape, real.stride(), real.dtype)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = getattr(torch.ops.mbv1, case.op)(*call.map(mode.from_tensor).normalized)
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((2, 1, 1, 1), (1, 1, 1, 1)),
        ((1, 3, 1, 1), (3, 1, 1, 1)),
        ((2, 3, 1, 1), (3, 1, 3, 3)),
        ((2, 1, 4, 4), (16, 1, 4, 1)),
        ((2, 3, 4, 4), (16, 0, 4, 1)),
        ((1, 3, 4, 4), (0, 0, 0, 0)),
    ],
)
def test_fake_has_the_real_strides_of_ambiguous_inputs(size: tuple[int, ...], strides: tuple[int, ...]) -> None:
    x, weight = torch.ones(48).as_strided(size, strides), torch.ones(5, size[1], 1, 1)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mbv1_kernels.pwconv2d(*map(mode.from_tensor, (x, weight)))
    assert fake.stride() == mbv1_kernels.pwconv2d(x, weight, backend="cpu").stride()


def _small(op: str) -> Call:
    return build(next(c for c in SMALL if c.op == op), torch.float32, "nhwc")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", OPS)
def test_compile(op: str, dynamic: bool) -> None:
    """Compiled as one graph, with gradients, and equal to eager."""
    torch._dynamo.reset()  # the ops share this function, and so a limit on recompilations
    eager, eager_leaves = _leaves(_small(op))
    compiled, leaves = _leaves(_small(op))

    def function(*args: Any, **kwargs: Any) -> Tensor:
        return getattr(mbv1_kernels, op)(*args, **kwargs) * 2

    expected = function(*eager.args, **eager.kwargs)
    if dynamic:  # batch, height and width; the weights' sizes and the options stay what they are
        for activation in (compiled.args[0], compiled.kwargs.get("residual")):
            for dimension in (0, 2, 3) if activation is not None else ():
                torch._dynamo.maybe_mark_dynamic(activation, dimension)
    y = torch.compile(function, fullgraph=True)(*compiled.args, **compiled.kwargs)
    torch.testing.assert_close(y, expected)
    assert y.stride() == expected.stride()
    expected.sum().backward()
    y.sum().backward()
    for a, b in zip(leaves, eager_leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_tf32_setting_can_be_traced() -> None:
    def function(x: Tensor) -> Tensor:
        return x + int(sys.modules["mbv1_kernels.ops.pwconv2d"]._torch_allows_tf32())

    x = torch.zeros(1)
    assert torch.compile(function, fullgraph=True, backend="eager")(x) == function(x)


FIRST_CALL = """
import torch
import mbv1_kernels

x, weight = torch.ones(1, 8, 5, 5), torch.ones(8, 1, 3, 3)
compiled = torch.compile(lambda x: mbv1_kernels.dwconv2d(x, weight), fullgraph=True, backend="eager")
print(compiled(x).sum().item())
"""


def test_the_first_call_of_a_process_may_be_a_compiled_one() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True)
    assert done.stdout.split() == [str(8 * 9 * 9.0)], done.stderr


@pytest.mark.parametrize("op", OPS)
def test_export(op: str) -> None:
    """torch.export keeps the op, with a batch of any size, and the saved program gives the same result."""
    call = _small(op)
    rest = call.args[1:]
    kwargs = {name: value for name, value in call.kwargs.items() if name != "residual"}

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return getattr(mbv1_kernels, op)(x, *rest, **kwargs)

    x = call.args[0]
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Module(), (x,), dynamic_shapes={"x": {0: batch}})
    assert any(f"mbv1.{op}" in str(node.target) for node in program.graph.nodes)
    more = torch.cat([x, x, x]).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(program.module()(more), Module()(more))


@pytest.mark.parametrize("op", OPS)
def test_autocast(op: str) -> None:
    """An op runs in the dtype of the region, like torch's convolutions, and gradients keep the leaf's dtype."""
    call, leaves = _leaves(_small(op))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            y = call()
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), call(), rtol=0.05, atol=0.05)
        y.float().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert call.map(lambda t: t.detach().double())().dtype == torch.float64


@pytest.mark.parametrize("op", OPS)
def test_inference_mode(op: str) -> None:
    call = _small(op)
    with torch.inference_mode():
        y = call()
    assert y.is_inference()
    torch.testing.assert_close(y.clone(), call())


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("gradients", [False, True])
def test_torch_func_and_forward_mode(gradients: bool, case: Case) -> None:
    """With backend auto, as torch's own ops: the kernels know neither transforms nor tangents."""
    call = build(case, torch.float64, "nchw")
    x, tangent = call.args[0], torch.randn_like(call.args[0])

    def make(backend: str) -> Callable[[Tensor], Tensor]:
        return lambda t: call.map(lambda other: t if other is x else other)(backend=backend)

    ours, torchs = make("auto"), make("torch")
    with torch.set_grad_enabled(gradients):
        y, wanted = torch.func.jvp(torchs, (x,), (tangent,))
        torch.testing.assert_close(torch.func.jvp(ours, (x,), (tangent,)), (y, wanted))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, tangent)
            torch.testing.assert_close(forward_ad.unpack_dual(ours(dual)).tangent, wanted)
        torch.testing.assert_close(torch.vmap(ours)(torch.stack([x, 2 * x])), torch.stack([y, torchs(2 * x)]))
        torch.testing.assert_close(
            torch.func.grad(lambda t: ours(t).sum())(x), torch.func.grad(lambda t: torchs(t).sum())(x)
        )
