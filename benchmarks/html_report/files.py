"""Reads what the report shows: the result files of benchmarks, and the kernel report's predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..contest import OK, UNAVAILABLE
from ..result_files import SCHEMA

Row = Mapping[str, Any]

#: What a row of results cannot lack, and what a timed one has besides.
_ROW = ("case", "batch", "dtype", "layout", "contender", "ours", "status")
_TIMES = ("median_us", "p20_us", "p80_us")
#: What a row has per second, so that another time makes it another.
_RATES = ("images_per_s", "gb_per_s", "gflop_per_s", "roofline_percent", "peak_percent")
#: The clock of rows that were not timed, by type of device.
_CLOCKS = {"cpu": "wall, caches warm", "cuda": "events, L2 cold"}


class ReportError(Exception):
    """A file or a setting that the report cannot use; the message says which, what was expected and what came."""


@dataclass(frozen=True)
class Run:
    """One result file of a benchmark. ``rooflines`` has the measured limits by number of threads, ``left_out`` the
    contenders that did not take part with their reasons, ``skipped`` the cases that no time was left for. There is
    one of ``rows`` for each clock that a contender was timed by; fields that the report doesn't know are ignored."""

    path: Path
    benchmark: str
    environment: Mapping[str, Any]
    rooflines: Mapping[int, Mapping[str, Any]]
    clocks: str
    left_out: Mapping[str, str]
    skipped: Sequence[str]
    rows: Sequence[Row]
    complete: bool

    @property
    def device(self) -> str:
        """What times of two runs must share to be comparable: a CPU's name alone does not tell its instructions."""
        found = self.environment
        if found.get("device_type") != "cpu":
            return str(found["device"])
        cores = found.get("cores")
        parts = (found["device"], found.get("cpu_capability"), f"{cores} cores" if cores else None)
        return ", ".join(str(part) for part in parts if part)

    @property
    def commit(self) -> str:
        """The short commit, with "-dirty" where the tree had changes."""
        commit = str(self.environment.get("commit") or "unknown")
        sha, _, dirty = commit.partition("-")
        return sha[:9] + ("-dirty" if dirty else "")


@dataclass(frozen=True)
class Predictions:
    """The kernel report: lower bounds that a cost model predicts for GPUs; nothing in it is measured."""

    path: Path
    note: str
    commit: str
    rows: Sequence[Row]


def read(path: Path) -> Run | Predictions:
    """The file at ``path``; :class:`ReportError` where it is neither kind."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ReportError(f"{path}: expected JSON, but {error}") from None
    if isinstance(found, dict) and "predictions" in found:
        return _predictions(path, found)
    return _run(path, found)


def _run(path: Path, found: Any) -> Run:
    head = {"benchmark": str, "environment": dict, "rows": list}
    wrong = [k for k, kind in head.items() if not isinstance(found, dict) or not isinstance(found.get(k), kind)]
    if wrong:
        got = f"without {', '.join(wrong)}" if isinstance(found, dict) else f"that is a {type(found).__name__}"
        raise ReportError(
            f"{path}: expected a result file of a benchmark (benchmark, environment, rows) or a kernel report "
            f"(predictions), got JSON {got}"
        )
    if found.get("schema") != SCHEMA:
        raise ReportError(f"{path}: expected a result file of schema {SCHEMA}, got {found.get('schema', 'none')}")
    if not {"device", "time"} <= found["environment"].keys():
        raise ReportError(f"{path}: expected an environment with device and time, got {sorted(found['environment'])}")
    clock = _CLOCKS.get(found["environment"].get("device_type", ""), "unknown clock")
    rows: list[Row] = []
    for i, row in enumerate(found["rows"]):
        _check(path, i, row)
        rows += _views(row, clock)
    method = found.get("method") or {}
    left_out = {name: reason for name, reason in (found.get("left_out") or {}).items() if isinstance(reason, str)}
    return Run(
        path,
        found["benchmark"],
        found["environment"],
        _rooflines(path, found),
        "; ".join(method["clocks"].values()) if "clocks" in method else method.get("clock", ""),
        left_out,
        found.get("skipped") or (),
        rows,
        found.get("complete", False),
    )


def _rooflines(path: Path, found: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """By number of threads."""
    try:
        rooflines = {int(threads): roofline for threads, roofline in found.get("rooflines", {}).items()}
        for roofline, limit in product(rooflines.values(), ("bandwidth_gb_per_s", "fma_gflop_per_s")):
            float(roofline[limit])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(
            f"{path}: rooflines: expected bandwidth_gb_per_s and fma_gflop_per_s by number of threads, but {error!r}"
        ) from None
    return rooflines


def _check(path: Path, i: int, row: Any) -> None:
    if not isinstance(row, dict):
        raise ReportError(f"{path}: rows[{i}]: expected an object, got {row!r}")
    missing = [key for key in _ROW if key not in row]
    others = row.get("other_clocks", {})
    if not isinstance(others, dict) or not all(isinstance(times, dict) for times in others.values()):
        missing.append("other_clocks by name")
    else:
        timed = [row] if row.get("status") == OK else []
        timed += [times for times in others.values() if "median_us" in times]
        missing += [key for times in timed for key in _TIMES if not _is_time(times.get(key))]
    if missing:
        raise ReportError(f"{path}: rows[{i}]: expected {', '.join(missing)}, got {sorted(row)}")


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _views(row: Row, clock: str) -> Iterator[Row]:
    """``row`` as each clock has it, its own (by default ``clock``) first."""
    yield {"clock": clock, **row}
    for name, times in row.get("other_clocks", {}).items():
        if "median_us" in times:
            scale = row["median_us"] / times["median_us"]
            rates = {rate: scale * row[rate] for rate in _RATES if rate in row}
            yield {**row, **rates, **times, "clock": name}
        else:
            yield {**row, "status": UNAVAILABLE, "reason": times.get("reason"), "noisy": False, "clock": name}


def _predictions(path: Path, found: Mapping[str, Any]) -> Predictions:
    rows: list[Row] = []
    try:
        for layer in found["predictions"]:
            for device, ours in layer["predicted"].items():
                eager, compiled = (ours["today"][mode]["us"] for mode in ("eager", "torch.compile"))
                rows.append(
                    {
                        "device": device,
                        **{key: layer[key] for key in ("layer", "batch", "dtype", "layout")},
                        **{key: ours[key] for key in ("kernel", "us", "limiter")},
                        "eager_us": eager,
                        "compile_us": compiled,
                    }
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: expected a kernel report, but a prediction lacks {error}") from None
    commit = str((found.get("environment") or {}).get("commit") or "unknown")[:9]
    return Predictions(path, str(found.get("note", "")), commit, rows)
