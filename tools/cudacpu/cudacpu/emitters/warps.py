"""Warp collectives and tensor-core instructions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..cxx import FLOAT_FORMATS, integer_type, is_float
from ..ptx import Instruction
from .registry import INTEGER_FUNCTORS, emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


@emits("shfl")
def _shuffle(f: FunctionTranslator, ins: Instruction) -> str:
    destinations = ins.operands[0].split("|")
    mode = {"up": "kUp", "down": "kDown", "bfly": "kButterfly", "idx": "kIndex"}[
        ins.pick("up", "down", "bfly", "idx")
    ]
    value, b, c, mask = (f.value(x) for x in ins.operands[1:])
    code = f"bool inside; const uint32_t v = shuffle(Shuffle::{mode}, {value}, {b}, {c}, {mask}, inside); "
    code += f.assign(destinations[0], "v")
    return code + (" " + f.assign(destinations[1], "inside") if len(destinations) > 1 else "")


@emits("vote")
def _vote(f: FunctionTranslator, ins: Instruction) -> str:
    mode = ins.pick("all", "any", "uni", "ballot")
    return f.assign(ins.operands[0], f"vote_{mode}({f.value(ins.operands[1])}, {f.value(ins.operands[2])})")


@emits("redux")
def _warp_reduce(f: FunctionTranslator, ins: Instruction) -> str:
    if is_float(ins.type):
        raise ins.unsupported()
    functor = INTEGER_FUNCTORS[ins.pick("add", "min", "max", "and", "or", "xor")]
    value, mask = (f.value(x) for x in ins.operands[1:])
    return f.assign(ins.operands[0], f"warp_reduce<{integer_type(ins.type)}, op::{functor}>({value}, {mask})")


@emits("match")
def _match(f: FunctionTranslator, ins: Instruction) -> str:
    value, mask = f.typed(ins.type, ins.operands[1]), f.value(ins.operands[2])
    if ins.has("any"):
        return f.assign(ins.operands[0], f"match_any({value}, {mask})")
    destinations = ins.operands[0].split("|")
    code = f"const uint32_t m = {mask}; const bool all = match_any({value}, m) == m; "
    code += f.assign(destinations[0], "all ? m : 0")
    return code + (" " + f.assign(destinations[1], "all") if len(destinations) > 1 else "")


@emits("activemask")
def _active_mask(f: FunctionTranslator, ins: Instruction) -> str:
    return f.assign(ins.operands[0], "active_lanes()")


@emits("ldmatrix")
def _load_matrix(f: FunctionTranslator, ins: Instruction) -> str:
    if not ins.has("m8n8") or ins.type != "b16":
        raise ins.unsupported()
    destinations = f.vector(ins.operands[0])
    transposed = "true" if ins.has("trans") else "false"
    moves = " ".join(f.assign(d, f"m[{i}]") for i, d in enumerate(destinations))
    load = f"load_matrices<{len(destinations)}, {transposed}>(m, {f.address(ins.operands[1])});"
    return f"uint32_t m[4]; {load} {moves}"


_MMA_SHAPES = {
    ("m16n8k16", "f16"),
    ("m16n8k8", "f16"),
    ("m16n8k16", "bf16"),
    ("m16n8k8", "bf16"),
    ("m16n8k8", "tf32"),
    ("m16n8k4", "tf32"),
}


@emits("mma")
def _matrix_multiply(f: FunctionTranslator, ins: Instruction) -> str:
    shape = next((m for m in ins.modifiers if re.match(r"m\d+n\d+k\d+$", m)), "")
    if len(ins.types) != 4 or ins.has("sp"):
        raise ins.unsupported()
    d_type, a_type, b_type, c_type = ins.types
    accumulator_ok = d_type == c_type and (d_type == "f32" or (d_type, a_type) == ("f16", "f16"))
    if (shape, a_type) not in _MMA_SHAPES or a_type != b_type or not accumulator_ok:
        raise ins.unsupported()
    d, a, b, c = (f.vector(x) for x in ins.operands)
    a_list, b_list, c_list = (", ".join(f.typed("b32", x) for x in v) for v in (a, b, c))
    k = shape.partition("k")[2]
    moves = " ".join(f.assign(x, f"d[{i}]") for i, x in enumerate(d))
    return (
        f"uint32_t d[{len(d)}]; Mma<{k}, {FLOAT_FORMATS[a_type]}, {FLOAT_FORMATS[d_type]}>::run("
        f"d, {{{a_list}}}, {{{b_list}}}, {{{c_list}}}); {moves}"
    )
