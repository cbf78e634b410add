"""torch.compile in the ways that people use it for inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..workload import Workload
from . import BENCHMARKS, MOBILENET, BasePeer, CudaPeer


class Compiled(BasePeer):
    """``torch.compile(folded, **options)`` for exactly one shape, without graph breaks."""

    def __init__(self, name: str, title: str, benchmarks: Iterable[str], **options: Any) -> None:
        self.name, self.title, self.benchmarks, self.options = name, title, frozenset(benchmarks), options

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return "starting the compiler takes longer than a quick run" if quick else None

    def prepare(self, workload: Workload) -> Callable[[], Tensor]:
        compiled = torch.compile(workload.folded, fullgraph=True, dynamic=False, **self.options)
        x = workload.x
        return lambda: compiled(x)

    def finish(self) -> None:
        # What was compiled for one case would count against the next one's limit on recompilations, past
        # which torch.compile falls back to eager without a word.
        torch.compiler.reset()


class CompiledPlain(Compiled):
    """On CPUs its C++ takes seconds a case, and the frozen variant is the one that fuses there."""

    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return "seconds of compilation a case on CPUs" if device.type == "cpu" else super().left_out(device, quick)


class CompiledFrozen(Compiled):
    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return "as compile on GPUs" if device.type == "cuda" else super().left_out(device, quick)


class CompiledTuned(CudaPeer, Compiled):
    def left_out(self, device: torch.device, quick: bool) -> str | None:
        return "up to minutes of tuning a case"


class CompiledGraph(CudaPeer, Compiled):
    """The compiler's own CUDA graphs."""

    allocates_in_torch = False
    capturable = False


PEERS = [
    CompiledPlain("compile", "torch.compile, batch norm folded", BENCHMARKS),
    CompiledFrozen(
        "frozen",
        "torch.compile with freezing (on CPUs: oneDNN with packed weights and fused activation)",
        BENCHMARKS,
        options={"freezing": True},
    ),
    CompiledTuned(
        "max-autotune",
        "torch.compile, batch norm folded, mode max-autotune-no-cudagraphs",
        BENCHMARKS,
        mode="max-autotune-no-cudagraphs",
    ),
    CompiledGraph(
        "compile graph",
        "torch.compile, batch norm folded, mode reduce-overhead (CUDA graphs)",
        {MOBILENET},
        mode="reduce-overhead",
    ),
]
