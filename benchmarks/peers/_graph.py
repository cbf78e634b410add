"""CUDA graphs, for the peers that run captured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3


def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``run`` captured once; each call replays it and returns the same output tensor."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run()

    def replay() -> Tensor:
        graph.replay()
        return y

    return replay
