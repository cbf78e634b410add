"""Comparisons and selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cxx import FLOAT_FORMATS, is_float, register_type
from ..ptx import Instruction
from .registry import BOOLEAN_OPERATORS, COMPARISONS, emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


def _comparison(f: FunctionTranslator, ins: Instruction, type_name: str) -> str:
    a, b = (f.decoded(ins, type_name, x) for x in ins.operands[1:3])
    if not is_float(type_name):
        return f"({a}) {COMPARISONS[ins.modifiers[0]]} ({b})"
    return _float_condition(ins.modifiers[0], a, b)


def _float_condition(compare: str, a: str, b: str) -> str:
    if compare == "num":
        return f"!unordered({a}, {b})"
    if compare == "nan":
        return f"unordered({a}, {b})"
    if compare.endswith("u") and compare[:-1] in COMPARISONS:
        return f"unordered({a}, {b}) || {a} {COMPARISONS[compare[:-1]]} {b}"
    return f"!unordered({a}, {b}) && {a} {COMPARISONS[compare]} {b}"


def _pair_comparison(f: FunctionTranslator, ins: Instruction, type_name: str) -> str:
    """Bit 0 for the low halves, bit 1 for the high ones."""
    a, b = (f.value(x) for x in ins.operands[1:3])
    condition = f"[](float a, float b) {{ return {_float_condition(ins.modifiers[0], 'a', 'b')}; }}"
    return f"compare_pairs<{FLOAT_FORMATS[type_name[:-2]]}>({condition}, {a}, {b})"


@emits("setp")
def _set_predicate(f: FunctionTranslator, ins: Instruction) -> str:
    combine = next((m for m in ins.modifiers[1:] if m in BOOLEAN_OPERATORS), None)
    other = f" {BOOLEAN_OPERATORS[combine]} {f.value(ins.operands[3])}" if combine else ""
    destinations = ins.operands[0].split("|")
    # Every source is read before a destination is written: they may be the same register.
    if ins.type.endswith("x2"):
        code = f"const uint32_t c = {_pair_comparison(f, ins, ins.type)}; "
        code += f"const bool first = (c & 1){other}, second = c >> 1{other}; "
    else:
        code = f"const bool c = {_comparison(f, ins, ins.type)}; "
        code += f"const bool first = c{other}, second = !c{other}; "
    code += f.assign(destinations[0], "first")
    if len(destinations) > 1:
        code += " " + f.assign(destinations[1], "second")
    return code + " (void)second;"


@emits("set")
def _set(f: FunctionTranslator, ins: Instruction) -> str:
    to, source_type = ins.types
    if len(ins.operands) != 3:
        raise ins.unsupported()
    if source_type.endswith("x2"):
        one = f"{FLOAT_FORMATS[to[:-2]]}::encode(1.0f)" if is_float(to) else "0xffff"
        return f.assign(ins.operands[0], f"pair_select({_pair_comparison(f, ins, source_type)}, {one})")
    condition = _comparison(f, ins, source_type)
    true = f"{FLOAT_FORMATS[to]}::encode(1.0f)" if is_float(to) else f"({register_type(to)})-1"
    return f.assign(ins.operands[0], f"{condition} ? {true} : 0")


@emits("selp")
def _select(f: FunctionTranslator, ins: Instruction) -> str:
    destination, a, b, predicate = ins.operands
    return f.assign(destination, f"{f.value(predicate)} ? {f.typed(ins.type, a)} : {f.typed(ins.type, b)}")


@emits("slct")
def _select_by_sign(f: FunctionTranslator, ins: Instruction) -> str:
    destination, a, b, c = ins.operands
    to, tested = ins.types
    return f.assign(destination, f"{f.decoded(ins, tested, c)} >= 0 ? {f.typed(to, a)} : {f.typed(to, b)}")


@emits("testp")
def _test_property(f: FunctionTranslator, ins: Instruction) -> str:
    value = f.decoded(ins, ins.type, ins.operands[1])
    tests = {
        "finite": f"std::isfinite({value})",
        "infinite": f"std::isinf({value})",
        "number": f"!std::isnan({value})",
        "notanumber": f"std::isnan({value})",
        "normal": f"std::isnormal({value})",
        "subnormal": f"std::fpclassify({value}) == FP_SUBNORMAL",
    }
    return f.assign(ins.operands[0], tests[ins.pick(*tests)])
