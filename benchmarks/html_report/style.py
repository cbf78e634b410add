"""What the charts of a group share: colours, axes, and the menus that choose what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from .groups import BEST_PEER, BEST_PEER_QUIET, OURS, SETTINGS, WORDS, Group
from .theme import Colour, palette

#: The settings that a chart of too many rows narrows, in turn.
_NARROWED = ("dtype", "clock", "layout", "threads", "batch")


@dataclass(frozen=True)
class Menus:
    """The parameters of a chart, the filter by them, how many rows show at first, and the expression that names a
    case by what the menus leave open."""

    params: list[Any]
    test: str
    rows: int
    name: str


class Style:
    """The colours and axes of one group's charts. ``colour`` gives the value of a named colour; with a ``legend``
    they have their own."""

    def __init__(self, group: Group, colour: Colour, legend: bool) -> None:
        self.group, self.ink, self.muted = group, colour("ink"), colour("muted")
        self.names = list(group.contenders)
        named = {**palette(group.contenders), BEST_PEER: "ink", BEST_PEER_QUIET: "muted"}
        scale = alt.Scale(domain=list(named), range=[colour(shade) for shade in named.values()])

        def of(field: str, names: Sequence[str]) -> Any:
            shown = alt.Legend(title=None, values=names, offset=40) if legend and names else None
            return alt.Color(field, scale=scale, legend=shown)

        self.contender, self.versus = of("contender:N", self.names), of("versus:N", ())
        self.other = of("contender:N", [name for name in self.names if name != OURS])
        axis = alt.Axis(labelLimit=220, labelColor=self.ink)
        self.cases = alt.Y(
            "name:N", sort=None, title=None, axis=axis, scale=alt.Scale(paddingInner=0.2, paddingOuter=0.1)
        )

    def line_at_one(self) -> Any:
        return alt.Chart(alt.Data(values=[{}])).mark_rule(color=self.ink, strokeWidth=1).encode(x=alt.datum(1))

    def menus(self, few: int, narrow_cases: bool = False, without: Sequence[str] = ()) -> Menus:
        """``hidden``, and a menu for each setting that varies, but for those ``without``, and for the case. A menu
        starts at "all", but in turn at its first value while more than ``few`` rows would show."""
        params, tests, names = [hidden()], [shown("contender")], {}
        contests = self.group.contests
        for field in ("case", *_NARROWED) if narrow_cases else (*_NARROWED, "case"):
            values = list(dict.fromkeys(contest.setting(field) for contest in self.group.contests))
            values = [value for value in values if value is not None]
            if len(values) < 2 or field in without:
                continue
            start = None
            if (narrow_cases or field != "case") and sum(len(contest.rows) for contest in contests) > few:
                start = values[0]
                contests = [contest for contest in contests if contest.setting(field) == start]
            params.append(menu(field, values, start))
            tests.append(picked(field))
            if field != "case":
                before, after = WORDS.get(field, "{}").split("{}")
                words = f"' · {before}' + datum.{field} + '{after}'"
                names[field] = f"(pick_{field} === null && isValid(datum.{field}) ? {words} : '')"
        rows = sum(len(contest.rows) for contest in contests)
        return Menus(params, " && ".join(tests), rows, self._name([names[f] for f in SETTINGS if f in names]))

    def _name(self, settings: Sequence[str]) -> str:
        """The expression of a name: the case, unless it is the only one, and each of ``settings``."""
        if len(self.group.cases) > 1 or not settings:
            return " + ".join(["datum.case", *settings])
        return f"slice({' + '.join(settings)}, 3) || datum.case"


def hidden() -> Any:
    """The parameter that lists the contenders to leave out."""
    return alt.param(name="hidden", value=[])


def shown(field: str) -> str:
    """The test for what is not hidden."""
    return f"indexof(hidden, datum.{field}) < 0"


def menu(field: str, values: Sequence[Any], start: Any) -> Any:
    """A menu of the ``values`` of ``field``, and of all."""
    labels = ["all", *map(str, values)]
    bind = alt.binding_select(options=[None, *values], labels=labels, name=f"{field} ")
    return alt.param(name=f"pick_{field}", value=start, bind=bind)


def picked(field: str) -> str:
    """The test for what the menu of ``field`` shows."""
    return f"(pick_{field} === null || datum.{field} === pick_{field})"


def log(**settings: Any) -> Any:
    """A logarithmic scale that ends where the data does."""
    return alt.Scale(type="log", nice=False, padding=12, **settings)


def tips(**fields: str) -> list[Any]:
    """Tooltips, given as title="field" or title="field, number format"; _ in a title is a space."""
    made = []
    for title, text in fields.items():
        field, _, form = text.partition(", ")
        options = {"format": form} if form else {}
        made.append(alt.Tooltip(f"{field}:{'Q' if form else 'N'}", title=title.replace("_", " "), **options))
    return made


def faded(field: str, opacity: float) -> Any:
    """The opacity of a mark: ``opacity`` where ``field`` is true."""
    return alt.condition(f"datum.{field}", alt.value(opacity), alt.value(0.95))
