"""The charts of a group, as Vega-Lite specifications that name their data: rows, means, roofs, history.

Bars and points are medians, lines through them reach from p20 to p80, and what is noisy is faded or hollow. Every
chart leaves out the contenders that its parameter ``hidden`` lists, and has a menu for each setting that varies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ..contest import FAILED, OK, WRONG
from .groups import BEST_PEER, BEST_PEER_QUIET, OURS, SETTINGS, Group, words
from .theme import Colour, config, palette

#: So many rows show at first in the charts of speed-ups and of the history.
_FEW = 80
#: The settings that they leave out for that, in turn.
_NARROW = ("dtype", "l2", "clock", "layout", "threads", "batch")
_WIDTH = "width"  # of a view, in a position


@dataclass(frozen=True)
class Figure:
    """A chart: ``spec`` is its Vega-Lite specification, without the data."""

    name: str
    title: str
    caption: str
    spec: dict[str, Any]


def datasets(group: Group) -> dict[str, list[dict[str, Any]]]:
    """The data that the figures of ``group`` name."""
    means = [
        {"label": f"{mean.versus} · {part}" if part else mean.versus, **vars(mean)}
        for part, mean in group.comparisons()
    ]
    return {"rows": group.records(), "means": means, "roofs": _roof_corners(group), "history": group.history()}


def figures(group: Group, colour: Colour, font: str, legend: bool) -> list[Figure]:
    """Those that the group's data can fill. ``colour`` gives the value of a named colour; without a ``legend`` the
    figures rely on one beside them."""
    style = _Style(group, colour, legend)
    return [
        Figure(name, title, caption, _spec(draw(style), config(colour, font)))
        for name, title, caption, can, draw in _FIGURES
        if can(group)
    ]


def _spec(chart: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return chart.properties(width="container").configure(**settings).to_dict()


class _Style:
    """What the charts of a group share."""

    def __init__(self, group: Group, colour: Colour, legend: bool) -> None:
        self.group, self.ink, self.muted = group, colour("ink"), colour("muted")
        self.names = list(group.contenders)
        named = {**palette(group.contenders), BEST_PEER: "ink", BEST_PEER_QUIET: "muted"}
        scale = alt.Scale(domain=list(named), range=[colour(shade) for shade in named.values()])
        shown = alt.Legend(title=None, values=self.names, offset=40) if legend else None
        self.contender = alt.Color("contender:N", scale=scale, legend=shown)
        self.versus = alt.Color("versus:N", scale=scale, legend=None)
        axis = alt.Axis(labelLimit=190, labelColor=self.ink)
        self.cases = alt.Y("label:N", sort=None, title=None, axis=axis, scale=alt.Scale(padding=0.15))

    def line_at_one(self) -> Any:
        return alt.Chart(alt.Data(values=[{}])).mark_rule(color=self.ink, strokeWidth=1).encode(x=alt.datum(1))

    def menus(self, *fields: str, narrow: Sequence[str] = (), few: int = 0) -> tuple[list[Any], str]:
        """The parameters ``hidden`` and a menu for each of ``fields`` and ``narrow`` that varies, and the filter by
        them. Menus start at "all"; those of ``narrow``, in turn, at the first value while more than ``few`` rows
        would show."""
        params, tests = [alt.param(name="hidden", value=[])], ["indexof(hidden, datum.contender) < 0"]
        contests = self.group.contests
        for field in (*narrow, *fields):
            values = list(dict.fromkeys(contest.setting(field) for contest in self.group.contests))
            if len(values) < 2:
                continue
            start = None
            if field in narrow and sum(len(contest.rows) for contest in contests) > few:
                start = values[0]
                contests = [contest for contest in contests if contest.setting(field) == start]
            menu = alt.binding_select(options=[None, *values], labels=["all", *map(str, values)], name=f"{field} ")
            params.append(alt.param(name=f"pick_{field}", value=start, bind=menu))
            tests.append(f"(pick_{field} === null || datum.{field} === pick_{field})")
        return params, " && ".join(tests)


def _log(**settings: Any) -> Any:
    return alt.Scale(type="log", nice=False, padding=12, **settings)


def _tips(**fields: str) -> list[Any]:
    """Tooltips, given as title="field" or title="field, number format"; _ in a title is a space."""
    made = []
    for title, text in fields.items():
        field, _, form = text.partition(", ")
        options = {"format": form} if form else {}
        made.append(alt.Tooltip(f"{field}:{'Q' if form else 'N'}", title=title.replace("_", " "), **options))
    return made


def _faded(field: str, opacity: float) -> Any:
    return alt.condition(f"datum.{field}", alt.value(opacity), alt.value(0.95))


def _speedups(style: _Style) -> Any:
    params, test = style.menus("case", narrow=_NARROW, few=_FEW)
    y = {"y": style.cases, "yOffset": alt.YOffset("contender:N", sort=style.names)}
    x = alt.X("speedup:Q", scale=_log(), title="their time / mbv1's time", axis=alt.Axis(format="~g", tickCount=8))
    base = alt.Chart(alt.NamedData("rows")).transform_filter(test).encode(**y)
    timed = base.transform_filter("isValid(datum.speedup)")
    bars = timed.mark_bar().encode(
        x=x,
        x2=alt.X2(datum=1),
        color=style.contender,
        fillOpacity=_faded("pair_noisy", 0.4),
        tooltip=_tips(
            case="label",
            contender="contender",
            speed_up="speedup, .3f",
            at_least="speedup_low, .3f",
            at_most="speedup_high, .3f",
            median_in_ms="median_ms, .4~g",
            noisy="pair_noisy",
            commit="commit",
        ),
    )
    spread = timed.mark_rule(color=style.ink, strokeWidth=1.25, opacity=0.75).encode(
        x=alt.X("speedup_low:Q", title=""), x2="speedup_high:Q"
    )
    values = timed.mark_text(align="left", dx=8, fontSize=10).encode(
        x=alt.value(_WIDTH), text=alt.Text("speedup:Q", format=".2f")
    )
    broken = base.transform_filter(f"datum.status === '{FAILED}' || datum.status === '{WRONG}'")
    reasons = broken.mark_text(align="left", dx=4, fontSize=10).encode(
        x=alt.datum(1), text="status:N", tooltip=_tips(case="label", contender="contender", reason="reason")
    )
    chart = alt.layer(bars, spread, values, reasons, style.line_at_one()).add_params(*params)
    return chart.properties(height={"step": 13, "for": "offset"})


def _means(style: _Style) -> Any:
    hidden = alt.param(name="hidden", value=[])
    base = (
        alt.Chart(alt.NamedData("means")).transform_filter("indexof(hidden, datum.versus) < 0").encode(y=style.cases)
    )
    ranges = base.mark_rule(strokeWidth=2, opacity=0.45).encode(
        x=alt.X("low:Q", title=""), x2="high:Q", color=style.versus
    )
    points = base.mark_circle(size=90, opacity=1).encode(
        x=alt.X("mean:Q", scale=_log(), title="their time / mbv1's time", axis=alt.Axis(format="~g", tickCount=8)),
        color=style.versus,
        tooltip=_tips(
            versus="label", geometric_mean="mean, .3f", lowest="low, .3f", highest="high, .3f", cases="cases"
        ),
    )
    values = base.mark_text(align="left", dx=8).encode(x=alt.value(_WIDTH), text=alt.Text("mean:Q", format=".2f"))
    chart = alt.layer(style.line_at_one(), ranges, points, values)
    return chart.add_params(hidden).properties(height={"step": 24})


def _roof_corners(group: Group) -> list[dict[str, Any]]:
    """Of each roof: left of all points, along the bandwidth to the ridge, then level to the right of all points."""
    roofs = group.roofs()
    found = [record["flop_per_byte"] for record in group.records() if record["flop_per_byte"]]
    found += [roof["gflop_per_s"] / roof["gb_per_s"] for roof in roofs]
    corners = []
    for roof in roofs:
        bandwidth, peak, threads = roof["gb_per_s"], roof["gflop_per_s"], roof["threads"]
        of = f"{roof['kind']}, {words('threads', threads)}" if "threads" in group.varying else roof["kind"]
        text = f"{of}: {peak:,.0f} GFLOP/s, {bandwidth:,.1f} GB/s"
        for corner, x in enumerate((min(found) / 2, peak / bandwidth, max(found) * 2)):
            place = {"flop_per_byte": x, "gflop_per_s": min(peak, x * bandwidth), "corner": corner}
            corners.append({"roof": text, "threads": threads, **place})
    return corners


def _roofline(style: _Style) -> Any:
    params, test = style.menus("case", *SETTINGS)
    x = alt.X("flop_per_byte:Q", scale=_log(), title="FLOP / byte", axis=alt.Axis(format="~g", tickCount=6))
    y = alt.Y("gflop_per_s:Q", scale=_log(), title="GFLOP/s", axis=alt.Axis(format=",~g", tickCount=6))
    roofs = alt.Chart(alt.NamedData("roofs")).encode(x=x, y=y)
    if "threads" in style.group.varying:
        roofs = roofs.transform_filter("pick_threads === null || datum.threads === pick_threads")
    lines = roofs.mark_line(color=style.muted, strokeWidth=1.5).encode(detail="roof:N", order="corner:Q")
    names = roofs.transform_filter("datum.corner === 2").mark_text(align="right", dy=-8).encode(text="roof:N")
    timed = (
        alt.Chart(alt.NamedData("rows"))
        .transform_filter(f"datum.status === '{OK}' && isValid(datum.flop_per_byte) && {test}")
        .transform_calculate(
            low="datum.gflop_per_s * datum.median_ms / datum.p80_ms",
            high="datum.gflop_per_s * datum.median_ms / datum.p20_ms",
        )
        .encode(x=x, color=style.contender)
    )
    spread = timed.mark_rule(opacity=0.6).encode(y=alt.Y("low:Q", title=""), y2="high:Q")
    points = timed.mark_point(filled=True, strokeWidth=1.5).encode(
        y=y,
        stroke=style.contender,
        fillOpacity=_faded("noisy", 0.1),
        size=alt.condition("datum.ours", alt.value(90), alt.value(45)),
        tooltip=_tips(
            case="label",
            contender="contender",
            GFLOP_per_s="gflop_per_s, ,.4~g",
            FLOP_per_byte="flop_per_byte, .3~g",
            percent_of_roofline="roofline_percent, .0f",
            noisy="noisy",
            commit="commit",
        ),
    )
    return alt.layer(lines, names, spread, points).add_params(*params).properties(height=340)


def _latency(style: _Style) -> Any:
    params, test = style.menus(narrow=("case", *(name for name in SETTINGS if name != "batch")))
    each = alt.binding_radio(options=[True, False], labels=["an image", "the batch"], name="time of ")
    params.append(alt.param(name="each", value=True, bind=each))
    batches = sorted({contest.setting("batch") for contest in style.group.contests})
    axis = alt.Axis(values=batches, format="d", grid=False)
    timed = (
        alt.Chart(alt.NamedData("rows"))
        .transform_filter(f"datum.status === '{OK}' && {test}")
        .transform_calculate(
            **{name: f"datum.{name}_ms / (each ? datum.batch : 1)" for name in ("median", "p20", "p80")},
            series="[datum.case, datum.dtype, datum.layout, datum.threads, datum.l2, datum.clock] + ''",
        )
        .encode(
            x=alt.X("batch:Q", scale=_log(base=2), axis=axis, title="batch size"),
            color=style.contender,
            detail="series:N",
        )
    )
    y = alt.Y("median:Q", scale=_log(), title="ms", axis=alt.Axis(format="~g", tickCount=6))
    wide = alt.condition("datum.ours", alt.value(3), alt.value(1.5))
    lines = timed.mark_line(opacity=0.85).encode(y=y, strokeWidth=wide)
    return alt.layer(lines, *_points(timed, y)).add_params(*params).properties(height=320)


def _history(style: _Style) -> Any:
    params, test = style.menus("case", narrow=_NARROW, few=_FEW)
    names = alt.binding_select(options=[None, *style.names], labels=["all", *style.names], name="contender ")
    params.append(alt.param(name="pick_contender", value=OURS, bind=names))
    x = alt.X("time:T", scale=alt.Scale(type="utc"), title="time of the commit (UTC)")
    timed = (
        alt.Chart(alt.NamedData("history"))
        .transform_filter(f"{test} && (pick_contender === null || datum.contender === pick_contender)")
        .transform_calculate(median="datum.median_ms", p20="datum.p20_ms", p80="datum.p80_ms")
        .encode(x=x, color=style.contender, detail="label:N")
    )
    y = alt.Y("median:Q", scale=_log(), title="median, ms", axis=alt.Axis(format="~g", tickCount=6))
    lines = timed.mark_line(opacity=0.85).encode(y=y)
    return alt.layer(lines, *_points(timed, y)).add_params(*params).properties(height=320)


def _points(timed: Any, y: Any) -> tuple[Any, Any]:
    """Points at the medians of ``timed``, and lines from p20 to p80."""
    spread = timed.mark_rule(opacity=0.6).encode(y=alt.Y("p20:Q", title=""), y2="p80:Q")
    points = timed.mark_point(filled=True, size=55, strokeWidth=1.5).encode(
        y=y,
        stroke=timed.encoding.color,
        fillOpacity=_faded("noisy", 0.1),
        tooltip=_tips(
            case="label",
            contender="contender",
            median_in_ms="median_ms, .4~g",
            p20="p20_ms, .4~g",
            p80="p80_ms, .4~g",
            noisy="noisy",
            commit="commit",
        ),
    )
    return spread, points


#: Per figure: name, title, caption, whether a group has what it needs, and how it is drawn.
_FIGURES: list[tuple[str, str, str, Callable[[Group], object], Callable[[_Style], Any]]] = [
    (
        "means",
        "Geometric means",
        "The geometric mean over the cases, and the range from the lowest case to the highest. Right of 1, mbv1 is "
        "faster.",
        lambda group: group.comparisons(),
        _means,
    ),
    (
        "speedup",
        "Speed-up over each peer",
        "Right of 1, mbv1 is faster. Lines: the range that p20 and p80 of both times allow. Faded: one of the two "
        "times is noisy.",
        lambda group: group.comparisons(),
        _speedups,
    ),
    (
        "roofline",
        "Roofline",
        "Roofs are measured in the same run. Bytes count each tensor once through memory, so a layer whose tensors "
        "stay in a cache can pass the sloped roof. Lines: p20 to p80. Hollow: noisy.",
        lambda group: group.roofs() and any(record["flop_per_byte"] for record in group.records()),
        _roofline,
    ),
    (
        "latency",
        "Latency against batch size",
        "Medians, with lines from p20 to p80. Hollow: noisy.",
        lambda group: "batch" in group.varying,
        _latency,
    ),
    (
        "history",
        "History",
        "Medians over the commits that the result files come from, with lines from p20 to p80. Hollow: noisy.",
        lambda group: len({record["time"] for record in group.history()}) > 1,
        _history,
    ),
]
