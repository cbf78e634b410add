"""The page: one HTML file with the data, the charts' library and the tables' in it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import itables.options
import jinja2
import vl_convert

from ..cases import Comparison
from ..kernel_report.tables import rounded
from ..timing import geometric_mean
from . import charts, tables, theme
from .files import Predictions
from .groups import BEST_PEER, BEST_PEER_QUIET, Contest, Group

_FOLDER = Path(__file__).parent
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif'
#: So many of the cases where we are furthest behind are named.
_WORST = 10


@dataclass(frozen=True)
class _Section:
    """What the template shows of a group."""

    id: str
    group: Group
    figures: Sequence[charts.Figure]
    legend: dict[str, str]

    @property
    def worst(self) -> Sequence[Contest]:
        return self.group.worst()[:_WORST]

    @property
    def noisy(self) -> int:
        return sum(contest.noisy for contest in self.group.contests)

    @property
    def means(self) -> list[tuple[str, Comparison, Comparison | None]]:
        """Against the best peer, for each part of the group: over all cases, and over the quiet ones."""
        found = {(part, mean.versus): mean for part, mean in self.group.comparisons}
        return [
            (part, mean, found.get((part, BEST_PEER_QUIET)))
            for (part, versus), mean in found.items()
            if versus == BEST_PEER
        ]

    @property
    def roofline_percent(self) -> float | None:
        """The geometric mean of our share of the roofline."""
        ours = [contest.ours for contest in self.group.contests if contest.ours is not None]
        shares = [row["roofline_percent"] for row in ours if row.get("roofline_percent")]
        return geometric_mean(shares) if shares else None


def render(groups: Sequence[Group], predictions: Sequence[Predictions]) -> str:
    """The whole page. It fetches nothing when it is viewed."""
    sections = [
        _Section(
            slug(group.title),
            group,
            charts.figures(group, theme.css, _FONT, legend=False),
            theme.palette(group.contenders),
        )
        for group in groups
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=jinja2.select_autoescape(("html",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        sections=sections,
        predictions=predictions,
        content=rounded(_content(sections, predictions)),
        light=theme.variables(dark=False),
        dark=theme.variables(dark=True),
        font=_FONT,
        css=(_FOLDER / "page.css").read_text(),
        script=_script((_FOLDER / "page.js").read_text()),
        vega=_script(_vega()),
        datatables=_datatables(),
        datatables_css=_datatables_path().with_suffix(".css").read_text(),
    )


def slug(title: str) -> str:
    """``title`` as part of an address or a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _content(sections: Sequence[_Section], predictions: Sequence[Predictions]) -> dict[str, Any]:
    """What page.js shows: per group the data of its charts and their Vega specifications, and the tables' columns and
    rows; those of a group are the data set "rows"."""
    groups, shown = {}, {}
    for section in sections:
        data = charts.datasets(section.group)
        specs = {figure.name: vl_convert.vegalite_to_vega(figure.spec) for figure in section.figures}
        groups[section.id] = {"datasets": data, "specs": specs}
        shown[section.id] = {"columns": [vars(c) for c in tables.results(section.group, data["rows"])]}
    for i, found in enumerate(predictions, start=1):
        columns, rows = tables.predictions(found)
        shown[f"predictions-{i}"] = {"columns": [vars(column) for column in columns], "rows": rows}
    return {"groups": groups, "tables": shown}


def _script(code: str) -> str:
    """``code``, which may have the end of a script in a string, as it can stand in a script element."""
    return code.replace("</script", r"<\/script")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, which vl-convert has with it."""
    return vl_convert.javascript_bundle()


def _datatables_path() -> Path:
    return Path(itables.options.dt_bundle)


def _datatables() -> str:
    """DataTables, which itables has with it, as the address of a module."""
    return "data:text/javascript;base64," + base64.b64encode(_datatables_path().read_bytes()).decode()
