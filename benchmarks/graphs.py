"""CUDA graphs, for the clocks and the peers that run captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_WARM_UPS = 3


def capture(run: Callable[[], T], calls: int = 1) -> Callable[[], T]:
    """``calls`` calls of ``run``, captured as one graph; each call replays it and returns what the last one made."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            y = run()

    def replay() -> T:
        graph.replay()
        return y

    return replay
