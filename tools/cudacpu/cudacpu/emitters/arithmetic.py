"""Integer and floating-point arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cxx import FLOAT_FORMATS, float_format, integer_type, is_float, register_type
from ..ptx import TYPE_BITS, Instruction
from .registry import INTEGER_FUNCTORS, ROUNDING_MODES, emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


@emits("add", "sub", "mul", "div", "min", "max")
def _binary(f: FunctionTranslator, ins: Instruction) -> str:
    if is_float(ins.type):
        return _float_arithmetic(f, ins, ins.opcode)
    if ins.has("cc"):
        return _with_carry(f, ins, f.typed(ins.type, ins.operands[1]), f.typed(ins.type, ins.operands[2]))
    if ins.has("relu"):
        raise ins.unsupported()
    if ins.type.endswith("x2"):
        functor, element = INTEGER_FUNCTORS[ins.opcode], integer_type(ins.type[:-2])
        a, b = (f.value(x) for x in ins.operands[1:])
        return f.assign(ins.operands[0], f"apply_pairs<{element}>(op::{functor}(), {a}, {b})")
    a, b = (f.integer(ins.type, x) for x in ins.operands[1:])
    number, bits = integer_type(ins.type), register_type(ins.type)
    if ins.has("sat"):
        return f.assign(
            ins.operands[0],
            f"saturate_integer<{number}>((__int128){a} {'+' if ins.opcode == 'add' else '-'} {b})",
        )
    if ins.opcode == "mul":
        return f.assign(ins.operands[0], _product(f, ins))
    if ins.opcode == "div":
        return f.assign(ins.operands[0], f"divide<{number}>({a}, {b})")
    if ins.opcode in ("min", "max"):
        return f.assign(ins.operands[0], f"std::{ins.opcode}<{number}>({a}, {b})")
    operator = {"add": "+", "sub": "-"}[ins.opcode]
    return f.assign(
        ins.operands[0],
        f"({bits})({f.typed(ins.type, ins.operands[1])} {operator} {f.typed(ins.type, ins.operands[2])})",
    )


def _product(f: FunctionTranslator, ins: Instruction) -> str:
    """mul and the product in mad: .lo, .hi or .wide."""
    number, bits = integer_type(ins.type), register_type(ins.type)
    a, b = (f.integer(ins.type, x) for x in ins.operands[1:3])
    if ins.has("wide"):
        wide = f"{ins.type[0]}{TYPE_BITS[ins.type] * 2}"
        return f"({register_type(wide)})(({integer_type(wide)}){a} * ({integer_type(wide)}){b})"
    if ins.has("hi"):
        return f"({bits})multiply_high<{number}>({a}, {b})"
    return f"({bits})((uint64_t){a} * (uint64_t){b})"


@emits("mad")
def _multiply_add(f: FunctionTranslator, ins: Instruction) -> str:
    if is_float(ins.type):
        return _float_arithmetic(f, ins, "fma")
    if ins.has("sat"):
        raise ins.unsupported()
    if ins.has("cc"):
        return _with_carry(f, ins, _product(f, ins), f.typed(ins.type, ins.operands[3]))
    width = TYPE_BITS[ins.type] * (2 if ins.has("wide") else 1)
    return f.assign(
        ins.operands[0], f"(uint{width}_t)({_product(f, ins)} + (uint{width}_t){f.value(ins.operands[3])})"
    )


@emits("addc", "subc")
def _add_with_carry(f: FunctionTranslator, ins: Instruction) -> str:
    return _with_carry(f, ins, f.typed(ins.type, ins.operands[1]), f.typed(ins.type, ins.operands[2]))


@emits("madc")
def _multiply_add_with_carry(f: FunctionTranslator, ins: Instruction) -> str:
    return _with_carry(f, ins, _product(f, ins), f.typed(ins.type, ins.operands[3]))


def _with_carry(f: FunctionTranslator, ins: Instruction, a: str, b: str) -> str:
    """`carry` is PTX's condition-code register; .cc writes it, addc and the like read it."""
    function = "subtract_with_borrow" if ins.opcode.startswith("sub") else "add_with_carry"
    carry_in = "carry" if ins.opcode in ("addc", "subc", "madc") else "false"
    result = f.assign(ins.operands[0], f"{function}<{register_type(ins.type)}>({a}, {b}, {carry_in}, out)")
    return f"bool out; {result}" + (" carry = out;" if ins.has("cc") else "")


