"""ExecuTorch with its XNNPACK delegate, which takes whole chains of layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..workload import Workload
from . import LibraryPeer


class ExecuTorch(LibraryPeer):
    name = "executorch"
    title = "ExecuTorch with XNNPACK, float32, input in the workload's layout"
    needs = ("executorch",)

    def load(self, workload: Workload) -> Callable[[], Tensor]:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        x = workload.x
        with torch.inference_mode(False), torch.no_grad():
            exported = torch.export.export(workload.folded_float32, (torch.zeros_like(x),))
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            buffer = lowered.to_executorch().buffer
        _unsafe_reset_threadpool(torch.get_num_threads())
        program = Runtime.get().load_program(buffer)
        method = program.load_method("forward")

        def run(program: object = program) -> Tensor:  # a method does not keep its program's memory
            return method.execute([x])[0]

        return run


PEERS = [ExecuTorch()]
