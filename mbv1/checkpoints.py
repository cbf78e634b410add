"""Checkpoints of MobileNetV1 from other libraries: which one it is, what its names mean, and strict loading.

================  ==================================================  ====================================
convention        first kernel                                        what it stands for
================  ==================================================  ====================================
``pytorch``       ``model.0.0.weight``                                relu, symmetric padding, eps 1e-5
``timm``          ``conv_stem.weight``                                relu6, symmetric padding, eps 1e-5
``transformers``  ``mobilenet_v1.conv_stem.convolution.weight``       relu6, SAME padding, eps 1e-3
``tf-slim``       ``MobilenetV1/Conv2d_0/weights``                    relu6, SAME padding, eps 1e-3
``keras``         ``conv1/kernel``                                    relu6, keras padding, eps 1e-3
``keras-v3``      ``layers/conv2d/vars/0`` (a ``.weights.h5`` file)   relu6, keras padding, eps 1e-3
================  ==================================================  ====================================

Names do not say everything: a net with TF-slim's names may have been trained with another activation.
``MobileNetV1.from_pretrained`` therefore takes every constructor argument as an override, and reads
``hidden_act``, ``tf_padding``, ``layer_norm_eps`` and ``min_depth`` from transformers' ``config.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .architecture import BLOCKS, SHALLOW_BLOCKS, width_from
from .checkpoint_files import read_config, read_file

if TYPE_CHECKING:
    from .model import MobileNetV1

_BN = ("weight", "bias", "running_mean", "running_var")
_TF_BN = ("gamma", "beta", "moving_mean", "moving_variance")


class CheckpointError(ValueError):
    """Weights that do not fit: every name that is missing, unexpected or of another shape is listed."""

    def __init__(
        self,
        what: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshapen: Sequence[str] = (),
    ) -> None:
        self.missing, self.unexpected, self.misshapen = list(missing), list(unexpected), list(misshapen)
        lines = [what]
        for title, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)):
            if names:
                lines.append(f"  {title} ({len(names)}): " + ", ".join(names))
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Unit:
    """Where a source keeps one convolution and its batch norm (gamma, beta, mean, variance)."""

    kernel: str
    bias: str
    bn: tuple[str, ...]
    counter: str | None = None  # num_batches_tracked; older files lack it


@dataclass(frozen=True)
class Convention:
    """How one library names, lays out and means a MobileNetV1.

    ``unit(kind, i)`` names convolution ``i``: kind ``"stem"`` (i = 0), ``"dw"`` or ``"pw"`` (i = 1…).
    """

    name: str
    options: Mapping[str, Any]
    unit: Callable[[str, int], Unit]
    head: tuple[str, str]
    tensorflow: bool = False  # arrays are HWIO, depthwise ones HWC1, matrices (in, out)


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, the convention of the names, and what else the source said about the net."""

    arrays: Mapping[str, Any]
    convention: Convention
    origin: str
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()  # names of the classes, where the source has them


def _torch_unit(conv: str, bn: str) -> Unit:
    names = tuple(f"{bn}.{n}" for n in _BN)
    return Unit(f"{conv}.weight", f"{conv}.bias", names, f"{bn}.num_batches_tracked")


def _pytorch(kind: str, i: int) -> Unit:
    first = 3 if kind == "pw" else 0
    return _torch_unit(f"model.{i}.{first}", f"model.{i}.{first + 1}")


def _timm(kind: str, i: int) -> Unit:
    if kind == "stem":
        return _torch_unit("conv_stem", "bn1")
    # timm groups the blocks into stages, one for each channel count: 1, 2, 2, 6, 2 blocks.
    stage = sorted({c for c, _ in BLOCKS}).index(BLOCKS[i - 1][0])
    place = i - 1 - [c for c, _ in BLOCKS].index(BLOCKS[i - 1][0])
    prefix = f"blocks.{stage}.{place}"
    return _torch_unit(f"{prefix}.conv_{kind}", f"{prefix}.bn{1 if kind == 'dw' else 2}")


def _transformers(kind: str, i: int) -> Unit:
    layer = "conv_stem" if kind == "stem" else f"layer.{2 * i - 2 + (kind == 'pw')}"
    prefix = f"mobilenet_v1.{layer}"
    return _torch_unit(f"{prefix}.convolution", f"{prefix}.normalization")


def _tf_slim(kind: str, i: int) -> Unit:
    layer = f"MobilenetV1/Conv2d_{i}" + {"stem": "", "dw": "_depthwise", "pw": "_pointwise"}[kind]
    kernel = "depthwise_weights" if kind == "dw" else "weights"
    return Unit(f"{layer}/{kernel}", f"{layer}/biases", tuple(f"{layer}/BatchNorm/{n}" for n in _TF_BN))


