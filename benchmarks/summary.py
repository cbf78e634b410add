"""Ours, each peer and the floor, of result files; and the worst rows.

    python -m benchmarks summary RESULTS… [--clock NAME]

RESULTS are result files or folders of them, also of runs that were cut short. Where two have the same case, the later
file counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .contest import OK
from .peers import BENCHMARKS
from .report import Column, Screen, Table, number
from .result_files import CASE, load_all
from .timing import geometric_mean

#: How many rows are named as the worst.
_WORST = 10

_GROUP = ("benchmark", "batch", "dtype", "layout", "threads")

#: By contender, the row of a case that was timed.
Contest = dict[str, Mapping[str, Any]]


def contests(results: Sequence[Mapping[str, Any]], clock: str | None = None) -> dict[tuple, Contest]:
    """The timed rows of each case, by the clock of that name; by default by the first one of the run."""
    found: dict[tuple, Contest] = {}
    for file in results:
        for row in file["rows"]:
            times = row if clock in (None, row.get("clock")) else row.get("other_clocks", {}).get(clock, {})
            if row["status"] == OK and "median_us" in times:
                found.setdefault(tuple(row[field] for field in CASE), {})[row["contender"]] = {**row, **times}
    return found


def _best_peer(contest: Contest) -> Mapping[str, Any] | None:
    return min((row for row in contest.values() if not row["ours"]), key=lambda row: row["median_us"], default=None)


def print_groups(found: Mapping[tuple, Contest], screen: Screen) -> None:
    """One line for each benchmark and setting: geometric means over its cases."""
    groups: dict[tuple, list[Contest]] = {}
    for case, contest in found.items():
        if "mbv1" in contest:
            groups.setdefault(tuple(case[CASE.index(field)] for field in _GROUP), []).append(contest)
    peers = list(dict.fromkeys(n for c in found.values() for n in c if n != "mbv1"))
    titles = ("floor us", "mbv1 us", "floor/mbv1", *peers)
    settings = (Column("benchmark", 10, True), Column("N", 4), Column("dtype", 5, True), Column("layout", 6, True))
    columns = (*settings, Column("T", 2), Column("cases", 5), *(Column(t, max(len(t), 10)) for t in titles))
    table = Table(columns)
    screen.print("\ngeometric means: the floor, mbv1, and each other contender's time / mbv1's", "bold")
    screen.print(table.header, "bold")
    order = {name: i for i, name in enumerate(BENCHMARKS)}
    for group, cases in sorted(groups.items(), key=lambda item: (order.get(item[0][0], len(order)), *item[0][1:])):
        ours = [contest["mbv1"] for contest in cases]
        floor, time = (geometric_mean([row[key] for row in ours]) for key in ("bound_us", "median_us"))
        cells = [number(floor), number(time), f"{100 * floor / time:.0f}%"]
        for peer in peers:
            ratios = [c[peer]["median_us"] / c["mbv1"]["median_us"] for c in cases if peer in c]
            cells.append(f"{geometric_mean(ratios):.2f}x" if ratios else "-")
        screen.print(table.line([*map(str, group), str(len(cases)), *cells]))


def print_worst(found: Mapping[tuple, Contest], screen: Screen) -> None:
    """The cases where mbv1 is furthest behind the best peer, or least ahead of it."""
    pairs = [(c["mbv1"], peer) for c in found.values() if "mbv1" in c and (peer := _best_peer(c)) is not None]
    if not pairs:
        screen.print("no case has both mbv1's time and a peer's", "yellow")
        return
    pairs.sort(key=lambda pair: pair[1]["median_us"] / pair[0]["median_us"])
    widest = max(len(str(ours["case"])) for ours, _ in pairs[:_WORST])
    settings = (Column("benchmark", 10, True), Column("case", widest, True), Column("N", 4), Column("dtype", 5, True))
    times = (Column("floor us", 9), Column("mbv1 us", 9), Column("of floor", 8), Column("peer us", 9))
    words = (Column("peer/mbv1", 20, True), Column("kernel", 0, True))
    table = Table((*settings, Column("layout", 6, True), Column("T", 2), *times, *words))
    screen.print(f"\nthe {min(_WORST, len(pairs))} worst of {len(pairs)} against the best peer", "bold")
    screen.print(table.header, "bold")
    for ours, peer in pairs[:_WORST]:
        case = [str(ours[key]) for key in ("benchmark", "case", "batch", "dtype", "layout", "threads")]
        us = [number(row) for row in (ours["bound_us"], ours["median_us"])]
        share, ratio = f"{100 * ours['bound_us'] / ours['median_us']:.0f}%", peer["median_us"] / ours["median_us"]
        end = f"{ratio:.2f} {peer['contender']}{' ~' if ours['noisy'] or peer['noisy'] else ''}"
        screen.print(table.line([*case, *us, share, number(peer["median_us"]), end, ours.get("kernel_name") or ""]))


def print_summary(results: Sequence[Mapping[str, Any]], screen: Screen, clock: str | None = None) -> None:
    """Both tables, and which benchmarks were cut short or found wrong results."""
    found = contests(results, clock)
    if not found:
        screen.print("nothing was timed", "yellow")
        return
    print_groups(found, screen)
    print_worst(found, screen)
    for file in results:
        if not file["complete"]:
            screen.print(f"{file['benchmark']}: cut short after {len(file['rows'])} rows", "yellow")
        for problem in file.get("problems", []):
            screen.print(f"{file['benchmark']}: {problem}", "bold red")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks summary", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="result files, or folders of them")
    parser.add_argument("--clock", metavar="NAME", help='such as "graph, L2 warm"; default: the one of the run')
    given = parser.parse_args(arguments)
    try:
        results = load_all(given.results)
    except ValueError as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    print_summary(results, Screen(), given.clock)
    return 0
