"""Writes chains of layers as TensorFlow Lite models, without TensorFlow: LiteRT's own schema is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..workload import Unavailable

_VERSION = 3  # of the schema


def tflite_model(module: nn.Module, shape: Sequence[int]) -> bytes:
    """``module``, a chain of convolutions, activations, average pool and linear, on NHWC input of ``shape`` (NCHW).
    Raises :class:`Unavailable` for any other layer."""
    writer = _Writer(shape)
    for layer, size in _chain(module, shape):
        writer.add(layer, size)
    return writer.model()


def _chain(module: nn.Module, shape: Sequence[int]) -> list[tuple[nn.Module, torch.Size]]:
    """The layers in the order in which they run, each with the size of its output."""
    layers: list[tuple[nn.Module, torch.Size]] = []

    def record(layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        layers.append((layer, y.shape))

    leaves = [m for m in module.modules() if not list(m.children())]
    hooks = [leaf.register_forward_hook(record) for leaf in leaves]
    try:
        with torch.inference_mode(False), torch.no_grad():
            module(torch.zeros(tuple(shape)))
    finally:
        for hook in hooks:
            hook.remove()
    return layers


class _Writer:
    """A model of one subgraph, to whose last tensor layers are added."""

    def __init__(self, shape: Sequence[int]) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._buffers = [schema.BufferT()]  # the first one means: no data
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[int] = []
        n, c, h, w = shape
        self._last = self._first = self._tensor((n, h, w, c))

    def add(self, layer: nn.Module, size: Sequence[int]) -> None:
        if isinstance(layer, nn.Conv2d):
            self._convolution(layer, size)
        elif isinstance(layer, (nn.ReLU, nn.ReLU6)):
            self._activation(layer)
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            axes = self._constant(np.array([1, 2], np.int32))
            options = self._schema.ReducerOptionsT(keepDims=False)
            self._operator("MEAN", [self._last, axes], size[:2], options)
        elif isinstance(layer, nn.Linear):
            weights = [self._constant(layer.weight), self._constant(layer.bias)]
            self._operator("FULLY_CONNECTED", [self._last, *weights], size, self._schema.FullyConnectedOptionsT())
        elif not isinstance(layer, (nn.Identity, nn.Dropout, nn.Flatten)):
            raise Unavailable(f"no TensorFlow Lite operator here for {type(layer).__name__}")

    def model(self) -> bytes:
        import flatbuffers

        schema = self._schema
        graph = schema.SubGraphT(
            tensors=self._tensors, inputs=[self._first], outputs=[self._last], operators=self._operators
        )
        codes = [
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1)
            for code in self._codes
        ]
        model = schema.ModelT(version=_VERSION, operatorCodes=codes, subgraphs=[graph], buffers=self._buffers)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _convolution(self, conv: nn.Conv2d, size: Sequence[int]) -> None:
        schema, (n, c, h, w) = self._schema, size
        depthwise = conv.groups == conv.in_channels > 1
        if conv.bias is None or not (depthwise or conv.groups == 1):
            raise Unavailable("convolutions have a bias here, and are dense or depthwise")
        (top, left), padding = conv.padding, schema.Padding.VALID
        if (top, left) != (0, 0):
            if conv.stride == (1, 1):
                padding = schema.Padding.SAME
            else:  # SAME would pad the bottom and the right only; XNNPACK takes this into the convolution
                self._pad(top, left)
        options = schema.DepthwiseConv2DOptionsT(depthMultiplier=1) if depthwise else schema.Conv2DOptionsT()
        options.padding = padding
        options.strideH, options.strideW = conv.stride
        options.dilationHFactor, options.dilationWFactor = conv.dilation
        weight = conv.weight.permute((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        inputs = [self._last, self._constant(weight), self._constant(conv.bias)]
        self._operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, (n, h, w, c), options)

    def _pad(self, top: int, left: int) -> None:
        n, h, w, c = self._tensors[self._last].shape
        pads = self._constant(np.array([[0, 0], [top, top], [left, left], [0, 0]], np.int32))
        self._operator("PAD", [self._last, pads], (n, h + 2 * top, w + 2 * left, c), self._schema.PadOptionsT())

    def _activation(self, layer: nn.Module) -> None:
        kinds = self._schema.ActivationFunctionType
        options = self._operators[-1].builtinOptions
        options.fusedActivationFunction = kinds.RELU6 if isinstance(layer, nn.ReLU6) else kinds.RELU

    def _operator(self, name: str, inputs: list[int], size: Sequence[int], options: Any) -> None:
        code = getattr(self._schema.BuiltinOperator, name)
        if code not in self._codes:
            self._codes.append(code)
        kind = getattr(self._schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._last = self._tensor(size)
        self._operators.append(
            self._schema.OperatorT(
                opcodeIndex=self._codes.index(code),
                inputs=inputs,
                outputs=[self._last],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def _constant(self, value: Tensor | np.ndarray) -> int:
        array = value.detach().contiguous().numpy() if isinstance(value, Tensor) else value
        self._buffers.append(self._schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
        kinds = self._schema.TensorType
        kind = kinds.INT32 if array.dtype == np.int32 else kinds.FLOAT32
        return self._tensor(array.shape, kind, len(self._buffers) - 1)

    def _tensor(self, shape: Sequence[int], kind: int = 0, buffer: int = 0) -> int:
        name = str(len(self._tensors)).encode()
        self._tensors.append(self._schema.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name))
        return len(self._tensors) - 1
