"""The charts of a group, as Vega-Lite specifications that name their data: rows, means, roofs, history.

Bars and points are medians, lines through them reach from p20 to p80, and what is noisy is faded or hollow. Every
chart leaves out the contenders that its parameter ``hidden`` lists, and has a menu for each setting that varies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt

from ..contest import FAILED, OK, WRONG
from .groups import OURS, SETTINGS, Group, words
from .style import Style, faded, hidden, log, menu, picked, shown, tips
from .theme import Colour, config

#: So many rows show at first: as bars, and as points in a plane.
_BARS, _POINTS = 80, 800
_RATIO = "their time / mbv1's time"
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
        {"part": part, "label": f"{mean.versus} · {part}" if part else mean.versus, **vars(mean)}
        for part, mean in group.comparisons
    ]
    return {"rows": group.records, "means": means, "roofs": _roof_corners(group), "history": group.history}


def figures(group: Group, colour: Colour, font: str, legend: bool) -> list[Figure]:
    """Those that the group's data can fill. ``colour`` gives the value of a named colour; without a ``legend`` the
    figures rely on one beside them."""
    style, made = Style(group, colour, legend), []
    for name, title, caption, has_data, draw in _FIGURES:
        if has_data(group):
            chart = draw(style).properties(width="container").configure(**config(colour, font))
            made.append(Figure(name, title, caption, chart.to_dict()))
    return made


def _means(style: Style) -> Any:
    parts = list(dict.fromkeys(part for part, _ in style.group.comparisons))
    start = parts[0] if len(style.group.comparisons) > _BARS / 2 else None
    params = [hidden(), *([menu("part", parts, start)] if len(parts) > 1 else [])]
    test = f"{shown('versus')} && {picked('part')}" if len(parts) > 1 else shown("versus")
    name = "pick_part === null ? datum.label : datum.versus" if len(parts) > 1 else "datum.versus"
    means = alt.Chart(alt.NamedData("means")).transform_filter(test).transform_calculate(name=name)
    base = means.encode(y=style.cases)
    ranges = base.mark_rule(strokeWidth=2, opacity=0.45).encode(
        x=alt.X("low:Q", title=""), x2="high:Q", color=style.versus
    )
    points = base.mark_circle(size=90, opacity=1).encode(
        x=alt.X("mean:Q", scale=log(), title=_RATIO, axis=alt.Axis(format="~g", tickCount=8)),
        color=style.versus,
        tooltip=tips(
            versus="label", geometric_mean="mean, .3f", lowest="low, .3f", highest="high, .3f", cases="cases"
        ),
    )
    values = base.mark_text(align="left", dx=8).encode(x=alt.value(_WIDTH), text=alt.Text("mean:Q", format=".2f"))
    chart = alt.layer(style.line_at_one(), ranges, points, values)
    return chart.add_params(*params).properties(height={"step": 24})


def _speedups(style: Style) -> Any:
    menus = style.menus(_BARS)
    labels = ["each contender", "the best peer"]
    versus = alt.binding_select(options=[None, True], labels=labels, name="against ")
    best = alt.param(name="pick_best", value=True if menus.rows > _BARS else None, bind=versus)
    base = (
        alt.Chart(alt.NamedData("rows"))
        .transform_filter(f"{menus.test} && {picked('best')}")
        .transform_calculate(name=menus.name, place="pick_best ? '' : datum.contender")
        .encode(y=style.cases, yOffset=alt.YOffset("place:N", sort=style.names))
    )
    timed = base.transform_filter("isValid(datum.speedup)")
    bars = timed.mark_bar().encode(
        x=alt.X("speedup:Q", scale=log(), title=_RATIO, axis=alt.Axis(format="~g", tickCount=8)),
        x2=alt.X2(datum=1),
        color=style.other,
        fillOpacity=faded("pair_noisy", 0.4),
        tooltip=tips(
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
        x=alt.datum(1), text="status:N", tooltip=tips(case="label", contender="contender", reason="reason")
    )
    chart = alt.layer(bars, spread, values, reasons, style.line_at_one())
    return chart.add_params(*menus.params, best).properties(height={"step": 13, "for": "offset"})


def _roof_corners(group: Group) -> list[dict[str, Any]]:
    """Of each roof: left of all points, along the bandwidth to the ridge, then level to the right of all points."""
    found = [record["flop_per_byte"] for record in group.records if "flop_per_byte" in record]
    found += [roof["gflop_per_s"] / roof["gb_per_s"] for roof in group.roofs]
    corners = []
    for roof in group.roofs:
        bandwidth, peak = roof["gb_per_s"], roof["gflop_per_s"]
        kind = f"{roof['dtype']} matrix products" if "dtype" in roof else "multiply-add"
        of = f"{kind}, {words('threads', roof['threads'])}" if "threads" in group.varying else kind
        text = f"{of}: {peak:,.0f} GFLOP/s, {bandwidth:,.1f} GB/s"
        for corner, x in enumerate((min(found) / 2, peak / bandwidth, max(found) * 2)):
            place = {"flop_per_byte": x, "gflop_per_s": min(peak, x * bandwidth), "corner": corner}
            corners.append({"roof": text, **roof, **place})
    return corners


def _roofline(style: Style) -> Any:
    menus = style.menus(_POINTS)
    x = alt.X("flop_per_byte:Q", scale=log(), title="FLOP / byte", axis=alt.Axis(format="~g", tickCount=6))
    y = alt.Y("gflop_per_s:Q", scale=log(), title="GFLOP/s", axis=alt.Axis(format=",~g", tickCount=6))
    roofs = alt.Chart(alt.NamedData("roofs")).encode(x=x, y=y)
    if "threads" in style.group.varying:
        roofs = roofs.transform_filter(picked("threads"))
    if "dtype" in style.group.varying:
        roofs = roofs.transform_filter(f"!isDefined(datum.dtype) || {picked('dtype')}")
    lines = roofs.mark_line(color=style.muted, strokeWidth=1.5).encode(detail="roof:N", order="corner:Q")
    names = roofs.transform_filter("datum.corner === 2").mark_text(align="right", dy=-8).encode(text="roof:N")
    timed = (
        alt.Chart(alt.NamedData("rows"))
        .transform_filter(f"datum.status === '{OK}' && isValid(datum.flop_per_byte) && {menus.test}")
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
        fillOpacity=faded("noisy", 0.1),
        size=alt.condition("datum.ours", alt.value(90), alt.value(45)),
        tooltip=tips(
            case="label",
            contender="contender",
            GFLOP_per_s="gflop_per_s, ,.4~g",
            FLOP_per_byte="flop_per_byte, .3~g",
            percent_of_roofline="roofline_percent, .0f",
            noisy="noisy",
            commit="commit",
        ),
    )
    return alt.layer(lines, names, spread, points).add_params(*menus.params).properties(height=340)


def _latency(style: Style) -> Any:
    menus = style.menus(0, narrow_cases=True, without=("batch",))
    batches = sorted({contest.setting("batch") for contest in style.group.contests})
    axis = alt.Axis(values=batches, format="d", grid=False)
    timed = (
        alt.Chart(alt.NamedData("rows"))
        .transform_filter(f"datum.status === '{OK}' && {menus.test}")
        .transform_calculate(
            **{name: f"datum.{name}_ms / datum.batch" for name in ("median", "p20", "p80")},
            series=f"join([{', '.join(f'datum.{name}' for name in ('case', *SETTINGS) if name != 'batch')}])",
        )
        .encode(
            x=alt.X("batch:Q", scale=log(base=2), axis=axis, title="batch size"),
            color=style.contender,
            detail="series:N",
        )
    )
    y = alt.Y(
        "median:Q", scale=log(), title="median latency / batch size, ms", axis=alt.Axis(format="~g", tickCount=6)
    )
    wide = alt.condition("datum.ours", alt.value(3), alt.value(1.5))
    lines = timed.mark_line(opacity=0.85).encode(y=y, strokeWidth=wide)
    return alt.layer(lines, *_points(timed, y)).add_params(*menus.params).properties(height=320)


def _history(style: Style) -> Any:
    menus = style.menus(_BARS)
    x = alt.X("time:T", scale=alt.Scale(type="utc"), title="time of the commit (UTC)")
    timed = (
        alt.Chart(alt.NamedData("history"))
        .transform_filter(f"{menus.test} && {picked('contender')}")
        .transform_calculate(median="datum.median_ms", p20="datum.p20_ms", p80="datum.p80_ms")
        .encode(x=x, color=style.contender, detail="label:N")
    )
    y = alt.Y("median:Q", scale=log(), title="median, ms", axis=alt.Axis(format="~g", tickCount=6))
    lines = timed.mark_line(opacity=0.85).encode(y=y)
    chart = alt.layer(lines, *_points(timed, y)).add_params(*menus.params, menu("contender", style.names, OURS))
    return chart.properties(height=320)


def _points(timed: Any, y: Any) -> tuple[Any, Any]:
    """Points at the medians of ``timed``, and lines from p20 to p80."""
    spread = timed.mark_rule(opacity=0.6).encode(y=alt.Y("p20:Q", title=""), y2="p80:Q")
    points = timed.mark_point(filled=True, size=55, strokeWidth=1.5).encode(
        y=y,
        stroke=timed.encoding.color,
        fillOpacity=faded("noisy", 0.1),
        tooltip=tips(
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


#: Per figure: name, title, caption, whether a group has the data, and how it is drawn.
_FIGURES: list[tuple[str, str, str, Callable[[Group], object], Callable[[Style], Any]]] = [
    (
        "means",
        "Geometric means",
        "The geometric mean over the cases, and the range from the lowest case to the highest. Right of 1, mbv1 is "
        "faster.",
        lambda group: group.comparisons,
        _means,
    ),
    (
        "speedup",
        "Speed-up over each contender",
        "Right of 1, mbv1 is faster. Lines: the range that p20 and p80 of both times allow. Faded: one of the two "
        "times is noisy.",
        lambda group: group.comparisons,
        _speedups,
    ),
    (
        "roofline",
        "Roofline",
        "Roofs are measured in the same run. Bytes count each tensor once through memory, so a layer whose tensors "
        "stay in a cache can pass the sloped roof. Lines: p20 to p80. Hollow: noisy.",
        lambda group: group.roofs and any("flop_per_byte" in record for record in group.records),
        _roofline,
    ),
    (
        "latency",
        "Latency against batch size",
        "What an image costs in a batch of each size. Lines: p20 to p80. Hollow: noisy.",
        lambda group: "batch" in group.varying,
        _latency,
    ),
    (
        "history",
        "History",
        "Medians over the commits that the result files come from, with lines from p20 to p80. Hollow: noisy.",
        lambda group: group.history,
        _history,
    ),
]
