"""One emitter for each family of PTX instructions: it returns the C++ statements that do the same.

The operations are templates in runtime/device/; an emitter picks the template, its types and its
operands. An instruction, or a form of one, that no emitter knows raises UnsupportedPtx.
"""

from . import arithmetic, bits, comparisons, control, memory, moves, warps
from .registry import EMITTERS

__all__ = ["EMITTERS", "arithmetic", "bits", "comparisons", "control", "memory", "moves", "warps"]
