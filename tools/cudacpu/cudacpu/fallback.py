"""PyTorch's own operators for "cuda" tensors on the emulated device.

The emulated device runs the kernels of the extension under test, not PyTorch's. Under this mode an
aten operator that meets a "cuda" tensor runs PyTorch's CPU kernel on the tensor's memory, which is
host memory, and returns new "cuda" tensors. Operators of other namespaces run their real CUDA
implementation; aten operators that these call in turn come back here.

    with CpuFallbackMode():
        loss = model.cuda()(x.cuda()).sum()
        loss.backward()
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from typing_extensions import Self

# Tensors of opcheck and torch.compile while they trace: there is no memory to compute on.
_TRACED = (FakeTensor, FunctionalTensor)
# They allocate or change metadata only: the real CUDA implementation launches no kernel.
_ALLOCATION_OPS = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::set_",
    "aten::resize_",
    "aten::record_stream",
    "aten::is_pinned",
    "aten::_pin_memory",
}


def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU tensor on the same memory, with the same strides."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    view = torch.empty(0, dtype=tensor.dtype)
    return view.set_(whole, tensor.storage_offset(), tensor.size(), tensor.stride())


def to_device(tensor: torch.Tensor) -> torch.Tensor:
    """A new "cuda" tensor with a CPU tensor's values and strides."""
    copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cuda")
    if tensor.numel():
        host_view(copy).copy_(tensor)
    return copy


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_cuda
    return isinstance(value, (list, tuple)) and any(_is_cuda(v) for v in value)


def _is_view(op: torch._ops.OpOverload) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns)


def _is_composite(op: torch._ops.OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


class CpuFallbackMode(TorchDispatchMode):
    """Runs operators of the `fallback` namespaces on the CPU; see the module's text."""

    def __init__(self, fallback: Sequence[str] = ("aten", "prims", "torchvision")) -> None:
        super().__init__()
        self.fallback = frozenset(fallback)
        self._saved_settings: list[tuple[bool, ...]] = []

    # Composite operators choose CUDA-only operators (cuDNN, flash attention) unless told not to.
    def __enter__(self) -> Self:
        cuda = torch.backends.cuda
        self._saved_settings.append(
            (
                torch.backends.cudnn.enabled,
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.cudnn_sdp_enabled(),
            )
        )
        self._apply_settings((False, False, False, False))
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._apply_settings(self._saved_settings.pop())

    @staticmethod
    def _apply_settings(settings: tuple[bool, ...]) -> None:
        cudnn, flash, efficient, cudnn_attention = settings
        torch.backends.cudnn.enabled = cudnn
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_mem_efficient_sdp(efficient)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(issubclass(t, _TRACED) for t in types):
            return func(*args, **kwargs)
        if func.namespace not in self.fallback:
            return self._run_extension(func, args, kwargs)
        if _is_composite(func):  # called below autograd, where it has not been taken apart yet
            with self:
                return func.decompose(*args, **kwargs)
        device = kwargs.get("device")
        makes_cuda = torch.device(device).type == "cuda" if device is not None else False
        has_cuda = any(_is_cuda(v) for v in (*args, *kwargs.values()))
        if not (makes_cuda or has_cuda) or _is_view(func) or func._schema.name in _ALLOCATION_OPS:
            return func(*args, **kwargs)
        return self._run_on_cpu(func, args, kwargs, makes_cuda or (has_cuda and device is None))

    def _run_extension(self, func, args, kwargs):
        """Calls the CUDA kernel directly, with the mode on again for what it calls in turn."""
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CUDA")
        if not has_kernel or not any(_is_cuda(v) for v in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        with self:
            return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args, **kwargs)

    def _run_on_cpu(self, func, args, kwargs, result_on_cuda: bool):
        originals: dict[int, torch.Tensor] = {}
        views: list[torch.Tensor] = []  # keeps them alive, so that their ids stay theirs

        def to_host(value):
            if isinstance(value, torch.Tensor) and value.is_cuda:
                view = host_view(value)
                views.append(view)
                originals[id(view)] = value
                return view
            if isinstance(value, torch.device) and value.type == "cuda":
                return torch.device("cpu")
            if isinstance(value, torch.Generator) and value.device.type == "cuda":
                return _cpu_generator(value)
            return value

        def from_host(value):
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) in originals:
                return originals[id(value)]
            return to_device(value) if result_on_cuda and value.device.type == "cpu" else value

        if "pin_memory" in kwargs:
            kwargs = {**kwargs, "pin_memory": False}
        result = func(*tree_map(to_host, args), **tree_map(to_host, kwargs))
        return tree_map(from_host, result)


def _cpu_generator(generator: torch.Generator) -> torch.Generator:
    """A CPU generator for the next draw; the CUDA generator's offset counts the draws."""
    offset = generator.get_offset()
    generator.set_offset(offset + 4)
    return torch.Generator().manual_seed((generator.initial_seed() + offset * 0x9E3779B9) % 2**63)
