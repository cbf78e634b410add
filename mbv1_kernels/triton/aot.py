"""Compiles a kernel launch for a GPU that need not be there: for tests, and to read the generated code."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from .common import Launch


def compile_ahead(kernel: JITFunction, launch: Launch, capability: int) -> CompiledKernel:
    """The binary that ``launch(kernel, y)`` would make on a GPU of ``capability`` (90: 9.0).

    Specialized as triton's launcher does it: an argument that is 1 becomes a constant, one divisible by 16
    and an aligned pointer are known to be so. Tensors on the meta device count as aligned.
    """
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    options: dict[str, Any] = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    bound, specialization, options = bind(**launch.args, **options)
    parsed, signature, constexprs, attrs = kernel._pack_args(backend, options, bound, specialization, options)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attrs)
    return compile(source, target=target, options=parsed.__dict__)
