"""``python -m benchmarks report RESULTS… -o report.html [--png FOLDER]``: result files as one self-contained page.

    files.py     what is read: runs of benchmarks, and the predictions of the kernel report
    groups.py    what is shown of them: one benchmark on one device, its cases, means, worst rows and history
    charts.py    the charts, as Vega-Lite specifications over a group's rows; style.py is what they share
    theme.py     the colours, light and dark
    tables.py    the columns of the tables
    page.py      all of it as HTML (page.html, page.css, page.js), without anything to fetch when it is viewed
    png.py       a chart as PNG

Needs the extra ``report``: Altair and vl-convert for the charts, itables for DataTables, Jinja.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = ("altair", "itables", "jinja2", "vl_convert")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; the exit code: 2 where an argument or a file is none that this can use."""
    try:
        from .command import run
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(f"report: needs the package {error.name}: pip install '.[report]'", file=sys.stderr)
        return 2
    return run(arguments)
