"""A net as one CUDA graph: :func:`graphed` captures a call, and each call of its result replays it.

At batch 1 the GPU finishes a kernel of MobileNetV1 in a microsecond or two, sooner than Python can enqueue the next.
A graph enqueues all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .model import MobileNetV1

_WARM_UPS = 3  # calls before the capture: folds batch norm, loads kernels, makes choices


class Graphed:
    """What :func:`graphed` returns. ``input`` and ``output`` are the graph's own tensors."""

    def __init__(self, model: MobileNetV1, example: Tensor, clone: bool, watch: bool) -> None:
        _require(isinstance(model, MobileNetV1), "model", "an mbv1.MobileNetV1", type(model).__name__)
        _require(isinstance(example, Tensor), "example", "a tensor", type(example).__name__)
        _require(example.is_cuda, "example", "a tensor on a CUDA device", f"one on {example.device}")
        self._require_evaluation(model)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            _require(tensor.device == example.device, f"model.{name}", f"{example.device} as example", tensor.device)
        self.model, self.clone, self.watch = model, clone, watch
        self.input = torch.empty_like(example, requires_grad=False)
        self.input.copy_(example.detach())
        self._stream: torch.cuda.Stream | None = None
        self.capture()

    def capture(self) -> None:
        """Captures the model as it is now. Called where ``watch`` sees a change; needed without it."""
        training = [name for name, module in self.model.named_modules() if module.training]
        _require(not training, "model", "every module in evaluation mode", f"{training[:3]} in training mode")
        self.model.refold()
        with torch.no_grad(), torch.cuda.device(self.input.device):
            self._replay, self.output = _capture(lambda: self.model(self.input))
        # The graph reads these at their addresses for as long as it lives.
        self._fold = self.model._fold
        self._state = self._state_of_model()

    def __call__(self, x: Tensor) -> Tensor:
        self._require_evaluation(self.model)
        if x is not self.input:
            wanted, got = _described(self.input), _described(x) if isinstance(x, Tensor) else type(x).__name__
            _require(got == wanted, "x", f"{wanted} as the example", got)
        if self.watch and not self._is_current():
            self.capture()
        with torch.no_grad(), torch.cuda.device(self.input.device):
            # Replays share the graph's tensors: one on another stream waits for the one before it.
            stream = torch.cuda.current_stream()
            if self._stream is not None and self._stream != stream:
                stream.wait_stream(self._stream)
            self._stream = stream
            if x is not self.input:
                self.input.copy_(x.detach())
            self._replay()
            return self.output.clone() if self.clone else self.output

    def _is_current(self) -> bool:
        return (self._fold is None or self._fold.is_current(self.model)) and self._state_of_model() == self._state

    def _state_of_model(self) -> tuple[Any, ...]:
        """What the captured kernels depend on beside the fold: which tensors they read, and how the net runs.

        Kernels that read a parameter itself see what is written into it, so that its version does not count.
        """
        model = self.model
        read = [*model.parameters(), *model.buffers()] if self._fold is None else list(model.fc.parameters())
        return model.fused, model.backend, model.activation, [(id(t), t.data_ptr()) for t in read]

    @staticmethod
    def _require_evaluation(model: MobileNetV1) -> None:
        _require(not model.training, "model", "a model in evaluation mode (model.eval())", "one in training mode")


def graphed(model: MobileNetV1, example: Tensor, *, clone: bool = True, watch: bool = True) -> Graphed:
    """A callable that computes ``model(x)`` by replaying a CUDA graph, for inputs like ``example``.

    The graph is captured here, from the model in evaluation mode and under this call's autocast. Each call copies
    ``x`` into the graph's input (write into ``result.input`` and pass it to spare that), replays on the current
    stream without waiting for it, and has no gradient. Calls must not overlap in time: threads need one each.

    Args:
        model: a net in evaluation mode, on the device of ``example``; best with ``fused=True``.
        example: a CUDA tensor of the shape, dtype and memory format that inputs will have. Inputs in another memory
            format are converted by the copy.
        clone: return a new tensor. False returns the graph's output itself, which the next call overwrites.
        watch: before each call look for changes of the model's weights, as the model itself does (some 40 us), and
            capture again where there are any. Without it a change of the weights of a ``fused`` model is not seen
            until ``result.capture()``.

    Raises:
        ValueError: the model is in training mode, here or in a call; a tensor is not on the device; ``x`` has not
            the shape, dtype or device of ``example``.
    """
    return Graphed(model, example, clone, watch)


def _capture(run: Callable[[], Tensor]) -> tuple[Callable[[], Any], Tensor]:
    """The replay of one call of ``run``, and the tensor that it writes."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):  # the default stream cannot be captured, and the warm-up shares its allocations
        for _ in range(_WARM_UPS):
            run()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        output = run()
    return graph.replay, output


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _require(condition: bool, argument: str, expected: object, got: object) -> None:
    if not condition:
        raise ValueError(f"mbv1.graphed: {argument}: expected {expected}, got {got}")
