"""The classes of every image in a folder, by one process or by those of ``torchrun``.

Rank 0 lists the folder and deals the files out, every process classifies its share and keeps a journal of it
(:mod:`mbv1.journal`), and rank 0 gathers the rows and writes the output. Nothing but the images, under the same
path, need be shared between machines. Whatever ends a process, the rows of its journal are not computed again:
with ``resume`` a run goes on, also by other numbers of processes, and under torchrun's ``--max-restarts`` by itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from .image_folder import SUFFIXES, Batch, Found, ImageFolder, collate, find_images
from .images import load_net, probabilities
from .journal import Journals, Rows, write
from .processes import World


@dataclass(frozen=True)
class Job:
    """What to classify, by which net, and where the rows go; the options of ``python -m mbv1 predict``."""

    folder: Path
    out: Path | None = None  # None: standard output
    kind: str = "csv"
    weights: str | None = None
    resolution: int | None = None
    top: int = 1
    batch_size: int = 64
    workers: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    backend: str = "auto"
    fast_jpeg: bool = False
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Share:
    """What one process did: its rows as lines, and how long its batches after the first took."""

    lines: list[str]
    timed_images: int
    seconds: float


def predict(job: Job) -> None:
    """Classifies the folder, writes the output and says on standard error what could not be read.

    Raises:
        ValueError, OSError, RuntimeError: bad options, weights or folder, or an output of another run. A file that
            cannot be read raises nothing: its row says why.
    """
    with World.joined() as world:
        earlier: Rows = {}
        with world.agreed():
            classifier = Classifier(job, pick_device(job.device, world.local_rank))
            journals = None if job.out is None else Journals(job.out, classifier.settings)
            if journals is not None and world.local_rank == 0:
                earlier = _earlier(job, journals)
        offers = world.gather((classifier.settings, earlier))
        found, shares = None, None
        rows: Rows = {}
        with world.agreed():
            if offers is not None:
                found, rows = _agree(job, offers)
                files = [file for file in found.images if file not in rows]
                shares = [files[rank :: world.size] for rank in range(world.size)]
            if journals is not None and job.overwrite and world.local_rank == 0:
                journals.remove(whole=True)
        done = world.gather(_classify(job, classifier, journals, world, world.scatter(shares)))
        with world.agreed():
            if done is not None and found is not None:
                kept = len(rows)
                rows = _merged(rows, found, done)
                if journals is not None:
                    journals.finish(rows)
                write(rows, job.kind, classifier.top, job.out or sys.stdout.buffer)
                _report(job, classifier, rows, kept, found, done)
        if journals is not None and world.local_rank == 0:
            journals.remove(whole=False)


def pick_device(name: str, local_rank: int) -> torch.device:
    """The device of a process: ``auto`` is CUDA where there is any; ``cuda`` deals the GPUs out by local rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    index = local_rank % max(count, 1) if device.index is None else device.index
    if index >= count:
        raise ValueError(f"--device {name}: torch sees {count} CUDA devices here")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


class Classifier:
    """The net of a job on a device, from pixels to the top classes."""

    def __init__(self, job: Job, device: torch.device) -> None:
        net, self.card = load_net(job.weights, fused=True, backend=job.backend)
        self.resolution = job.resolution or self.card.resolution
        self.top = min(job.top, net.n_classes)
        digest = hashlib.sha256(repr((net.activation, net.padding, net.bn_eps, self.card.labels)).encode())
        for name, tensor in net.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
        #: What the rows depend on.
        self.settings = {
            "folder": str(job.folder.resolve()),
            "weights": digest.hexdigest()[:16],
            "mean": list(self.card.mean),
            "std": list(self.card.std),
            "resolution": self.resolution,
            "dtype": job.dtype,
            "top": self.top,
            "fast_jpeg": job.fast_jpeg,
        }
        self.net, self.device = net.to(device), device
        # Autocast folds batch norm in float32 and rounds once, which casting the net would not.
        self.dtype = getattr(torch, job.dtype)

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        """A row for each file of a batch."""
        rows: list[dict[str, Any]] = [{"file": file, "error": why} for file, why in batch.errors.items()]
        if not batch.files:
            return rows
        pixels = batch.pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            best = probabilities(self.net, self.card, pixels).topk(self.top)
        for file, values, indices in zip(batch.files, best.values.tolist(), best.indices.tolist(), strict=True):
            if math.isnan(values[0]):
                rows.append({"file": file, "error": "the net's output is not finite"})
                continue
            classes = [self._entry(index, value) for index, value in zip(indices, values, strict=True)]
            rows.append({"file": file, "classes": classes})
        return rows

    def _entry(self, index: int, probability: float) -> dict[str, Any]:
        label = self.card.labels[index] if index < len(self.card.labels) else None
        # float32 has no more digits.
        return {"class": index, "label": label, "probability": float(f"{probability:.7g}")}