def _keras(kind: str, i: int) -> Unit:
    layer = "conv1" if kind == "stem" else f"conv_{kind}_{i}"
    return Unit(f"{layer}/kernel", f"{layer}/bias", tuple(f"{layer}_bn/{n}" for n in _TF_BN))


def _keras_v3(kind: str, i: int) -> Unit:
    # Keras 3 numbers the layers of each class in their order: the first has no number.
    def numbered(name: str, n: int) -> str:
        return f"layers/{name}_{n}/vars" if n else f"layers/{name}/vars"

    layer = numbered("depthwise_conv2d", i - 1) if kind == "dw" else numbered("conv2d", i)
    bn = numbered("batch_normalization", {"stem": 0, "dw": 2 * i - 1, "pw": 2 * i}[kind])
    return Unit(f"{layer}/0", f"{layer}/1", tuple(f"{bn}/{n}" for n in range(4)))


_TENSORFLOW = {"activation": "relu6", "padding": "same", "bn_eps": 1e-3}
_KERAS = {"activation": "relu6", "padding": "keras", "bn_eps": 1e-3}

#: Every convention that :func:`read` knows, by name.
CONVENTIONS: dict[str, Convention] = {
    c.name: c
    for c in (
        Convention("pytorch", {}, _pytorch, ("fc.weight", "fc.bias")),
        Convention("timm", {"activation": "relu6"}, _timm, ("classifier.weight", "classifier.bias")),
        Convention("transformers", _TENSORFLOW, _transformers, ("classifier.weight", "classifier.bias")),
        Convention(
            "tf-slim",
            _TENSORFLOW,
            _tf_slim,
            ("MobilenetV1/Logits/Conv2d_1c_1x1/weights", "MobilenetV1/Logits/Conv2d_1c_1x1/biases"),
            tensorflow=True,
        ),
        Convention("keras", _KERAS, _keras, ("conv_preds/kernel", "conv_preds/bias"), tensorflow=True),
        # The classifier is the last 1x1 convolution, and its number depends on the depth: see _with_head.
        Convention("keras-v3", _KERAS, _keras_v3, ("", ""), tensorflow=True),
    )
}


def read(source: str | Path | Mapping[str, Any], convention: str | None = None) -> Checkpoint:
    """Reads a local file, a folder or a mapping and finds out whose names it has; see ``from_pretrained``."""
    if isinstance(source, Mapping):
        arrays, origin = dict(source), "the mapping"
        beside: Path | None = None
    else:
        origin = str(source)
        arrays, beside = read_file(Path(source))
    arrays = _plain_names(arrays)
    if convention is not None:
        if convention not in CONVENTIONS:
            raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {convention!r}")
        chosen = CONVENTIONS[convention]
    else:
        fitting = [c for c in CONVENTIONS.values() if c.unit("stem", 0).kernel in arrays]
        if not fitting:
            first = f"{len(arrays)} names: " + (", ".join(list(arrays)[:5]) or "none")
            stems = ", ".join(f"{c.unit('stem', 0).kernel} ({c.name})" for c in CONVENTIONS.values())
            raise CheckpointError(f"{origin}: no MobileNetV1 by its names: expected one of {stems}; got {first}")
        chosen = fitting[0]
    # Only transformers' config.json is meant: beside other weights it may be anybody's.
    config = read_config(beside) if beside is not None and chosen.name == "transformers" else {}
    return Checkpoint(arrays, _with_head(chosen, arrays), origin, _config_options(config), _labels(config))


def load(cls: type[MobileNetV1], checkpoint: Checkpoint, **overrides: Any) -> MobileNetV1:
    """Builds ``cls`` with the options of the checkpoint and of ``overrides``, and loads it strictly."""
    convention = checkpoint.convention
    options = {**convention.options, **checkpoint.options}
    options.update(_shape_options(checkpoint, overrides.get("min_depth", options.get("min_depth"))))
    net = cls(**{**options, **overrides})
    state, missing, misshapen, used = {}, [], [], set()
    for ours, expected in net.state_dict().items():
        name = _source_name(convention, net, ours)
        if ours.endswith("num_batches_tracked") and name not in checkpoint.arrays:
            state[ours] = expected
            continue
        if name not in checkpoint.arrays:
            missing.append(name)
            continue
        used.add(name)
        array = _tensor(checkpoint.arrays[name])
        value = _to_torch_layout(array, expected, ours) if convention.tensorflow else array
        if value is None or value.shape != expected.shape:
            misshapen.append(f"{name} {tuple(array.shape)} for {ours} {tuple(expected.shape)}")
        else:
            state[ours] = value
    unexpected = [name for name in checkpoint.arrays if name not in used]
    if missing or unexpected or misshapen:
        what = f"{checkpoint.origin}: the {convention.name} names do not fit {cls.__name__}"
        raise CheckpointError(what, missing, unexpected, misshapen)
    net.load_state_dict(state)
    return net.eval()


