"""Logic, shifts and bit fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cxx import integer_type, register_type
from ..ptx import TYPE_BITS, Instruction
from .registry import BOOLEAN_OPERATORS, emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


@emits("and", "or", "xor")
def _logic(f: FunctionTranslator, ins: Instruction) -> str:
    a, b = (f.typed(ins.type, x) for x in ins.operands[1:])
    return f.assign(ins.operands[0], f"{a} {BOOLEAN_OPERATORS[ins.opcode]} {b}")


@emits("not")
def _not(f: FunctionTranslator, ins: Instruction) -> str:
    value = f.typed(ins.type, ins.operands[1])
    return f.assign(ins.operands[0], f"!{value}" if ins.type == "pred" else f"~({value})")


@emits("cnot")
def _logical_not(f: FunctionTranslator, ins: Instruction) -> str:
    return f.assign(ins.operands[0], f"{f.typed(ins.type, ins.operands[1])} == 0")


@emits("popc", "clz", "brev")
def _bit_count(f: FunctionTranslator, ins: Instruction) -> str:
    function = {"popc": "__builtin_popcountll", "clz": "count_leading_zeros", "brev": "reverse_bits"}[
        ins.opcode
    ]
    return f.assign(ins.operands[0], f"{function}({f.typed(ins.type, ins.operands[1])})")


@emits("bfind")
def _find_leading(f: FunctionTranslator, ins: Instruction) -> str:
    number = f"(int{TYPE_BITS[ins.type]}_t)" if ins.type.startswith("s") else ""
    shift = "true" if ins.has("shiftamt") else "false"
    template = integer_type(ins.type)
    return f.assign(
        ins.operands[0],
        f"find_leading_bit<{template}>({number}{f.typed(ins.type, ins.operands[1])}, {shift})",
    )


@emits("shl", "shr")
def _shift(f: FunctionTranslator, ins: Instruction) -> str:
    function = "shift_left" if ins.opcode == "shl" else "shift_right"
    type_name = ins.type if ins.type[0] in "su" else "u" + ins.type[1:]
    value, amount = f.integer(type_name, ins.operands[1]), f.typed("u32", ins.operands[2])
    return f.assign(ins.operands[0], f"{function}<{integer_type(type_name)}>({value}, {amount})")


@emits("shf")
def _funnel_shift(f: FunctionTranslator, ins: Instruction) -> str:
    function = "funnel_left" if ins.modifiers[0] == "l" else "funnel_right"
    arguments = ", ".join(f.typed("u32", x) for x in ins.operands[1:])
    return f.assign(ins.operands[0], f"{function}({arguments}, {'true' if ins.has('wrap') else 'false'})")


_BYTE_ORDERS = {
    "f4e": "forward_bytes",
    "b4e": "backward_bytes",
    "rc8": "replicated_byte",
    "ecl": "clamped_left",
    "ecr": "clamped_right",
    "rc16": "replicated_half",
}


@emits("prmt")
def _permute(f: FunctionTranslator, ins: Instruction) -> str:
    a, b, c = (f.typed("u32", x) for x in ins.operands[1:])
    if ins.modifiers != ["b32"]:
        c = f"{_BYTE_ORDERS[ins.pick(*_BYTE_ORDERS)]}({c})"
    return f.assign(ins.operands[0], f"permute_bytes({a}, {b}, {c})")


@emits("lop3")
def _logic3(f: FunctionTranslator, ins: Instruction) -> str:
    if "|" in ins.operands[0] or len(ins.operands) != 5:
        raise ins.unsupported()
    return f.assign(ins.operands[0], f"logic3({', '.join(f.typed('u32', x) for x in ins.operands[1:])})")


@emits("bfe")
def _extract(f: FunctionTranslator, ins: Instruction) -> str:
    a, position, length = ins.operands[1:]
    return f.assign(
        ins.operands[0],
        f"extract_bits<{integer_type(ins.type)}>({f.integer(ins.type, a)}, "
        f"{f.typed('u32', position)}, {f.typed('u32', length)})",
    )


@emits("bfi")
def _insert(f: FunctionTranslator, ins: Instruction) -> str:
    a, b, position, length = ins.operands[1:]
    return f.assign(
        ins.operands[0],
        f"insert_bits<{register_type(ins.type)}>({f.typed(ins.type, a)}, {f.typed(ins.type, b)}, "
        f"{f.typed('u32', position)}, {f.typed('u32', length)})",
    )


@emits("bmsk")
def _bit_mask(f: FunctionTranslator, ins: Instruction) -> str:
    position, length = (f.typed("u32", x) for x in ins.operands[1:])
    return f.assign(
        ins.operands[0], f"bit_mask({position}, {length}, {'true' if ins.has('wrap') else 'false'})"
    )


@emits("szext")
def _extend(f: FunctionTranslator, ins: Instruction) -> str:
    a, length = f.integer(ins.type, ins.operands[1]), f.typed("u32", ins.operands[2])
    length = f"{length} & 31" if ins.has("wrap") else f"std::min({length}, 32u)"
    return f.assign(ins.operands[0], f"extract_bits<{integer_type(ins.type)}>({a}, 0, {length})")
