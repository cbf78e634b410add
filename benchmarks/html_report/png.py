"""A chart as PNG, drawn without a browser, on a light ground so that it can be read on any page."""

from __future__ import annotations

from io import BytesIO
from textwrap import wrap
from typing import Any

import vl_convert
from PIL import Image

from .charts import Figure
from .groups import words
from .theme import light

_WIDTH, _SCALE = 560, 1.5


def png(figure: Figure, datasets: dict[str, list[dict[str, Any]]], of: str) -> bytes:
    """``figure`` over ``datasets``, with its menus as they start; the subtitle says those, what it is ``of``, and how
    to read it."""
    picked = {p["name"].removeprefix("pick_"): p["value"] for p in figure.spec["params"] if p["name"] != "hidden"}
    of = " · ".join([of, *(words(name, value) for name, value in picked.items() if value is not None)])
    spec = {
        **figure.spec,
        "datasets": datasets,
        "width": _WIDTH,
        "padding": 14,
        "title": {
            "text": figure.title,
            "subtitle": [of, *wrap(figure.caption, 100)],
            "subtitleColor": light("muted"),
            "offset": 12,
        },
    }
    drawn = Image.open(BytesIO(vl_convert.vegalite_to_png(spec, scale=_SCALE))).convert("RGB")
    small = BytesIO()
    drawn.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)  # a third of the size
    return small.getvalue()
