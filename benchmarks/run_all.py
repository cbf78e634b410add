"""Every benchmark, one after the other, each in a process of its own: one that crashes leaves the others.

    python -m benchmarks all [--out FOLDER] [--quick] [OPTION of every benchmark …]

Without ``--quick`` it is the full run: every layer and every width and resolution of the net, at batch 1, 8, 32 and
128. On a GPU most of its hours go to compilers: ``--peers`` chooses contenders, ``--seconds`` ends each benchmark.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .environment import ROOT
from .peers import BENCHMARKS
from .report import Screen


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks; 0 where all of them succeeded, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks all",
        description="Runs every benchmark; further options are handed to each of them.",
        epilog="see python -m benchmarks.dwconv --help for the options that all benchmarks share",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/results/all-<date>")
    parser.add_argument("--quick", action="store_true", help="the quick run of each, not the full one")
    given, shared = parser.parse_known_args(arguments)
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = (given.out or ROOT / "benchmarks" / "results" / f"all-{date}").resolve()
    screen, failed = Screen(), []
    for name in BENCHMARKS:
        screen.print(f"\n== {name}", "bold")
        length = "--quick" if given.quick else "--full"
        command = [sys.executable, "-m", f"benchmarks.{name}", length, "--json", str(out / f"{name}.json"), *shared]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    screen.print(f"\nresults: {out}", "bold")
    if failed:
        screen.print(f"FAILED: {', '.join(failed)}", "bold red")
    return 1 if failed else 0
