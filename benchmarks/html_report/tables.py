"""The columns of the page's tables. A table shows records as they are; page.js turns a kind of value into text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..peers import MOBILENET
from .files import Predictions
from .groups import Group


@dataclass(frozen=True)
class Column:
    """``key`` of the records. A flag shows as its title."""

    key: str
    title: str
    kind: Literal["word", "flag", "count", "number", "percent", "ratio"] = "number"


def _word(key: str) -> Column:
    return Column(key, key, "word")


def results(group: Group, records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Of the group's records. What is the same in all of them has no column."""
    several = [key for key in ("status", "commit") if len({record[key] for record in records}) > 1]
    columns = [
        *([_word("case")] if len(group.cases) > 1 else []),
        *(Column(name, name, "count") if name in ("batch", "threads") else _word(name) for name in group.varying),
        _word("contender"),
        Column("median_ms", "median ms"),
        Column("p20_ms", "p20"),
        Column("p80_ms", "p80"),
        Column("noisy", "noisy", "flag"),
        Column("speedup", "/ mbv1", "ratio"),
        *([Column("images_per_s", "images/s")] if group.benchmark == MOBILENET else []),
        Column("gb_per_s", "GB/s"),
        Column("gflop_per_s", "GFLOP/s"),
        Column("roofline_percent", "% roof", "percent"),
        Column("peak_percent", "% peak", "percent"),
        Column("peak_mb", "peak MB"),
        Column("start_s", "start s"),
        *map(_word, several),
    ]
    present = {key for record in records for key in record}
    return [column for column in columns if column.key in present]


def predictions(found: Predictions) -> tuple[list[Column], list[dict[str, Any]]]:
    """Columns and records, one a prediction and device."""
    records = [
        {**row, "eager": row["eager_us"] / row["us"], "compile": row["compile_us"] / row["us"]} for row in found.rows
    ]
    columns = [
        _word("device"),
        _word("layer"),
        Column("batch", "batch", "count"),
        _word("dtype"),
        _word("layout"),
        _word("kernel"),
        Column("us", "predicted µs"),
        _word("limiter"),
        Column("eager_us", "eager µs"),
        Column("compile_us", "torch.compile µs"),
        Column("eager", "eager / mbv1", "ratio"),
        Column("compile", "compile / mbv1", "ratio"),
    ]
    return columns, records