@emits("mul24", "mad24")
def _multiply24(f: FunctionTranslator, ins: Instruction) -> str:
    if ins.has("sat"):
        raise ins.unsupported()
    a, b, *c = (f.integer(ins.type, x) for x in ins.operands[1:])
    product = f"multiply24<{integer_type(ins.type)}>({a}, {b}, {'true' if ins.has('hi') else 'false'})"
    return f.assign(ins.operands[0], f"(uint32_t){product} + (uint32_t){c[0]}" if c else product)


@emits("rem")
def _remainder(f: FunctionTranslator, ins: Instruction) -> str:
    a, b = (f.integer(ins.type, x) for x in ins.operands[1:])
    return f.assign(ins.operands[0], f"remainder<{integer_type(ins.type)}>({a}, {b})")


@emits("abs", "neg")
def _sign(f: FunctionTranslator, ins: Instruction) -> str:
    value, bits = f.typed(ins.type, ins.operands[1]), register_type(ins.type)
    if is_float(ins.type):
        function = "absolute" if ins.opcode == "abs" else "negate"
        code = f"{function}<{FLOAT_FORMATS[ins.type]}>({value})"
        return f.assign(
            ins.operands[0], f"F32Ftz::flush({code})" if ins.type == "f32" and ins.has("ftz") else code
        )
    negative = f"({bits})(0 - {value})"
    if ins.opcode == "neg":
        return f.assign(ins.operands[0], negative)
    return f.assign(ins.operands[0], f"{f.integer(ins.type, ins.operands[1])} < 0 ? {negative} : {value}")


@emits("fma", "sqrt", "rsqrt", "rcp", "ex2", "lg2", "sin", "cos", "tanh")
def _float_instruction(f: FunctionTranslator, ins: Instruction) -> str:
    return _float_arithmetic(f, ins, ins.opcode)


def _float_arithmetic(f: FunctionTranslator, ins: Instruction, operation: str) -> str:
    if ins.has("xorsign", "oob") or (operation in ("min", "max") and len(ins.operands) != 3):
        raise ins.unsupported()
    number = float_format(ins, ins.type)
    arguments = ", ".join(f.typed(ins.type, x) for x in ins.operands[1:])
    directed = [m for m in ins.modifiers if m in ROUNDING_MODES]
    if directed:
        if TYPE_BITS[ins.type] < 32 or operation not in ("add", "sub", "mul", "fma", "div", "sqrt", "rcp"):
            raise ins.unsupported()
        functor = "FusedMultiplyAdd" if operation == "fma" else f"op::{operation}"
        result = f"apply_rounded<{number}>({ROUNDING_MODES[directed[0]]}, {functor}(), {arguments})"
    elif operation == "fma":
        result = f"fused_multiply_add<{number}>({arguments})"
    else:
        functor = operation + ("_nan" if ins.has("NaN") else "")
        result = f"apply<{number}>(op::{functor}(), {arguments})"
    for clamp in ("sat", "relu"):
        if ins.has(clamp):
            result = f"apply<{number}>(op::{clamp}(), {result})"
    return f.assign(ins.operands[0], result)


@emits("copysign")
def _copy_sign(f: FunctionTranslator, ins: Instruction) -> str:
    sign, magnitude = (f.typed(ins.type, x) for x in ins.operands[1:])
    mask = f"sign_mask<{FLOAT_FORMATS[ins.type]}>()"
    return f.assign(ins.operands[0], f"({sign} & {mask}) | ({magnitude} & ~{mask})")


@emits("dp4a")
def _dot_product(f: FunctionTranslator, ins: Instruction) -> str:
    a_type, b_type = ("int8_t" if t.startswith("s") else "uint8_t" for t in ins.types)
    return f.assign(
        ins.operands[0],
        f"dot_product4<{a_type}, {b_type}>({', '.join(f.typed('u32', x) for x in ins.operands[1:])})",
    )


@emits("dp2a")
def _dot_product2(f: FunctionTranslator, ins: Instruction) -> str:
    a_type = "int16_t" if ins.types[0].startswith("s") else "uint16_t"
    b_type = "int8_t" if ins.types[1].startswith("s") else "uint8_t"
    arguments = ", ".join(f.typed("u32", x) for x in ins.operands[1:])
    high = "true" if ins.has("hi") else "false"
    return f.assign(ins.operands[0], f"dot_product2<{a_type}, {b_type}>({arguments}, {high})")


@emits("sad")
def _sum_of_differences(f: FunctionTranslator, ins: Instruction) -> str:
    arguments = ", ".join(f.integer(ins.type, x) for x in ins.operands[1:])
    return f.assign(ins.operands[0], f"sum_absolute_difference<{integer_type(ins.type)}>({arguments})")
