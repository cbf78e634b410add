"""Command-line options that the benchmarks share, and what follows from them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .environment import default_threads, pick_device
from .peers import Peer, find_peers
from .timing import Budget
from .workload import DTYPES, LAYOUTS

_CPU = Budget(seconds=0.12, min_rounds=15, max_rounds=60)
_CUDA = Budget(seconds=0.05, min_rounds=20, max_rounds=200)
_QUICK = Budget(seconds=0.03, min_rounds=3, max_rounds=20)
#: No case starts later on a CPU, so that a run is over in two minutes, a quick one in half a minute.
_CPU_SECONDS, _QUICK_SECONDS = 90.0, 20.0


#: The batches of a full run.
FULL_BATCHES = (1, 8, 32, 128)


@dataclass(frozen=True)
class Defaults:
    """What a benchmark runs unless told otherwise."""

    cpu_batches: tuple[int, ...]
    cuda_batches: tuple[int, ...]
    cpu_dtypes: tuple[str, ...]
    cuda_dtypes: tuple[str, ...] = ("fp16", "bf16", "fp32")


def parser(description: str, defaults: Defaults) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    made = argparse.ArgumentParser(description=description)
    add = made.add_argument
    batches = f"batch sizes; default: {_words(defaults.cpu_batches)}, on a GPU {_words(defaults.cuda_batches)}"
    add("--batch", type=_positive, nargs="+", metavar="N", help=batches)
    dtypes = f"default: {_words(defaults.cpu_dtypes)}, on a GPU {_words(defaults.cuda_dtypes)}"
    add("--dtype", type=_dtype, nargs="+", choices=DTYPES, help=dtypes)
    add("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="default: both")
    threads = "CPU threads for every contender, one number after the other; default: all cores"
    add("--threads", type=_positive, nargs="+", metavar="N", help=threads)
    add("--device", help="a torch device; default: the GPU, else the CPU")
    add("--peers", nargs="+", metavar="NAME", help="only these contenders besides mbv1, or: all")
    limits = f"{_CPU_SECONDS:g}, quick: {_QUICK_SECONDS:g}"
    seconds = f"start no case later; default on CPUs without --peers or --full: {limits}"
    add("--seconds", type=float, metavar="S", help=seconds)
    add("--rounds", type=_positive, metavar="N", help="rounds of measuring; default: as many as fit some time")
    length = made.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="fewer cases, contenders and rounds")
    length.add_argument("--full", action="store_true", help=f"every case, at batch {_words(FULL_BATCHES)}")
    add("--json", type=Path, metavar="FILE", help="write the results there, row by row")
    return made


@dataclass(frozen=True)
class Setting:
    """Where and how to run: the shared options, resolved."""

    device: torch.device
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    budget: Budget
    seconds: float
    quick: bool
    json: Path | None
    peers: tuple[Peer, ...]
    left_out: dict[str, str]


def resolve(given: argparse.Namespace, benchmark: str, defaults: Defaults) -> Setting:
    """Resolves the options. A contender that runs on none of the asked dtypes and layouts is left out, with its
    reason."""
    device = pick_device(given.device)
    cuda = device.type == "cuda"
    dtypes = tuple(given.dtype or (defaults.cuda_dtypes if cuda else defaults.cpu_dtypes))
    known = find_peers(benchmark)
    _check_names(given.peers or (), {peer.name for peer in known})
    reasons = {peer.name: _why_left_out(peer, given, device, dtypes) for peer in known}
    budget = _QUICK if given.quick else _CUDA if cuda else _CPU
    unlimited = cuda or given.full or given.peers is not None
    batches = FULL_BATCHES if given.full else defaults.cuda_batches if cuda else defaults.cpu_batches
    return Setting(
        device=device,
        dtypes=dtypes,
        layouts=tuple(given.layout),
        batches=tuple(given.batch or batches),
        threads=tuple(given.threads or (default_threads(),)),
        budget=replace(budget, min_rounds=given.rounds, max_rounds=given.rounds) if given.rounds else budget,
        seconds=given.seconds or (math.inf if unlimited else _QUICK_SECONDS if given.quick else _CPU_SECONDS),
        quick=given.quick,
        json=given.json,
        peers=tuple(peer for peer in known if reasons[peer.name] is None),
        left_out={name: reason for name, reason in reasons.items() if reason is not None},
    )


def _check_names(asked: Sequence[str], known: set[str]) -> None:
    unknown = set(asked) - known - {"all"}
    if unknown:
        expected, got = (", ".join(sorted(names)) for names in (known, unknown))
        raise SystemExit(f"--peers: expected all or some of {expected}; got {got}")


def _why_left_out(peer: Peer, given: argparse.Namespace, device: torch.device, dtypes: Sequence[str]) -> str | None:
    reasons = [peer.unavailable(device, DTYPES[d], layout) for d in dtypes for layout in given.layout]
    if None not in reasons:
        return reasons[0]
    if given.peers:
        return None if peer.name == "mbv1" or {peer.name, "all"} & set(given.peers) else "not asked for"
    reason = peer.left_out(device, given.quick)
    return reason and f"{reason}; --peers all"


def _words(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))


def _dtype(text: str) -> str:
    """A key of ``DTYPES``, of which torch's own names are aliases."""
    return {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}.get(text, text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value
