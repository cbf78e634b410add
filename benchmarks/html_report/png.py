"""A chart as PNG, drawn without a browser, on a light ground so that it can be read on any page."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import vl_convert
from PIL import Image

from .charts import Figure
from .theme import light

_WIDTH, _SCALE = 560, 1.5
#: A chart needs no more, and its file is a third as large.
_COLOURS = 128


def png(figure: Figure, datasets: dict[str, list[dict[str, Any]]], of: str) -> bytes:
    """``figure`` over ``datasets``; the title says what it is ``of``."""
    spec = {
        **figure.spec,
        "datasets": datasets,
        "width": _WIDTH,
        "padding": 14,
        "title": {"text": figure.title, "subtitle": of, "subtitleColor": light("muted"), "offset": 12},
    }
    drawn = Image.open(BytesIO(vl_convert.vegalite_to_png(spec, scale=_SCALE))).convert("RGB")
    small = BytesIO()
    drawn.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()
