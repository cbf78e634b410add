"""Command-line options that the benchmarks share, and what follows from them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .environment import default_threads, pick_device
from .peers import Peer, find_peers
from .timing import Budget
from .workload import DTYPES, LAYOUTS

_CPU = Budget(seconds=0.12, min_rounds=5, max_rounds=60)
_CUDA = Budget(seconds=0.05, min_rounds=20, max_rounds=200)
_CPU_SECONDS, _QUICK_SECONDS = 75.0, 20.0
_QUICK = Budget(seconds=0.03, min_rounds=3, max_rounds=20)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--batch", type=_positive, nargs="+", metavar="N", help="batch sizes")
    made.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: fp32, on a GPU fp16, bf16 and fp32")
    made.add_argument("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="default: both")
    made.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads for every contender; default: all cores"
    )
    made.add_argument("--device", help="a torch device; default: the GPU, else the CPU")
    made.add_argument("--peers", nargs="+", metavar="NAME", help="only these contenders besides mbv1, or: all")
    made.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="start no case later; default on CPUs: 75, quick: 20",
    )
    made.add_argument("--quick", action="store_true", help="fewer cases, contenders and rounds")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there, row by row")
    return made


@dataclass(frozen=True)
class Setting:
    """Where and how to run: the shared options, resolved."""

    device: torch.device
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    batches: tuple[int, ...]
    budget: Budget
    seconds: float
    quick: bool
    json: Path | None
    peers: tuple[Peer, ...]
    left_out: dict[str, str]


def resolve(
    options: argparse.Namespace, benchmark: str, cpu_batches: Sequence[int], cuda_batches: Sequence[int]
) -> Setting:
    """Resolves the options and sets torch's threads. A contender that runs on none of the asked dtypes and
    layouts is left out, with its reason."""
    torch.set_num_threads(options.threads or default_threads())
    device = pick_device(options.device)
    cuda = device.type == "cuda"
    dtypes = tuple(options.dtype or (("fp16", "bf16", "fp32") if cuda else ("fp32",)))
    batches = tuple(options.batch or (cuda_batches if cuda else cpu_batches))
    peers, left_out = _pick_peers(find_peers(benchmark), options, device, dtypes)
    budget = _QUICK if options.quick else _CUDA if cuda else _CPU
    layouts = tuple(options.layout)
    seconds = options.seconds or (math.inf if cuda else _QUICK_SECONDS if options.quick else _CPU_SECONDS)
    return Setting(
        device=device,
        dtypes=dtypes,
        layouts=layouts,
        batches=batches,
        budget=budget,
        seconds=seconds,
        quick=options.quick,
        json=options.json,
        peers=peers,
        left_out=left_out,
    )


def _pick_peers(
    known: Sequence[Peer], options: argparse.Namespace, device: torch.device, dtypes: Sequence[str]
) -> tuple[tuple[Peer, ...], dict[str, str]]:
    names = {peer.name for peer in known}
    asked = set(options.peers or ())
    unknown = asked - names - {"all"}
    if unknown:
        raise SystemExit(
            f"--peers: expected all or some of {', '.join(sorted(names))}; got {', '.join(sorted(unknown))}"
        )
    picked, left_out = [], {}
    for peer in known:
        reasons = [peer.unavailable(device, DTYPES[d], layout) for d in dtypes for layout in options.layout]
        if None not in reasons:
            left_out[peer.name] = reasons[0]
        elif asked and peer.name != "mbv1" and not asked & {peer.name, "all"}:
            left_out[peer.name] = "not asked for"
        elif not asked and peer.left_out(device, options.quick):
            left_out[peer.name] = f"{peer.left_out(device, options.quick)}; --peers all"
        else:
            picked.append(peer)
    return tuple(picked), left_out


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
