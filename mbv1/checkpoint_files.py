"""Arrays by name from the file formats that weights come in. Nothing is downloaded, no code is unpickled."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: What transformers and timm call the weights in a folder, best first.
_FOLDER_NAMES = ("model.safetensors", "pytorch_model.bin")

_BROKEN = (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile)


def read_file(path: Path) -> tuple[dict[str, Any], Path]:
    """(arrays by name, the path of ``config.json`` beside them) of a file or of a folder with one.

    Raises:
        FileNotFoundError: there is no such file, or the folder has no weights.
        ValueError: the suffix is unknown, or the file is not what its suffix says.
    """
    if path.is_dir():
        found = [path / name for name in _FOLDER_NAMES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: no {' or '.join(_FOLDER_NAMES)} in this folder")
        path = found[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (only local files are read, nothing is downloaded)")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected a file ending in {', '.join(_READERS)}, got {path.suffix!r}")
    try:
        arrays = reader(path)
    except _BROKEN as error:
        raise ValueError(f"{path}: cannot be read as {path.suffix}: {error}") from error
    return arrays, path.parent / "config.json"


def read_config(path: Path) -> dict[str, Any]:
    """What transformers keeps beside the arrays; an empty dict where there is no such file.

    Raises:
        ValueError: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError("reading .safetensors files needs safetensors (pip install safetensors)") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_torch(path: Path) -> dict[str, Any]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    # Training scripts keep the state dict beside the epoch and the optimizer.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"expected a state dict, got {type(loaded).__name__}")
    return dict(loaded)


def _read_keras(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise ValueError("reading keras files needs h5py (pip install h5py)") from error
    arrays: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        # The optimizer's state lies beside the layers and is none of the net's.
        if isinstance(item, h5py.Dataset) and not name.startswith(("optimizer", "top_level_model_weights")):
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return arrays


_READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".bin": _read_torch,
    ".tar": _read_torch,
    ".h5": _read_keras,
}
