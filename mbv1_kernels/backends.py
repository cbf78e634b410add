"""Which backend runs an op: the choice behind ``backend=``, and :func:`explain`, which tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _extension
from . import triton as triton_backend

#: Every value of ``backend=``. ``auto`` takes the first of the others that can run the call.
BACKENDS: tuple[str, ...] = ("auto", "cuda", "triton", "cpu", "torch")

_functorch_level = torch._C._functorch.maybe_current_level  # looked up once, as it is called in every call
_CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Op:
    """An op as the backends see it. All callables but ``arguments`` take normalized arguments."""

    name: str
    arguments: Callable[..., tuple[Any, ...]]  # what the public wrapper takes → what torch.ops.mbv1 takes
    check: Callable[..., Any]  # raises on bad arguments
    reference: Callable[..., Tensor]
    has_triton: bool

    @property
    def kernels(self) -> Callable[..., Tensor]:
        """``torch.ops.mbv1.<name>``: the kernels in C++."""
        return getattr(torch.ops.mbv1, self.name)


OPS: dict[str, Op] = {}


def unsupported(op: Op, backend: str, args: tuple[Any, ...]) -> str | None:
    """Why ``backend`` cannot run this call; None where it can."""
    x: Tensor = args[0]
    if backend == "cuda":
        if _extension.cuda_missing is not None:
            return _extension.cuda_missing
        if not x.is_cuda:
            return f"x is on {x.device}, not on a CUDA device"
        return None if x.dtype in _CUDA_DTYPES else f"no kernel for {x.dtype}: float32, float16, bfloat16 only"
    if backend == "triton":
        if not op.has_triton:
            return f"{op.name} has no Triton kernel"
        return triton_backend.unsupported(x)
    if backend == "cpu":
        return None if x.is_cpu else f"x is on {x.device}, not on the CPU"
    return None


def transforming() -> bool:
    """Whether this is inside a transform of ``torch.func`` or a level of forward-mode differentiation."""
    return _functorch_level() is not None or forward_ad._current_level >= 0


def _is_transformed(argument: Any) -> bool:
    """Whether an argument is a wrapper of ``torch.func`` or has a tangent."""
    return isinstance(argument, Tensor) and (
        torch._C._functorch.is_functorch_wrapped_tensor(argument)
        or forward_ad.unpack_dual(argument).tangent is not None
    )


def choose(op: Op, backend: str, args: tuple[Any, ...]) -> str:
    """The backend that runs the call. A forced backend that cannot raises the reason."""
    if backend == "auto":
        if not torch.compiler.is_compiling() and transforming() and any(map(_is_transformed, args)):
            return "torch"  # the kernels' gradients are of reverse mode, and outside torch.func
        if args[0].is_cpu and not triton_backend.INTERPRETING:
            return "cpu"  # what the line below finds, at a tenth of its time
        return next(b for b in BACKENDS[1:] if unsupported(op, b, args) is None)
    if backend not in BACKENDS:
        raise RuntimeError(f"mbv1::{op.name}: backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    reason = unsupported(op, backend, args)
    if reason is not None:
        raise RuntimeError(f"mbv1::{op.name}: backend {backend!r} cannot run this call: {reason}")
    return backend


def run(op: Op, backend: str, args: tuple[Any, ...]) -> Tensor:
    """Runs an op with normalized arguments on the backend that ``backend=`` leads to."""
    chosen = choose(op, backend, args)
    if chosen == "torch":
        op.check(*args)
        return op.reference(*args)
    kernels = op.kernels
    if chosen == "triton":
        triton_backend.load()
        kernels = getattr(torch.ops.mbv1, f"{op.name}_triton")
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or _wants_gradient(args):
        return kernels(*args)
    # The op's own autograd comes to the same, at half the price of a small call.
    with torch._C._AutoDispatchBelowAutograd():
        return kernels(*args)


def _wants_gradient(args: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*args)


@dataclass(frozen=True)
class KernelChoice:
    """A kernel that could run the call. On CUDA, what the cost model predicts for it: ``us`` is a lower bound on its
    time, predicted and not measured; ``limiter`` names what it is bound by."""

    kernel: str
    us: float | None = None
    limiter: str | None = None

    def __str__(self) -> str:
        if self.limiter is None:
            return self.kernel
        time = "does not fit this device" if self.us is None else f"predicted >= {self.us:.2f} us, limited by"
        return f"{self.kernel:<40}{time} {self.limiter}"


@dataclass(frozen=True)
class Candidate:
    """One backend's answer: the name of the kernel it would run, or why it cannot; and all that it chose from."""

    backend: str
    kernel: str | None
    reason: str | None
    kernels: tuple[KernelChoice, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``str()`` of it is a small table."""

    op: str
    chosen: str
    candidates: tuple[Candidate, ...]

    @property
    def kernel(self) -> str:
        """The name of the kernel that would run."""
        return next(c.kernel for c in self.candidates if c.backend == self.chosen and c.kernel)

    def __str__(self) -> str:
        lines = [f"mbv1::{self.op} runs on backend {self.chosen!r}: {self.kernel}"]
        for c in self.candidates:
            mark = "->" if c.backend == self.chosen else "  "
            lines.append(f"{mark} {c.backend:<7}{c.kernel or 'cannot run: ' + str(c.reason)}")
            if len(c.kernels) > 1:
                lines += [f"       {'*' if k.kernel == c.kernel else ' '} {k}" for k in c.kernels]
        return "\n".join(lines)


def explain(op_name: str, *args: Any, backend: str = "auto", **kwargs: Any) -> Explanation:
    """What would run for a call of ``mbv1_kernels.<op_name>(*args, **kwargs)``, and why not the others: of each
    backend all kernels that could run it, with the cost that the choice on CUDA is made by.

    Nothing is computed. Raises what the call itself would raise for bad arguments, and RuntimeError for an
    op that does not exist.
    """
    if op_name not in OPS:
        raise RuntimeError(f"mbv1_kernels.explain: op_name: expected one of {', '.join(OPS)}, got {op_name!r}")
    op = OPS[op_name]
    normalized = op.arguments(*args, **kwargs)
    op.check(*normalized)
    candidates = []
    for name in BACKENDS[1:]:
        reason = unsupported(op, name, normalized)
        kernel = None if reason is not None else _kernel_name(op, name, normalized)
        kernels = () if kernel is None else _kernels(op, name, normalized)
        candidates.append(Candidate(name, kernel, reason, kernels))
    return Explanation(op_name, choose(op, backend, normalized), tuple(candidates))


def _kernel_name(op: Op, backend: str, args: tuple[Any, ...]) -> str:
    if backend in ("cpu", "cuda"):
        return getattr(torch.ops.mbv1, f"{op.name}_kernel")(*args)
    return f"{op.name}_triton" if backend == "triton" else f"torch.nn.functional ({op.name})"


def _kernels(op: Op, backend: str, args: tuple[Any, ...]) -> tuple[KernelChoice, ...]:
    if backend not in ("cpu", "cuda"):
        return ()
    found = json.loads(getattr(torch.ops.mbv1, f"{op.name}_candidates")(*args))
    predictions = [(c["kernel"], c.get("prediction", {})) for c in found]
    return tuple(KernelChoice(kernel, p.get("us"), p.get("limiter")) for kernel, p in predictions)
