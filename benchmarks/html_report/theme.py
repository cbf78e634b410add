"""The colours of the page and of its charts: each has a name here, and a value in light and in dark.

In the page a chart's colours are CSS variables (``var(--ink)``), so that a switch of the theme needs no new chart; in
a PNG they are the light values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

#: name: (light, dark)
COLOURS = {
    "page": ("#f6f7f9", "#0f1216"),
    "card": ("#ffffff", "#181c22"),
    "ink": ("#1b2026", "#e7eaee"),
    "muted": ("#5b6572", "#9aa5b1"),
    "line": ("#dde2e8", "#2c333c"),
    "link": ("#0b5fcc", "#75b2ff"),
    "good": ("#11734b", "#4fc690"),
    "bad": ("#b3261e", "#ff8a80"),
    "ours": ("#1668dc", "#5aa2ff"),
    "ours-2": ("#6f42c1", "#b794f4"),
    "ours-3": ("#0f8f8f", "#4fd1c5"),
    "peer-1": ("#e07b00", "#ffa94d"),
    "peer-2": ("#3a9d3f", "#74d17a"),
    "peer-3": ("#d6336c", "#ff85ad"),
    "peer-4": ("#8a6d3b", "#d3b27a"),
    "peer-5": ("#0093b0", "#56cfe6"),
    "peer-6": ("#9c36b5", "#dd8bf0"),
    "peer-7": ("#6b7f1e", "#c0d45a"),
    "peer-8": ("#c2412d", "#ff9479"),
    "peer-9": ("#6b7785", "#a9b4c0"),
    "peer-10": ("#2f4858", "#d5dbe1"),
    "peer-11": ("#b89500", "#ffe066"),
    "peer-12": ("#a0616a", "#e3b7bd"),
}

Colour = Callable[[str], str]


def css(name: str) -> str:
    """The colour as the page's CSS variable."""
    return f"var(--{name})"


def light(name: str) -> str:
    """The colour's value on a light ground."""
    return COLOURS[name][0]


def variables(dark: bool) -> str:
    """The CSS declarations that give every variable its value."""
    return " ".join(f"--{name}: {values[dark]};" for name, values in COLOURS.items())


def config(colour: Colour, font: str) -> dict[str, Any]:
    """Vega-Lite's configuration, with colours made by ``colour``."""
    quiet = {"labelColor": colour("muted"), "titleColor": colour("muted")}
    return {
        "background": colour("card"),
        "font": font,
        "view": {"stroke": None},
        "axis": {
            **quiet,
            "gridColor": colour("line"),
            "domain": False,
            "ticks": False,
            "labelPadding": 6,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "titleFontWeight": "normal",
        },
        "legend": {**quiet, "labelColor": colour("ink"), "titleFontWeight": "normal", "symbolType": "circle"},
        "title": {"color": colour("ink"), "anchor": "start", "fontSize": 14},
        "text": {"color": colour("muted"), "fontSize": 11},
        "bar": {"cornerRadius": 2},
    }


def palette(contenders: Mapping[str, bool]) -> dict[str, str]:
    """A colour's name for each contender; the value tells whether it is ours. Past the last colour they repeat."""
    shades = {
        ours: cycle([name for name in COLOURS if name.startswith("ours" if ours else "peer")])
        for ours in (True, False)
    }
    return {name: next(shades[ours]) for name, ours in contenders.items()}
