"""Photographs to tensors, and what a net expects of them: its card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .checkpoints import CONVENTIONS, Checkpoint, load, read
from .model import MobileNetV1

_SHIPPED = "vww_0.25_96_weights.npz"

#: What torchvision's and the published PyTorch nets were trained on: ImageNet's mean and deviation, in 0…255.
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Card:
    """How to feed a net and read it: ``(pixel - mean) / std`` with pixels in 0…255, ``resolution`` square."""

    resolution: int = 224
    mean: Sequence[float] = (127.5, 127.5, 127.5)
    std: Sequence[float] = (127.5, 127.5, 127.5)
    labels: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, expected, fits in (
            ("resolution", "an integer >= 1", isinstance(self.resolution, int) and self.resolution >= 1),
            ("mean", "three numbers", _are(float, self.mean, 3)),
            ("std", "three numbers > 0", _are(float, self.std, 3) and min(self.std) > 0),
            ("labels", "a list of strings", _are(str, self.labels)),
            ("options", "arguments of MobileNetV1", isinstance(self.options, Mapping)),
        ):
            if not fits:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else f"class {index}"


def _are(kind: type, values: Any, count: int | None = None) -> bool:
    """Whether ``values`` is a list of ``count`` values of a kind; an int is a float, too."""
    kinds = (float, int) if kind is float else kind
    fits = isinstance(values, (list, tuple)) and all(isinstance(value, kinds) for value in values)
    return fits and count in (None, len(values))


def load_net(weights: str | Path | None = None, **options: Any) -> tuple[MobileNetV1, Card]:
    """A net and its card: the shipped person detector, or a file as ``MobileNetV1.from_pretrained`` takes it.

    A file ``NAME.json`` beside the weights ``NAME.npz`` is their card, with the fields of :class:`Card`.
    Without one, the convention of the weights decides: the published PyTorch nets were trained on pixels
    normalized by ImageNet's mean and deviation, all others on pixels from -1 to 1; 224x224. The labels then
    are those of transformers' ``config.json``.
    """
    if weights is None:
        with as_file(files("mbv1") / "weights") as folder:
            return load_net(folder / _SHIPPED, **options)
    checkpoint = read(weights)
    # Of the whole path: "." has no name to put a suffix to.
    path = Path(os.path.abspath(weights)).with_suffix(".json")
    card = _card(path, checkpoint)
    try:
        net = load(MobileNetV1, checkpoint, **{**card.options, **options})
    except TypeError as error:
        raise ValueError(f"{path}: options: {error}") from error
    if net.ch_in != 3:
        raise ValueError(f"{weights}: expected a net for 3 channels, red, green and blue, got one for {net.ch_in}")
    return net, card


def _card(path: Path, checkpoint: Checkpoint) -> Card:
    card = Card(labels=checkpoint.labels)
    if checkpoint.convention is CONVENTIONS["pytorch"]:
        card = replace(card, mean=_IMAGENET[0], std=_IMAGENET[1])
    if not path.is_file():
        return card
    try:
        return replace(card, **json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not a card of a net: {error}") from error


def read_photo(path: str | Path, resolution: int) -> Tensor:
    """A photograph as (1, 3, resolution, resolution) float32 with pixels in 0…255; see :func:`read_pixels`."""
    return torch.from_numpy(read_pixels(path, resolution)).permute(2, 0, 1).unsqueeze(0).float()


def read_pixels(path: str | Path, resolution: int, *, fast_jpeg: bool = False) -> np.ndarray:
    """A photograph as (resolution, resolution, 3) uint8.

    Takes whatever Pillow opens. The orientation in EXIF is applied, transparent parts become white, gray,
    palette, CMYK and 16-bit images become RGB. The whole image is resized to a square, bilinear over the area
    that a pixel covers; one that has the size already is left as it is.

    Args:
        fast_jpeg: decode a JPEG at 1/2, 1/4 or 1/8 of its size where that leaves at least twice the
            resolution on each side. Pixels differ by a few steps from those of the whole image.

    Raises:
        OSError: the file is missing, is no image, or is broken; the message says which.
    """
    try:
        with Image.open(path) as image:
            if fast_jpeg:
                image.draft(None, (2 * resolution, 2 * resolution))
            image.load()
            with suppress(Exception):  # EXIF that cannot be read turns nothing
                ImageOps.exif_transpose(image, in_place=True)
            image = _to_rgb(image).resize((resolution, resolution), Image.Resampling.BILINEAR)
            return np.array(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files.
        raise OSError(f"{path}: not an image that can be read ({str(error) or type(error).__name__})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips 16-bit samples at 255 in convert("RGB"); their high byte is the picture.
        samples = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((samples / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def probabilities(net: MobileNetV1, card: Card, pixels: Tensor) -> Tensor:
    """(N, classes) float32 for (N, 3, H, W) pixels in 0…255 of any dtype, on the net's device."""
    mean, std = (
        torch.tensor(v, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1) for v in (card.mean, card.std)
    )
    with torch.inference_mode():
        x = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        return net(x).float().softmax(1)


def classify(net: MobileNetV1, card: Card, photo: Tensor) -> list[tuple[str, float]]:
    """(label, probability) of every class, most probable first, for one photo of :func:`read_photo`."""
    found = probabilities(net, card, photo)[0]
    return [(card.label(i), found[i].item()) for i in found.argsort(descending=True).tolist()]
