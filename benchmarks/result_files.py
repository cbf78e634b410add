"""Result files: what a benchmark writes with ``--json``, and what the tools read.

A file is one JSON object, whole after every row, of

- ``schema``: the version of all this, an integer; it changes when a reader has to;
- ``benchmark``: dwconv, pwconv, separable or mobilenet;
- ``environment``: device, versions, commit (see :func:`benchmarks.environment.environment`);
- ``rooflines``: for each number of threads, as a string, the bandwidth and the rates of multiply-adds measured in
  this run; on a GPU the number of threads changes nothing;
- ``method``: ``clock``, the description of the clock of ``median_us``, and ``clocks``, those of all by name;
  ``budget``, seconds for each contender and clock, and the least and most rounds; ``quick``;
- ``left_out``: contenders that did not take part, each with its reason, and ``notes`` (a list);
- ``rows``;
- ``complete``: false until the run has ended; then also ``comparisons`` (geometric means of their time / ours),
  ``problems`` (results that are wrong or missing) and ``skipped`` (cases that no time was left for).

A row is one contender in one case. The case is ``benchmark``, ``case`` (the name of the layer or net), ``batch``,
``dtype``, ``layout`` and ``threads`` (see :data:`CASE`), with facts about it (sizes, ``origin``); ``bytes`` and
``flops`` are what it has to move and to compute, ``bound_us`` the least time for that on the roofline. The contender
is ``contender``, ``ours`` (whether it is this project) and ``kernel_name`` (of the one that it runs, or
null). ``status`` is

- ``ok``: ``median_us``, ``p20_us``, ``p80_us`` over ``rounds`` by the clock named ``clock``; ``noisy``, and
  ``preemptions_per_s`` (how often another process took a core away; CPUs only); ``images_per_s``, ``gb_per_s``,
  ``gflop_per_s``, ``roofline_percent``, ``peak_percent``; ``error`` against float64, relative to the largest value;
  ``start_s``, seconds from nothing to the first result; ``other_clocks``, for each name of one (on a GPU: of calls
  or of a graph, the L2 cold or warm) the same times, or the ``reason`` for none;
- ``unavailable``, ``failed`` or ``wrong`` (so not timed): ``reason``.

``peak_bytes`` is the peak of what a call allocates, or null where that is not known; on the CPU with our kernels'
scratch memory, which they keep, so that it is the most of all cases so far. The most asked-for facts of the
environment are in each row, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1

#: The fields of a row that say which case it is.
CASE = ("benchmark", "case", "batch", "dtype", "layout", "threads")


@dataclass
class Results:
    """The results of a run. With a ``path`` every change is written at once, and the file is always whole. ``head``
    is what comes before the rows, without the schema."""

    path: Path | None
    head: dict[str, object]
    rows: list[dict[str, object]] = field(default_factory=list)
    tail: dict[str, object] = field(default_factory=lambda: {"complete": False})

    def add(self, rows: Sequence[dict[str, object]]) -> None:
        self.rows += rows
        self.write()

    def finish(self, **tail: object) -> None:
        self.tail = {"complete": True, **tail}
        self.write()

    def write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(
            json.dumps({"schema": SCHEMA, **self.head, "rows": self.rows, **self.tail}, indent=1) + "\n"
        )
        os.replace(partial, self.path)


def load(path: Path) -> dict[str, Any]:
    """The result file at ``path``. Raises ValueError, which names the file, for anything else."""
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a result file of a benchmark: {error}") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path}: expected a result file of schema {SCHEMA}, got {schema or 'none'}")
    return results


def load_all(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The result files at ``paths``, in whose place a folder stands for those in it, the oldest first. Raises
    ValueError for a path that is neither, and for a folder without any."""
    found: list[dict[str, Any]] = []
    for path in paths:
        files = [f for f in sorted(path.glob("*.json"), key=_age) if _has_rows(f)] if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path}: expected a folder with result files, found none")
        found += map(load, files)
    return found


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name


def _has_rows(path: Path) -> bool:
    """Whether a JSON file in a folder is meant: others may lie beside it."""
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return True  # a broken one is named, not passed over
    return isinstance(content, dict) and "rows" in content
