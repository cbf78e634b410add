"""What a contender is given: one function on one input, in every form that it may take it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .environment import allows_tf32

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}

# Errors relative to the largest magnitude of the right result. A single layer stays below these; the
# contenders round at different places (folded weights, each pass), while a wrong kernel is off by far more.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_TF32_TOLERANCE = 1e-2
_LARGEST_TOLERANCE = 0.5

_NORM_RANGES = {
    "weight": (0.5, 1.5),
    "bias": (-0.5, 0.5),
    "running_mean": (-0.2, 0.2),
    "running_var": (0.5, 1.5),
}


class Unavailable(Exception):
    """Raised by ``Peer.prepare`` where a peer cannot run a workload; the message is the reason."""


class Workload(ABC):
    """``module`` (float32, in eval mode, with batch norm of its own) on a random input of ``shape``.

    Weights and input of every form have the dtype, layout and device of the workload.
    """

    def __init__(
        self, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: torch.device
    ) -> None:
        self.dtype, self.layout, self.device = dtype, layout, device
        self._float32 = module
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(shape, generator=generator, device=device)
        self.x = x.to(dtype).contiguous(memory_format=LAYOUTS[layout])

    @cached_property
    def unfolded(self) -> nn.Module:
        """Convolution, batch norm and activation as modules of their own."""
        return self._placed(self._float32)

    @cached_property
    def folded(self) -> nn.Module:
        """Batch norm folded into the convolutions' weights and biases, in float32, then rounded."""
        return self._placed(self.folded_float32)

    @cached_property
    def folded_float32(self) -> nn.Module:
        """The same before rounding, wherever it was made: what model files of other libraries are made of."""
        return fold_batch_norm(self._float32)

    @cached_property
    def x_nchw(self) -> Tensor:
        """The input as dense NCHW. Lives as long as the workload: libraries keep pointers into it."""
        return self.x.contiguous()

    @abstractmethod
    def ours(self, backend: str = "auto") -> Callable[[], Tensor]:
        """The function through this project. Raises :class:`Unavailable` where ``backend`` cannot run it."""

    def frozen(self) -> Callable[[], Tensor]:
        """:meth:`ours` with weights that are fixed. Raises :class:`Unavailable` where there is no such form."""
        raise Unavailable("only whole nets have a frozen form")

    def kernel(self, backend: str = "auto") -> str | None:
        """The name of the kernel that :meth:`ours` runs, where it is one."""
        return None

    def eager(self, module: nn.Module) -> Callable[[], Tensor]:
        """``folded`` or ``unfolded`` in torch without a compiler, at the least overhead that torch allows."""
        x = self.x
        return lambda: module(x)

    @cached_property
    def reference(self) -> Tensor:
        """The right result in float64, of the samples that :meth:`error` looks at."""
        module = copy.deepcopy(self._float32).to(self.device).double()
        return module(self._probe(self.x).double())

    @cached_property
    def tolerance(self) -> float:
        """The largest :meth:`error` of a right result: twice torch's own at this dtype where that is more
        than a layer's rounding, as it is for a whole net in half precision."""
        tf32 = self.dtype == torch.float32 and allows_tf32(self.device)
        least = _TF32_TOLERANCE if tf32 else _TOLERANCES[self.dtype]
        return min(max(least, 2 * self.error(self.eager(self.unfolded)())), _LARGEST_TOLERANCE)

    def error(self, y: Tensor) -> float:
        """The largest error of ``y``, relative to the largest magnitude of the right result; infinite where
        ``y`` has another shape or dtype, or a NaN. Looks at the first and the last sample."""
        wanted, batch = self.reference, self.x.shape[0]
        if y.shape[1:] != wanted.shape[1:] or y.shape[0] != batch or y.dtype != self.dtype:
            return float("inf")
        error = (self._probe(y).double() - wanted).abs().max() / wanted.abs().max()
        return error.nan_to_num(nan=float("inf")).item()

    def _probe(self, t: Tensor) -> Tensor:
        return t[[0, -1]]

    def _placed(self, module: nn.Module) -> nn.Module:
        # Whoever asks first: parameters made in inference mode have no version counter, which no user's have.
        with torch.inference_mode(False), torch.no_grad():
            return copy.deepcopy(module).to(self.device, self.dtype).to(memory_format=LAYOUTS[self.layout])


def checked(run: Callable[[], Tensor], backend: str) -> Callable[[], Tensor]:
    """``run``, which calls this project with ``backend``. Raises :class:`Unavailable` with the reason where a
    forced backend cannot run it; ``auto`` always can."""
    if backend != "auto":
        try:
            run()
        except RuntimeError as error:
            raise Unavailable(str(error)) from error
    return run


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with each batch norm that directly follows a convolution folded into it."""
    module = copy.deepcopy(module).eval()
    for parent in module.modules():
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                # A Sequential doesn't miss it; elsewhere the name has to stay.
                if isinstance(parent, nn.Sequential):
                    delattr(parent, norm_name)
                else:
                    setattr(parent, norm_name, nn.Identity())
    return module


def randomize_batch_norm(module: nn.Module, seed: int = 0) -> None:
    """Gives every batch norm of ``module`` parameters that a fold has to get right."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            state = norm.state_dict()
            for name, (low, high) in _NORM_RANGES.items():
                nn.init.uniform_(state[name], low, high, generator=generator)
