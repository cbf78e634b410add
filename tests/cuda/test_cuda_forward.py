"""Every case of the table on the CUDA kernels."""

from __future__ import annotations

import itertools

import pytest
import torch

import mbv1_kernels
from mbv1_kernels import backends
from mbv1_kernels.layout import is_channels_last
from tests.cases import CASES, DTYPES, LAYOUTS, Call, Case, build, check
from tests.special_calls import cancelling, far_apart, rounded_between

CUDA_DTYPES = ["f32", "f16", "bf16"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", CUDA_DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cuda(case: Case, dtype: str, layout: str) -> None:
    call = build(case, DTYPES[dtype], layout, "cuda")
    y = call(backend="cuda")
    check(call, y)
    if case.op != "pool_linear":
        expected = torch.channels_last if is_channels_last(call.args[0]) else torch.contiguous_format
        assert y.is_contiguous(memory_format=expected)


def _candidates(call: Call) -> list[str]:
    """The names of all kernels that can run the call."""
    explanation = mbv1_kernels.explain(call.op, *call.args, **call.kwargs)
    return [k.kernel for c in explanation.candidates if c.backend == "cuda" for k in c.kernels]


@pytest.mark.parametrize("op", backends.OPS)
def test_every_kernel_is_reached(op: str) -> None:
    """Each line of the table of kernels is one that some case of the table of cases can run."""
    reached = set()
    for precision in ("ieee", "tf32"):
        torch.backends.cudnn.conv.fp32_precision = precision
        for case in (c for c in CASES if c.op == op):
            for layout in LAYOUTS:
                call = build(case, torch.float32, layout, "cuda")
                reached.update(name.removesuffix("_f32") for name in _candidates(call))
    assert reached == set(torch.ops.mbv1.cuda_kernels(op).split("\n"))


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nchw_sliced", "nhwc_sliced"])
@pytest.mark.parametrize("dtype", CUDA_DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_variant(case: Case, dtype: str, layout: str) -> None:
    """Every kernel that can run a case is right, whichever the cost model chooses."""
    call = build(case, DTYPES[dtype], layout, "cuda")
    chosen = mbv1_kernels.explain(call.op, *call.args, **call.kwargs).kernel
    for kernel in _candidates(call):
        if kernel != chosen:  # test_cuda has it
            check(call, getattr(torch.ops.mbv1, f"{call.op}_with")(*call.normalized, kernel=kernel))


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhwc_sliced"])
@pytest.mark.parametrize("case", [c for c in CASES if c.op in ("pwconv2d", "separable_conv2d")], ids=str)
def test_every_tf32_variant(case: Case, layout: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    call = build(case, torch.float32, layout, "cuda")
    for kernel in _candidates(call):
        if "tf32" in kernel:
            y = getattr(torch.ops.mbv1, f"{call.op}_with")(*call.normalized, kernel=kernel)
            check(call, y, tf32=True)


def test_a_kernel_that_does_not_take_the_call_is_refused_by_name() -> None:
    call = build(CASES[0], torch.float16, "nhwc", "cuda")
    with pytest.raises(RuntimeError, match=r"mbv1::dwconv2d: kernel: expected one .*, got 'dwconv2d_nchw_k9_f16'"):
        torch.ops.mbv1.dwconv2d_with(*call.normalized, kernel="dwconv2d_nchw_k9_f16")


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhwc_sliced"])
@pytest.mark.parametrize("case", [c for c in CASES if c.op in ("pwconv2d", "separable_conv2d")], ids=str)
def test_tf32(case: Case, layout: str) -> None:
    """Where torch allows TF32 it is used: results differ from strict float32, by no more than its rounding."""
    call = build(case, torch.float32, layout, "cuda")
    strict = call(backend="cuda").cpu()
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    y = call(backend="cuda")
    check(call, y, tf32=True)
    name = mbv1_kernels.explain(call.op, *call.args, **call.kwargs).kernel
    if "tf32" in name and case.shape[1] > 1:
        assert not torch.equal(y.cpu(), strict)


@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_empty_batch(case: Case) -> None:
    call = build(case, torch.float16, device="cuda")
    size = backends.OPS[case.op].check(*call.normalized)
    kwargs = {k: v[:0] if k == "residual" else v for k, v in call.kwargs.items()}
    y = getattr(mbv1_kernels, case.op)(call.args[0][:0], *call.args[1:], **kwargs, backend="cuda")
    assert y.shape == (0, *size[1:])


@pytest.mark.parametrize("activation", mbv1_kernels.ACTIVATIONS)
@pytest.mark.parametrize("dtype", CUDA_DTYPES)
def test_special_values(dtype: str, activation: str) -> None:
    """NaN and infinities go through every activation as in torch."""
    special = [float("nan"), float("inf"), float("-inf"), 0.0, 6.0, -3.0, 60000.0, -60000.0]
    x = torch.tensor(special, dtype=DTYPES[dtype]).reshape(1, 4, 1, 2)
    weight = torch.ones(4, 1, 1, 1, dtype=x.dtype)
    y = mbv1_kernels.dwconv2d(x.cuda(), weight.cuda(), activation=activation, backend="cuda")
    expected = mbv1_kernels.dwconv2d(x, weight, activation=activation, backend="torch")
    torch.testing.assert_close(y.cpu(), expected, equal_nan=True)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", CUDA_DTYPES)
@pytest.mark.parametrize("op", backends.OPS)
def test_sums_are_made_in_float32(op: str, dtype: str, layout: str) -> None:
    call, expected = cancelling(op, DTYPES[dtype], layout, "cuda")
    assert torch.equal(call(backend="cuda").cpu(), expected)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", CUDA_DTYPES)
def test_the_tensor_between_the_parts_is_rounded(dtype: str, layout: str) -> None:
    call, expected = rounded_between(DTYPES[dtype], layout, "cuda")
    assert (call(backend="cuda").cpu() == expected).all()


def test_offsets_beyond_2_31_elements() -> None:
    for near, far in far_apart("cuda"):
        check(near, far(backend="cuda"))


def test_float64_is_refused_by_name() -> None:
    call = build(CASES[0], torch.float64, device="cuda")
    with pytest.raises(RuntimeError, match="mbv1::dwconv2d: backend 'cuda' cannot run this call: no kernel for"):
        call(backend="cuda")
    with pytest.raises(
        RuntimeError, match="mbv1::dwconv2d: x: expected float32, float16 or bfloat16 on CUDA, got float64"
    ):
        torch.ops.mbv1.dwconv2d(*call.normalized)
    assert mbv1_kernels.explain(call.op, *call.args, **call.kwargs).chosen == "torch"


def test_device_mismatch_is_named() -> None:
    call = build(CASES[0], torch.float32, device="cuda")
    with pytest.raises(RuntimeError, match="mbv1::dwconv2d: weight: expected device cuda:0 as x, got cpu"):
        mbv1_kernels.dwconv2d(call.args[0], call.args[1].cpu(), padding=1)


def test_explain_prefers_cuda() -> None:
    call = build(CASES[0], torch.float16, "nhwc", "cuda")
    explanation = mbv1_kernels.explain(call.op, *call.args, **call.kwargs)
    assert explanation.chosen == "cuda"
    assert explanation.kernel.startswith("dwconv2d_nhwc_k3") and explanation.kernel.endswith("_f16")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", CUDA_DTYPES)
def test_first_layers_of_mobilenets_get_their_own_kernel(dtype: str, layout: str) -> None:
    """Every width and resolution of the paper, symmetric and TensorFlow's padding."""
    for channels, size, padding in itertools.product(
        (8, 16, 24, 32), (128, 160, 192, 224), ((1, 1, 1, 1), (0, 1, 0, 1))
    ):
        case = Case("stem_conv2d", (1, 3, size, size), (3, 3), channels)
        call = build(case, DTYPES[dtype], layout, "cuda")
        explanation = mbv1_kernels.explain(call.op, *call.args, stride=2, padding=padding)
        assert explanation.kernel == f"stem_conv2d_{layout}_k3s2_{dtype}"


@pytest.mark.parametrize("op", backends.OPS)
def test_runs_on_the_current_stream(op: str) -> None:
    call = build(next(c for c in CASES if c.op == op), torch.float32, "nhwc", "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        y = call(backend="cuda")
    stream.synchronize()
    check(call, y)


@pytest.mark.parametrize("op", backends.OPS)
def test_autocast(op: str) -> None:
    call = build(next(c for c in CASES if c.op == op), torch.float32, "nhwc", "cuda")
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype=dtype):
            assert call(backend="cuda").dtype == dtype


@pytest.mark.parametrize("op", backends.OPS)
def test_gradients(op: str) -> None:
    case = next(c for c in CASES if c.op == op)
    gradients = []
    for device in ("cuda", "cpu"):
        call = build(case, torch.float32, "nhwc", device).map(lambda t: t.detach().requires_grad_())
        leaves = [t for t in call.args if isinstance(t, torch.Tensor)]
        gradients.append([g.cpu() for g in torch.autograd.grad(call().sum(), leaves)])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("op", backends.OPS)
def test_opcheck(op: str) -> None:
    call = build(next(c for c in CASES if c.op == op), torch.float32, "nhwc", "cuda")
    torch.library.opcheck(getattr(torch.ops.mbv1, op).default, call.map(lambda t: t.requires_grad_()).normalized)
