"""The table of emitters and the spellings that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..ptx import Instruction

if TYPE_CHECKING:
    from ..translate import FunctionTranslator

ROUNDING_MODES = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}
COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
BOOLEAN_OPERATORS = {"and": "&", "or": "|", "xor": "^"}

INTEGER_FUNCTORS = {
    "add": "integer_add",
    "min": "integer_min",
    "max": "integer_max",
    "and": "bit_and",
    "or": "bit_or",
    "xor": "bit_xor",
    "exch": "exchange",
    "inc": "increment",
    "dec": "decrement",
}

Emitter = Callable[["FunctionTranslator", Instruction], str]
EMITTERS: dict[str, Emitter] = {}


def emits(*opcodes: str) -> Callable[[Emitter], Emitter]:
    def register(emitter: Emitter) -> Emitter:
        for opcode in opcodes:
            EMITTERS[opcode] = emitter
        return emitter

    return register
