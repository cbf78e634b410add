"""Branches, calls, barriers and fences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cxx import identifier
from ..ptx import Instruction
from .registry import emits

if TYPE_CHECKING:
    from ..translate import FunctionTranslator


@emits("bra")
def _branch(f: FunctionTranslator, ins: Instruction) -> str:
    return f"goto label_{identifier(ins.operands[0])};"


@emits("brx")
def _indexed_branch(f: FunctionTranslator, ins: Instruction) -> str:
    targets = f.branch_targets[ins.operands[1]]
    cases = " ".join(f"case {i}: goto label_{identifier(t)};" for i, t in enumerate(targets))
    return f"switch ({f.value(ins.operands[0])}) {{ {cases} }} __builtin_unreachable();"


@emits("ret", "exit")
def _return(f: FunctionTranslator, ins: Instruction) -> str:
    if ins.opcode == "exit" and not f.function.is_entry:
        raise ins.unsupported()
    return "return;"


@emits("trap", "brkpt")
def _trap(f: FunctionTranslator, ins: Instruction) -> str:
    return 'fail(kLaunchFailure, "trap instruction", Site::here());'


@emits("call")
def _call(f: FunctionTranslator, ins: Instruction) -> str:
    operands = list(ins.operands)
    returns = operands.pop(0) if operands[0].startswith("(") else "()"
    target = operands.pop(0)
    arguments = operands.pop(0) if operands else "()"
    buffers = [x.strip() for x in returns[1:-1].split(",") + arguments[1:-1].split(",") if x.strip()]
    if target == "__assertfail":
        message = f"load_parameter<const char*>({f.byte_buffers[buffers[0]]})"
        return f'fail(kAssert, (std::string("device assertion failed: ") + {message}).c_str(), Site::here());'
    if target == "vprintf":
        result, form, values = (f.byte_buffers[b] for b in buffers)
        return (
            f"store_parameter<uint32_t>({result}, device_printf(load_parameter<uint64_t>({form}), "
            f"load_parameter<uint64_t>({values})));"
        )
    if target not in f.functions:
        raise ins.unsupported()
    return f"function_{identifier(target)}({', '.join(f.byte_buffers[b] for b in buffers)});"


@emits("bar", "barrier")
def _barrier(f: FunctionTranslator, ins: Instruction) -> str:
    if ins.has("cluster"):
        raise ins.unsupported()
    operands = [f.value(x) for x in ins.operands]
    if ins.has("warp"):
        return f"warp_sync({operands[0]});"
    if ins.has("red"):
        kind = {"popc": "kPopc", "and": "kAnd", "or": "kOr"}[ins.pick("popc", "and", "or")]
        count = operands[2] if len(operands) == 4 else "kWholeBlock"
        return f.assign(
            ins.operands[0], f"barrier_reduce(Reduction::{kind}, {operands[1]}, {count}, {operands[-1]})"
        )
    call = "barrier_arrive" if ins.has("arrive") else "barrier"
    return f"{call}({operands[0]}, {operands[1] if len(operands) > 1 else 'kWholeBlock'});"


@emits("membar", "fence")
def _fence(f: FunctionTranslator, ins: Instruction) -> str:
    if ins.has("proxy", "mbarrier_init"):
        raise ins.unsupported()
    return "__atomic_thread_fence(__ATOMIC_SEQ_CST);"


@emits("prefetch", "prefetchu", "discard", "applypriority", "griddepcontrol", "pmevent", "setmaxnreg")
def _no_effect(f: FunctionTranslator, ins: Instruction) -> str:
    return ""


@emits("nanosleep")
def _sleep(f: FunctionTranslator, ins: Instruction) -> str:
    return "spin(Site::here());"
