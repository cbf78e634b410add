"""What the translator adds for counting builds: classes of instructions, and where in its loops an access is.

The macros COUNT and AT are empty in all other builds (runtime/device/access.h).
"""

from __future__ import annotations

from collections.abc import Sequence

from . import ptx
from .counts import CLASSES
from .cxx import identifier, is_float
from .ptx import Instruction

_ACCESSES = ("ld", "ldu", "st", "atom", "red", "cp", "ldmatrix")
_ARITHMETIC_BY_TYPE = (
    "add",
    "sub",
    "mul",
    "min",
    "max",
    "neg",
    "abs",
    "setp",
    "set",
    "div",
    "rcp",
    "sqrt",
    "rsqrt",
)
_FIXED = {
    "mma": "mma",
    "mov": "move",
    "cvta": "move",
    "ld": "load",
    "ldu": "load",
    "cp": "load",
    "ldmatrix": "load",
    "st": "store",
    "atom": "store",
    "red": "store",
    "bar": "barrier",
    "barrier": "barrier",
    "membar": "barrier",
    "fence": "barrier",
    "ex2": "float",
    "lg2": "float",
    "sin": "float",
    "cos": "float",
    "tanh": "float",
    **dict.fromkeys(("bra", "brx", "ret", "exit", "call", "trap"), "control"),
}


def class_of(ins: Instruction) -> str:
    """One of CLASSES."""
    if ins.opcode in ("ld", "st") and "param" in ins.modifiers:
        return "move"  # a register or the constant bank
    if ins.opcode in _FIXED:
        return _FIXED[ins.opcode]
    types = [m for m in ins.modifiers if m in ptx.TYPE_BITS]
    if ins.opcode == "cvt":
        return "convert" if any(map(is_float, types)) else "integer"
    if types and is_float(types[-1]):
        if types[-1] in ("f16x2", "bf16x2"):
            return "packed"
        if ins.opcode in ("fma", "mad"):
            return "fma"
        if ins.opcode in _ARITHMETIC_BY_TYPE:
            return "float"
    return "integer"


class Counting:
    """The additions to one function."""

    def __init__(self, statements: Sequence[ptx.Statement], name: str):
        self.name = identifier(name)
        self.blocks: list[dict[str, int]] = []
        self.loops = _loops(statements)
        self.open_block = False
        self.accesses = 0

    def declarations(self) -> str:
        return "".join(
            f"  [[maybe_unused]] uint32_t iteration_{identifier(label)} = 0;\n" for label in self.loops
        )

    def rows(self) -> str:
        """The instructions of each basic block, by class."""
        rows = ", ".join("{" + ", ".join(str(b.get(c, 0)) for c in CLASSES) + "}" for b in self.blocks)
        count = len(CLASSES)
        return (
            f"[[maybe_unused]] static const uint32_t counted_{self.name}[][{count}] = {{{rows or '{}'}}};\n"
        )

    def before_label(self, label: str) -> str:
        """Code that runs where control falls into a label."""
        self.open_block = False
        return f"iteration_{identifier(label)} = 0; " if label in self.loops else ""

    def before(self, ins: Instruction, position: int) -> tuple[str, str]:
        """Code for the start of a basic block, and code in front of the instruction, under its predicate."""
        block = ""
        if not self.open_block:
            block = f"  COUNT(counted_{self.name}[{len(self.blocks)}]);"
            self.blocks.append({})
        counts = self.blocks[-1]
        counts[class_of(ins)] = counts.get(class_of(ins), 0) + 1
        self.open_block = class_of(ins) != "control"
        if ins.opcode == "bra" and ins.operands[0] in self.loops:
            start, _ = self.loops[ins.operands[0]]
            iteration = f"iteration_{identifier(ins.operands[0])}"
            return block, f"++{iteration}; " if start < position else f"{iteration} = 0; "
        if ins.opcode in _ACCESSES and "param" not in ins.modifiers:
            self.accesses += 1
            around = [label for label, (start, end) in self.loops.items() if start < position <= end]
            iterations = "".join(f", iteration_{identifier(label)}" for label in around)
            return block, f"AT(&counted_{self.name}, {self.accesses}{iterations}); "
        return block, ""


def _loops(statements: Sequence[ptx.Statement]) -> dict[str, tuple[int, int]]:
    """Labels that a later branch goes back to, with the positions of the label and of the last such one."""
    labels = {s.name: i for i, s in enumerate(statements) if isinstance(s, ptx.Label)}
    loops: dict[str, tuple[int, int]] = {}
    for i, statement in enumerate(statements):
        if isinstance(statement, Instruction) and statement.opcode == "bra":
            start = labels.get(statement.operands[0], i)
            if start < i:
                loops[statement.operands[0]] = (start, i)
    return loops