def _earlier(job: Job, journals: Journals) -> Rows:
    """The rows that a resumed run starts from. Without ``resume`` there must be none, or they are given up."""
    there = journals.paths()
    if journals.out.exists() and not there and not job.overwrite:
        raise ValueError(f"{journals.out} exists, without the journal to go on from: --overwrite starts anew")
    if job.resume:
        return journals.read()
    if there and not job.overwrite:
        raise ValueError(f"{there[0]} exists: --resume goes on from it, --overwrite starts anew")
    return {}


def _agree(job: Job, offers: Sequence[tuple[Mapping[str, Any], Rows]]) -> tuple[Found, Rows]:
    """On rank 0: the files of the folder, and the rows that every machine has of them. Errors are tried again."""
    rows: Rows = {}
    for rank, (settings, earlier) in enumerate(offers):
        # The folder may be mounted elsewhere; the weights may not be others.
        differ = [k for k in settings if k != "folder" and settings[k] != offers[0][0][k]]
        if differ:
            raise ValueError(f"rank {rank} has other settings than rank 0: {', '.join(differ)}")
        rows.update((file, line) for file, line in earlier.items() if "classes" in json.loads(line))
    found = find_images(job.folder)
    if not found.images:
        endings = ", ".join(SUFFIXES)
        raise ValueError(f"{job.folder}: expected image files ({endings}), found {found.other} others")
    return found, rows


def _classify(job: Job, classifier: Classifier, journals: Journals | None, world: World, files: list[str]) -> Share:
    """This process's share of the files, batch by batch into its journal."""
    dataset = ImageFolder(job.folder, files, classifier.resolution, fast_jpeg=job.fast_jpeg)
    workers = min(_usable_cores() // world.local_size, 16) if job.workers is None else job.workers
    loader = DataLoader(
        dataset,
        batch_size=job.batch_size,
        num_workers=min(workers, -(-len(files) // job.batch_size)),
        collate_fn=collate,
        pin_memory=classifier.device.type == "cuda",
    )
    lines: list[str] = []
    first_done, first_images = time.perf_counter(), len(files)
    journal = nullcontext(None) if journals is None else journals.append(world.rank)
    with journal as file, _progress(len(files), world) as advance:
        for number, batch in enumerate(loader):
            rows = [json.dumps(row) for row in classifier(batch)]
            lines += rows
            if file is not None:
                file.write("".join(f"{row}\n" for row in rows).encode())
                file.flush()
            advance(len(rows))
            if number == 0:
                first_done, first_images = time.perf_counter(), len(rows)
    return Share(lines, len(files) - first_images, time.perf_counter() - first_done)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress(total: int, world: World) -> Iterator[Callable[[int], None]]:
    """A bar on rank 0's terminal; elsewhere nothing. Yields what is called with the number of images done."""
    if world.rank or not total or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = "images" if world.size == 1 else f"images (process 1 of {world.size})"
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[rate]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, rate="")
        start, done = time.perf_counter(), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(task, advance=count, rate=f"{done / (time.perf_counter() - start):.1f} images/s")

        yield advance


def _merged(rows: Rows, found: Found, done: Sequence[Share]) -> Rows:
    """Every file's row, sorted by file."""
    every = {**rows, **{f: json.dumps({"file": f, "error": why}) for f, why in found.unreadable.items()}}
    for share in done:
        every.update((json.loads(line)["file"], line) for line in share.lines)
    return dict(sorted(every.items()))


def _report(
    job: Job, classifier: Classifier, rows: Rows, kept: int, found: Found, done: Sequence[Share], most: int = 20
) -> None:
    """On standard error: how many, how fast, and the first files that could not be read."""
    errors = [row for row in map(json.loads, rows.values()) if "error" in row]
    new = len(rows) - kept - len(errors)
    text = f"{new:,} classified"
    if kept:
        text += f", {kept:,} kept from before"
    if errors:
        text += f", {len(errors):,} not readable"
    if found.other:
        text += f", {found.other:,} of other types left out"
    timed, seconds = sum(share.timed_images for share in done), max(share.seconds for share in done)
    if timed:
        where = classifier.device.type if len(done) == 1 else f"{len(done)} processes on {classifier.device.type}"
        text += f"; {timed / seconds:,.1f} images/s on {where} after the first batch"
    if job.out is not None:
        text += f"; {job.out}"
    print(f"mbv1 predict: {text}", file=sys.stderr)
    for row in errors[:most]:
        print(f"mbv1 predict: {row['file']}: {row['error']}", file=sys.stderr)
    if len(errors) > most:
        print(f"mbv1 predict: and {len(errors) - most:,} more, with their errors in their rows", file=sys.stderr)
