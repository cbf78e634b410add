"""Loads, stores, atomics, cp.async and address conversions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cxx import FLOAT_FORMATS, integer_type, is_float, quoted, register_type
from ..ptx import TYPE_BITS, Instruction, type_bytes
from .registry import INTEGER_FUNCTORS, emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


_SPACES = ("global", "shared", "local", "const", "param")


def _space(ins: Instruction) -> str:
    if any(m.startswith("shared::cluster") for m in ins.modifiers) or ins.has("async", "bulk"):
        raise ins.unsupported()
    return next((m.split("::")[0] for m in ins.modifiers if m.split("::")[0] in _SPACES), "generic")


def _element_type(type_name: str) -> str:
    return register_type(type_name) if is_float(type_name) else integer_type(type_name)


@emits("ld", "ldu")
def _load(f: FunctionTranslator, ins: Instruction) -> str:
    destinations = f.vector(ins.operands[0])
    space, element, size = _space(ins), _element_type(ins.type), type_bytes(ins.type)
    if space == "param":
        places = [f.parameter_bytes_at(ins.operands[1], i * size) for i in range(len(destinations))]
        return " ".join(
            f.assign(d, f"load_parameter<{element}>({p})") for d, p in zip(destinations, places, strict=True)
        )
    address, label = f.address(ins.operands[1]), quoted(space + " load")
    if len(destinations) == 1 and ins.has("volatile", "relaxed", "acquire"):
        bits = register_type(ins.type)
        return f.assign(destinations[0], f"({element})load_synchronizing<{bits}>({address}, {label})")
    moves = " ".join(f.assign(d, f"v.element[{i}]") for i, d in enumerate(destinations))
    return f"const auto v = load<{element}, {len(destinations)}>({address}, {label}); {moves}"


@emits("st")
def _store(f: FunctionTranslator, ins: Instruction) -> str:
    sources = f.vector(ins.operands[1])
    space, bits, size = _space(ins), register_type(ins.type), type_bytes(ins.type)
    values = [f.typed(ins.type, s) for s in sources]
    if space == "param":
        places = [f.parameter_bytes_at(ins.operands[0], i * size) for i in range(len(values))]
        return " ".join(f"store_parameter<{bits}>({p}, {v});" for v, p in zip(values, places, strict=True))
    address, label = f.address(ins.operands[0]), quoted(space + " store")
    if len(values) == 1 and ins.has("volatile", "relaxed", "release"):
        return f"store_synchronizing<{bits}>({address}, {label}, {values[0]});"
    return f"store<{bits}>({address}, {label}, Site::here(), {', '.join(values)});"


@emits("atom", "red")
def _atomic(f: FunctionTranslator, ins: Instruction) -> str:
    _space(ins)
    operands = ins.operands if ins.opcode == "atom" else ["_", *ins.operands]
    if any(x.startswith("{") for x in operands) or ins.type == "b128":
        raise ins.unsupported()
    operation = ins.pick(*INTEGER_FUNCTORS, "cas")
    values = ", ".join(f.typed(ins.type, x) for x in operands[2:])
    arguments = f"{f.address(operands[1])}, {values}"
    arithmetic = is_float(ins.type) and operation in ("add", "min", "max")
    number = (
        FLOAT_FORMATS[ins.type]
        if arithmetic
        else integer_type("b" + str(TYPE_BITS[ins.type]) if is_float(ins.type) else ins.type)
    )
    if operation == "cas":
        return f.assign(operands[0], f"atomic_compare_and_swap<{number}>({arguments})")
    functor = operation if arithmetic else INTEGER_FUNCTORS[operation]
    return f.assign(operands[0], f"atomic<{number}>(op::{functor}(), {arguments})")


@emits("cp")
def _async_copy(f: FunctionTranslator, ins: Instruction) -> str:
    if not ins.has("async") or ins.has("bulk", "mbarrier"):
        raise ins.unsupported()
    if ins.has("commit_group"):
        return "async_commit();"
    if ins.has("wait_group"):
        return f"async_wait({f.value(ins.operands[0])});"
    if ins.has("wait_all"):
        return "async_commit(); async_wait(0);"
    destination, source, size, *rest = ins.operands
    source_bytes = size
    if rest and f.register_types.get(rest[0]) == "pred":
        source_bytes = f"{f.value(rest[0])} ? 0 : {size}"
    elif rest:
        source_bytes = f.value(rest[0])
    return f"async_copy<{size}>({f.address(destination)}, {f.address(source)}, {source_bytes});"


@emits("createpolicy")
def _cache_policy(f: FunctionTranslator, ins: Instruction) -> str:
    return f.assign(ins.operands[0], "0")


@emits("cvta")
def _convert_address(f: FunctionTranslator, ins: Instruction) -> str:
    return f.assign(ins.operands[0], f.value(ins.operands[1]))


@emits("isspacep")
def _is_space(f: FunctionTranslator, ins: Instruction) -> str:
    address = f"uint64_t({f.value(ins.operands[1])})"
    tests = {
        "shared": f"{address} >> 32 == 0",
        "global": f"{address} >= kDeviceBase",
        "const": "false",
        "local": f"{address} >> 32 != 0 && {address} < kDeviceBase",
    }
    return f.assign(ins.operands[0], tests[ins.pick(*tests)])
