"""Moves and conversions between number formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cxx import FLOAT_FORMATS, float_format, integer_type, is_float, register_type
from ..ptx import TYPE_BITS, Instruction
from .registry import ROUNDING_MODES, emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


@emits("mov")
def _move(f: FunctionTranslator, ins: Instruction) -> str:
    destination, source = ins.operands
    bits = register_type(ins.type)
    if destination.startswith("{"):
        parts = f.vector(destination)
        width = TYPE_BITS[ins.type] // len(parts)
        moves = " ".join(f.assign(p, f"(uint{width}_t)(whole >> {i * width})") for i, p in enumerate(parts))
        return f"const {bits} whole = {f.value(source)}; {moves}"
    if source.startswith("{"):
        parts = f.vector(source)
        width = TYPE_BITS[ins.type] // len(parts)
        pieces = " | ".join(
            f"({bits})(uint{width}_t){f.value(p)} << {i * width}" for i, p in enumerate(parts)
        )
        return f.assign(destination, f"({bits})({pieces})")
    return f.assign(destination, f.typed(ins.type, source))


_ROUND_TO_INTEGER = ("rni", "rzi", "rmi", "rpi")


@emits("cvt")
def _convert(f: FunctionTranslator, ins: Instruction) -> str:
    if ins.has("pack"):
        return _convert_and_pack(f, ins)
    if len(ins.types) != 2 or ins.has("satfinite"):
        raise ins.unsupported()
    to, source_type = ins.types
    destination, source = ins.operands[:2]
    if to in ("f16x2", "bf16x2"):
        return _convert_pair(f, ins, to)
    if to == "tf32":
        function = {"rna": "round_away", "rn": "round_even"}[ins.pick("rna", "rn")]
        return f.assign(destination, f"TF32::{function}({f.value(source)})")
    number = f.decoded(ins, source_type, source)
    if is_float(to):
        return f.assign(destination, _to_float(ins, to, source_type, number))
    if is_float(source_type):
        rounding = next((m for m in ins.modifiers if m in _ROUND_TO_INTEGER), "rzi")
        return f.assign(destination, f"to_integer<{integer_type(to)}>(op::{rounding}()({number}))")
    if ins.has("sat"):
        return f.assign(destination, f"saturate_integer<{integer_type(to)}>({number})")
    return f.assign(destination, f"({integer_type(to)})({number})")


def _convert_pair(f: FunctionTranslator, ins: Instruction, to: str) -> str:
    if len(ins.operands) != 3:
        raise ins.unsupported()
    high, low = (f.value(x) for x in ins.operands[1:])
    if ins.has("rz"):
        packed = f"pack_directed<{FLOAT_FORMATS[to[:-2]]}>({ROUNDING_MODES['rz']}, {high}, {low})"
    else:
        packed = f"pack<{FLOAT_FORMATS[to[:-2]]}>({high}, {low})"
    if ins.has("relu"):
        packed = f"apply<{FLOAT_FORMATS[to]}>(op::relu(), {packed})"
    return f.assign(ins.operands[0], packed)


def _convert_and_pack(f: FunctionTranslator, ins: Instruction) -> str:
    """Saturates two integers into the low bits; for bytes, c fills the upper half."""
    to, source_type = ins.types[:2]
    width = TYPE_BITS[to]
    high, low = (
        f"(uint{width}_t)saturate_integer<{integer_type(to)}>({f.integer(source_type, x)})"
        for x in ins.operands[1:3]
    )
    rest = f" | (uint32_t){f.value(ins.operands[3])} << 16" if len(ins.operands) == 4 else ""
    return f.assign(ins.operands[0], f"(uint32_t){high} << {width} | {low}{rest}")


def _to_float(ins: Instruction, to: str, source_type: str, number: str) -> str:
    result = float_format(ins, to)
    directed = [m for m in ins.modifiers if m in ROUNDING_MODES]
    if directed and ins.has("sat", "relu"):
        raise ins.unsupported()
    if directed and TYPE_BITS[to] < 32:
        return f"encode_directed<{result}>({ROUNDING_MODES[directed[0]]}, {number})"
    if directed:
        return f"convert_rounded<{result}>({ROUNDING_MODES[directed[0]]}, {number})"
    if is_float(source_type):
        for rounding in _ROUND_TO_INTEGER:
            if ins.has(rounding):
                number = f"op::{rounding}()({number})"
        if ins.has("sat"):
            number = f"saturate({number})"
        if ins.has("relu"):
            number = f"relu({number})"
    return f"{result}::encode({number})"