def _plain_names(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Without what wrappers add: ``module.`` (DataParallel), ``_orig_mod.`` (compile), keras's ``:0``."""
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):  # either may be outside
        if arrays and all(name.startswith(prefix) for name in arrays):
            arrays = {name.removeprefix(prefix): value for name, value in arrays.items()}
    plain = {}
    for name, value in arrays.items():
        parts = name.removesuffix(":0").removeprefix("model_weights/").split("/")
        # Keras's older files nest a layer in a group of its own name: conv1/conv1/kernel.
        if len(parts) > 2 and parts[0] == parts[1]:
            parts = parts[1:]
        if parts[-1] == "depthwise_kernel":
            parts[-1] = "kernel"
        plain["/".join(parts)] = value
    return plain


def _with_head(convention: Convention, arrays: Mapping[str, Any]) -> Convention:
    if convention.name != "keras-v3":
        return convention
    last = _convention_depth(convention, arrays) + 1
    return replace(convention, head=(f"layers/conv2d_{last}/vars/0", f"layers/conv2d_{last}/vars/1"))


def _convention_depth(convention: Convention, arrays: Mapping[str, Any]) -> int:
    """The number of blocks for which the arrays have a depthwise kernel."""
    return sum(convention.unit("dw", i).kernel in arrays for i in range(1, len(BLOCKS) + 1))


def _config_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' ``config.json`` says about the net beside the arrays."""
    names = {"hidden_act": "activation", "layer_norm_eps": "bn_eps", "min_depth": "min_depth"}
    options = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    if "tf_padding" in config:
        options["padding"] = "same" if config["tf_padding"] else "symmetric"
    return options


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes in transformers' ``config.json``."""
    names = config.get("id2label", {})
    return tuple(str(names.get(str(i), f"class {i}")) for i in range(len(names)))


def _shape_options(checkpoint: Checkpoint, min_depth: int | None) -> dict[str, Any]:
    """The constructor's arguments that follow from which arrays there are and from their shapes.

    Where an array is missing the default stands, and the strict check reports the name.
    """
    arrays, convention = checkpoint.arrays, checkpoint.convention
    axes = {"out": -1, "in": -2} if convention.tensorflow else {"out": 0, "in": 1}
    options: dict[str, Any] = {}
    stem, head = convention.unit("stem", 0), convention.head[0]
    options["conv_bias"] = stem.bias in arrays
    channels = {}
    for name in (stem.kernel, head):
        shape = tuple(arrays[name].shape) if name in arrays else ()
        if len(shape) >= 2:
            channels[name] = {axis: shape[place] for axis, place in axes.items()}
    if stem.kernel in channels:
        options["ch_in"] = channels[stem.kernel]["in"]
        # Fewer channels than TF-slim ever gives: the width was not bounded below.
        options["min_depth"] = min_depth or (8 if channels[stem.kernel]["out"] >= 8 else 1)
    if head in channels:
        options["n_classes"] = channels[head]["out"]
        options["width_mult"] = width_from(channels[head]["in"], BLOCKS[-1][0], options.get("min_depth", 8))
    first = arrays.get(convention.unit("dw", 1).kernel)
    if convention.name == "pytorch" and first is not None and len(first.shape) == 4:
        options["separable"] = first.shape[1] == 1
    options["shallow"] = _convention_depth(convention, arrays) == len(SHALLOW_BLOCKS)
    return options


def _source_name(convention: Convention, net: MobileNetV1, ours: str) -> str:
    """The source's name of one entry of our state dict."""
    if ours in ("fc.weight", "fc.bias"):
        return convention.head[ours == "fc.bias"]
    _, block, layer, entry = ours.split(".")
    kind = "stem" if block == "0" else "pw" if int(layer) >= 3 else "dw"
    unit = convention.unit(kind, int(block))
    if int(layer) in (0, 3):
        return unit.kernel if entry == "weight" else unit.bias
    if entry == "num_batches_tracked":
        return unit.counter or ""
    return unit.bn[_BN.index(entry)]


def _to_torch_layout(array: Tensor, expected: Tensor, ours: str) -> Tensor | None:
    """TensorFlow's layout to torch's; None where the number of dimensions rules that out."""
    if expected.dim() == 4 and array.dim() == 4:
        _, block, layer, _ = ours.split(".")
        depthwise = block != "0" and layer == "0"
        return array.permute(2, 3, 0, 1) if depthwise else array.permute(3, 2, 0, 1)
    if expected.dim() == 2:
        # The classifier is a 1x1 convolution, (1, 1, in, out), or a dense layer, (in, out).
        matrix = array[0, 0] if array.dim() == 4 and array.shape[:2] == (1, 1) else array
        return matrix.t() if matrix.dim() == 2 else None
    return array if array.dim() == expected.dim() else None


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(np.array(value))
