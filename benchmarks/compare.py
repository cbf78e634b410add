"""What got slower, and what faster, between two runs of the benchmarks.

    python -m benchmarks compare A B [--threshold PERCENT] [--contenders NAME …] [--json FILE] [--force]

A (before) and B (after) are result files, or folders of them. A case counts as changed where its median moved by more
than the threshold and the intervals from p20 to p80 of both runs do not overlap. Exit code: 0, or 1 where something
got slower or runs no more, or 2 where the two cannot be compared: another device, number of threads, clock or kind of
run. A change of the peers, which is none of this project's doing, is printed beside: where they moved as well, the
machine did.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contest import OK, UNAVAILABLE
from .report import Column, Screen, Table, number
from .result_files import CASE, load_all
from .timing import geometric_mean

SLOWER, FASTER, SAME, LOST = "slower", "faster", "same", "lost"

#: Where these differ, times say nothing about the code.
_MUST_AGREE = ("device", "device_type", "cores", "cpu_capability", "capability")
#: And where these do, they may say something else.
_VERSIONS = ("torch", "torch_cuda", "triton", "cudnn", "driver", "platform", "python", "peers")
_SHOULD_AGREE = (*_VERSIONS, "tf32_convolutions", "variables", "affinity")

#: What says which timing it is: ``other`` is empty, or the name of one of the row's other clocks.
_FIELDS = (*CASE, "contender", "other")
_Key = tuple[object, ...]


@dataclass(frozen=True)
class Change:
    """One contender in one case: medians in microseconds, before and after; ``after`` is None where it was lost."""

    key: _Key
    verdict: str
    before: float
    after: float | None
    noisy: bool = False
    reason: str | None = None

    @property
    def contender(self) -> object:
        return self.key[len(CASE)]

    @property
    def ratio(self) -> float | None:
        """after / before: above 1 is slower."""
        return None if self.after is None else self.after / self.before

    def as_dict(self) -> dict[str, object]:
        case = dict(zip(_FIELDS, self.key, strict=True))
        times = {"before_us": self.before, "after_us": self.after, "ratio": self.ratio}
        return {**case, "verdict": self.verdict, **times, "noisy": self.noisy, "reason": self.reason}


def changes(before: Sequence[Mapping], after: Sequence[Mapping], threshold: float) -> Iterator[Change]:
    """One for each timing of ``before`` whose row is also in ``after``; ``threshold`` is a fraction."""
    rows = {_key(view): view for row in after for view in _views(row)}
    for old in (view for row in before for view in _views(row)):
        new = rows.get(_key(old))
        if old["status"] != OK or new is None:
            continue
        if new["status"] != OK:
            yield Change(_key(old), LOST, old["median_us"], None, reason=f"{new['status']}: {new['reason']}")
            continue
        noisy = bool(old["noisy"] or new["noisy"])
        yield Change(_key(old), _verdict(old, new, threshold), old["median_us"], new["median_us"], noisy)


def _verdict(old: Mapping, new: Mapping, threshold: float) -> str:
    if new["median_us"] > old["median_us"] * (1 + threshold) and new["p20_us"] > old["p80_us"]:
        return SLOWER
    if old["median_us"] > new["median_us"] * (1 + threshold) and old["p20_us"] > new["p80_us"]:
        return FASTER
    return SAME


def _views(row: Mapping) -> Iterator[Mapping]:
    """The row as it is, and as each of its other clocks has it."""
    yield row
    for clock, times in row.get("other_clocks", {}).items():
        status = OK if "median_us" in times else UNAVAILABLE
        yield {**row, "status": status, "reason": None, **times, "other": clock}


def _key(row: Mapping) -> _Key:
    return tuple(row.get(field, "") for field in _FIELDS)


def differences(before: Sequence[Mapping], after: Sequence[Mapping]) -> tuple[list[str], list[str]]:
    """Why runs cannot be compared, and why their comparison may say little; each pair of the same benchmark."""
    fatal: list[str] = []
    doubtful: list[str] = []
    newer = {results["benchmark"]: results for results in after}
    for old in before:
        new = newer.get(old["benchmark"])
        if new is None:
            continue
        name, a, b = old["benchmark"], old["environment"], new["environment"]
        fatal += [f"{name}: {line}" for line in _differ(a, b, _MUST_AGREE)]
        fatal += [f"{name}: method: {line}" for line in _differ(old["method"], new["method"], ("clock", "quick"))]
        doubtful += [f"{name}: {line}" for line in _differ(a, b, _SHOULD_AGREE)]
        doubtful += [f"{name}: method: {line}" for line in _differ(old["method"], new["method"], ("budget",))]
    if not {results["benchmark"] for results in before} & newer.keys():
        fatal.append(f"no benchmark is in both: {_names(before)} before, {_names(after)} after")
    return fatal, doubtful


def _differ(a: Mapping, b: Mapping, fields: Sequence[str]) -> list[str]:
    return [f"{f} was {a.get(f)!r}, is {b.get(f)!r}" for f in fields if a.get(f) != b.get(f)]


def _names(results: Sequence[Mapping]) -> str:
    return ", ".join(sorted({str(r["benchmark"]) for r in results}))


def _print(found: Sequence[Change], screen: Screen) -> None:
    shown = sorted((c for c in found if c.verdict != SAME), key=lambda c: -(c.ratio or float("inf")))
    if not shown:
        return
    widths = [max(len(title), *(len(str(c.key[i])) for c in shown)) for i, title in enumerate(_FIELDS)]
    columns = [Column(title, width, True) for title, width in zip(_FIELDS, widths, strict=True)]
    times = (Column("before us", 10), Column("after us", 10), Column("after/before", 12))
    table = Table((*columns, *times, Column("", 0, True)))
    screen.print(table.header, "bold")
    for c in shown:
        after, ratio = ("-", "-") if c.after is None else (number(c.after), number(c.after / c.before))
        note = c.verdict + (f" ({c.reason})" if c.reason else "") + (" ~" if c.noisy else "")
        line = table.line([*map(str, c.key), number(c.before), after, ratio, note])
        screen.print(line, "red" if c.verdict in (SLOWER, LOST) else "green")


def _print_means(ours: Sequence[Change], peers: Sequence[Change], threshold: float, screen: Screen) -> None:
    for name, found in (("this project", ours), ("the peers", peers)):
        ratios = [c.ratio for c in found if c.ratio is not None]
        if ratios:
            counts = ", ".join(f"{sum(c.verdict == v for c in found)} {v}" for v in (SLOWER, FASTER, SAME, LOST))
            screen.print(f"{name}: {geometric_mean(ratios):.3f} x the time before (geometric mean); {counts}")
    drift = [c.ratio for c in peers if c.ratio is not None]
    if drift and abs(geometric_mean(drift) - 1) > threshold:
        screen.print("the peers' times moved too: look at the machine before the code", "yellow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, metavar="A", help="a result file, or a folder of them")
    parser.add_argument("after", type=Path, metavar="B", help="likewise, of the later run")
    threshold = "a change of the median that counts, in percent (5)"
    parser.add_argument("--threshold", type=float, default=5.0, metavar="PERCENT", help=threshold)
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="judge these; default: this project's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all changes there")
    parser.add_argument("--force", action="store_true", help="compare other devices and methods all the same")
    given = parser.parse_args(arguments)
    screen = Screen()
    try:
        before, after = load_all([given.before]), load_all([given.after])
    except ValueError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    fatal, doubtful = differences(before, after)
    for line in (*fatal, *doubtful):
        screen.print(line, "bold red" if line in fatal else "yellow")
    if fatal and not given.force:
        print("compare: these two runs say nothing about each other (--force compares them)", file=sys.stderr)
        return 2
    return _judge(_rows(before), _rows(after), given, doubtful, screen)


def _rows(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for file in results for row in file["rows"]]


def _judge(before: list, after: list, given: argparse.Namespace, doubtful: Sequence[str], screen: Screen) -> int:
    found = list(changes(before, after, given.threshold / 100))
    judged = set(given.contenders or ()) or {row["contender"] for row in before if row["ours"]}
    ours = [c for c in found if c.contender in judged]
    peers = [c for c in found if c.contender not in judged]
    if not ours:
        print("compare: no case is in both runs", file=sys.stderr)
        return 2
    _print(ours, screen)
    _print_means(ours, peers, given.threshold / 100, screen)
    missing = len({_key(row) for row in before if row["status"] == OK} - {_key(row) for row in after})
    if missing:
        screen.print(f"{missing} timings of the run before have no counterpart in the one after", "dim")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"threshold_percent": given.threshold, "doubtful": list(doubtful)}
        rows = {"changes": [c.as_dict() for c in ours], "peers": [c.as_dict() for c in peers], "missing": missing}
        given.json.write_text(json.dumps({**content, **rows}, indent=1) + "\n")
    return 1 if any(c.verdict in (SLOWER, LOST) for c in ours) else 0
