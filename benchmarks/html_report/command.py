"""The command ``python -m benchmarks report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import charts, page, theme
from .files import Predictions, ReportError, Run, read
from .groups import Group, group
from .png import png


def run(arguments: Sequence[str] | None = None) -> int:
    """Writes the page, and with ``--png`` the charts; the exit code."""
    given = _parser().parse_args(arguments)
    try:
        found = [read(path) for path in _files(given.results)]
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    groups = group([run for run in found if isinstance(run, Run)])
    text = page.render(groups, [item for item in found if isinstance(item, Predictions)])
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text)
    print(f"{given.output}: {len(text) / 1e6:.1f} MB")
    if given.png:
        given.png.mkdir(parents=True, exist_ok=True)
        for member in groups:
            _write_charts(member, given.png)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description="Result files as one HTML page.")
    add = parser.add_argument
    results = "what benchmarks wrote (--json), several of one for its history; kernel reports; or folders of these"
    add("results", type=Path, nargs="+", metavar="RESULTS", help=results)
    add("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: %(default)s")
    add("--png", type=Path, metavar="FOLDER", help="write the charts there, too")
    return parser


def _files(given: Sequence[Path]) -> list[Path]:
    """``given``, with the files in a folder for the folder."""
    found = []
    for path in given:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise ReportError(f"{path}: expected a folder with result files, found none")
        found += files
    return found


def _write_charts(group: Group, folder: Path) -> None:
    data = charts.datasets(group)
    for figure in charts.figures(group, theme.light, "sans-serif", legend=True):
        path = folder / f"{page.slug(group.title)}-{figure.name}.png"
        path.write_bytes(png(figure, data, f"{group.title} · {group.everywhere}"))
        print(path)
