"""The tables of the page: columns, and cells as text beside the value that they sort by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..peers import MOBILENET
from ..report import number
from .files import Predictions
from .groups import Group


@dataclass(frozen=True)
class Column:
    """``key`` of a record, shown as ``text`` says; numbers stand to the right."""

    key: str
    title: str
    numeric: bool = True
    text: Callable[[Any], str] = number


@dataclass(frozen=True)
class Cell:
    """``order`` is what to sort by."""

    text: str
    order: Any


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def _word(key: str, title: str | None = None) -> Column:
    return Column(key, title or key, False, str)


def _percent(value: float) -> str:
    return f"{value:.0f}%"


def _ratio(value: float) -> str:
    return f"{value:.2f}×"  # noqa: RUF001 (a multiplication sign is meant)


def results(group: Group) -> Table:
    """Every row of the group; what is the same in all of them has no column."""
    records = [{**record, "noisy": "noisy" if record.get("noisy") else ""} for record in group.records()]
    commits, statuses = ({record[key] for record in records} for key in ("commit", "status"))
    columns = [
        _word("case"),
        *(Column("batch", "batch", True, str) if name == "batch" else _word(name) for name in group.varying),
        _word("contender"),
        *([_word("status")] if len(statuses) > 1 else []),
        Column("median_ms", "median ms"),
        Column("p20_ms", "p20"),
        Column("p80_ms", "p80"),
        _word("noisy"),
        Column("speedup", "/ mbv1", True, _ratio),
        *([Column("images_per_s", "images/s")] if group.benchmark == MOBILENET else []),
        Column("gb_per_s", "GB/s"),
        Column("gflop_per_s", "GFLOP/s"),
        Column("roofline_percent", "% roof", True, _percent),
        Column("peak_percent", "% peak", True, _percent),
        Column("peak_mb", "peak MB"),
        *([_word("commit")] if len(commits) > 1 else []),
    ]
    return _table(columns, records)


def predictions(found: Predictions) -> Table:
    """Every prediction, for each device."""
    rows = [
        {**row, "eager": row["eager_us"] / row["us"], "compile": row["compile_us"] / row["us"]} for row in found.rows
    ]
    columns = [
        _word("device"),
        _word("layer"),
        Column("batch", "batch", True, str),
        _word("dtype"),
        _word("layout"),
        _word("kernel"),
        Column("us", "predicted µs"),
        _word("limiter"),
        Column("eager_us", "eager µs"),
        Column("compile_us", "torch.compile µs"),
        Column("eager", "eager / mbv1", True, _ratio),
        Column("compile", "compile / mbv1", True, _ratio),
    ]
    return _table(columns, rows)


def _table(columns: Sequence[Column], records: Sequence[Mapping[str, Any]]) -> Table:
    """Without the columns that no record has a value for."""
    kept = [column for column in columns if any(record.get(column.key) is not None for record in records)]
    return Table(kept, [[_cell(column, record.get(column.key)) for column in kept] for record in records])


def _cell(column: Column, value: Any) -> Cell:
    """What is missing sorts below every number."""
    if value is None:
        return Cell("", -1 if column.numeric else "")
    return Cell(column.text(value), value)
