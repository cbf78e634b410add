"""The images of a folder, in batches of bytes: what can be read, and what is wrong with the rest."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .images import read_pixels

#: Endings of image files, in any case. Pillow reads more formats, but few that photographs come in.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".qoi"),
)


@dataclass(frozen=True)
class Found:
    """What lies under a folder; paths are relative to it, with ``/``, sorted."""

    images: list[str]
    other: int  # files with other endings
    unreadable: dict[str, str] = field(default_factory=dict)  # folders that cannot be listed, and why


def find_images(folder: str | Path) -> Found:
    """The files under ``folder`` that end as images do. Links to folders are followed, each folder once.

    Raises:
        OSError: ``folder`` itself cannot be listed.
    """
    images, other, unreadable = [], 0, {}
    seen: set[str] = set()

    def failed(error: OSError) -> None:
        place = Path(error.filename)
        if place == Path(folder):
            raise error
        unreadable[place.relative_to(folder).as_posix()] = error.strerror or str(error)

    for here, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        folders.sort()  # which of two links to a folder comes first
        place = os.path.realpath(here)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        inside = Path(here).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        found = [prefix + name for name in names if name.lower().endswith(SUFFIXES)]
        images += found
        other += len(names) - len(found)
    return Found(sorted(images), other, unreadable)


class Batch(NamedTuple):
    """Images that could be read, and the files that could not with the reasons."""

    files: list[str]
    pixels: Tensor  # (len(files), resolution, resolution, 3) uint8
    errors: dict[str, str]


class ImageFolder(Dataset):
    """Item ``i`` is (file, pixels (resolution, resolution, 3) uint8 or why there are none)."""

    def __init__(self, folder: str | Path, files: Sequence[str], resolution: int, *, fast_jpeg: bool = False) -> None:
        self.folder, self.files, self.resolution, self.fast_jpeg = Path(folder), files, resolution, fast_jpeg

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Tensor | str]:
        file = self.files[index]
        path = self.folder / file
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
                return file, "not a file"
            # Pillow warns of large images and of odd metadata. Reading them is what was asked for.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pixels = read_pixels(path, self.resolution, fast_jpeg=self.fast_jpeg)
        except FileNotFoundError:
            return file, "no such file"
        except OSError as error:
            return file, str(error).removeprefix(f"{path}: ")
        return file, torch.from_numpy(pixels)


def collate(items: Sequence[tuple[str, Tensor | str]]) -> Batch:
    """The batch of some items of an :class:`ImageFolder`."""
    good = [(file, pixels) for file, pixels in items if isinstance(pixels, Tensor)]
    errors = {file: why for file, why in items if isinstance(why, str)}
    pixels = torch.stack([pixels for _, pixels in good]) if good else torch.empty(0, 0, 0, 3, dtype=torch.uint8)
    return Batch([file for file, _ in good], pixels, errors)
