"""Parser for PTX as nvcc writes it: module variables, functions, and their statements."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

TYPE_BITS: dict[str, int] = {
    "pred": 1,
    "b8": 8,
    "u8": 8,
    "s8": 8,
    "b16": 16,
    "u16": 16,
    "s16": 16,
    "f16": 16,
    "bf16": 16,
    "b32": 32,
    "u32": 32,
    "s32": 32,
    "f32": 32,
    "f16x2": 32,
    "bf16x2": 32,
    "tf32": 32,
    "u16x2": 32,
    "s16x2": 32,
    "b64": 64,
    "u64": 64,
    "s64": 64,
    "f64": 64,
    "b128": 128,
}


class UnsupportedPtx(Exception):
    """A statement that this translator does not know."""


def type_bytes(type_name: str) -> int:
    return max(1, TYPE_BITS[type_name] // 8)


@dataclass
class Variable:
    """A module variable, a shared or local array, a parameter or a .param buffer."""

    name: str
    type: str
    count: int | None  # None: an array of unknown size (dynamic shared memory)
    alignment: int
    space: str = ""
    initial: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return type_bytes(self.type) * (self.count or 0)


@dataclass
class Registers:
    type: str
    names: list[str]


@dataclass
class Label:
    name: str


@dataclass
class Scope:
    brace: str


@dataclass
class Location:
    file: str
    line: int


@dataclass
class BranchTargets:
    label: str
    targets: list[str]


@dataclass
class Instruction:
    text: str
    opcode: str
    modifiers: list[str]
    operands: list[str]
    predicate: str | None = None
    negated: bool = False

    @property
    def types(self) -> list[str]:
        return [m for m in self.modifiers if m in TYPE_BITS]

    @property
    def type(self) -> str:
        if not self.types:
            raise UnsupportedPtx(self.text)
        return self.types[-1]

    def has(self, *modifiers: str) -> bool:
        return any(m in self.modifiers for m in modifiers)

    def pick(self, *modifiers: str) -> str:
        """The one modifier out of `modifiers` that the instruction has."""
        for modifier in self.modifiers:
            if modifier in modifiers:
                return modifier
        raise UnsupportedPtx(self.text)

    def unsupported(self) -> UnsupportedPtx:
        return UnsupportedPtx(self.text)


Statement = Registers | Variable | Label | Scope | Location | BranchTargets | Instruction


@dataclass
class Function:
    name: str
    is_entry: bool
    parameters: list[Variable]
    returns: list[Variable]
    body: str
    max_threads: int = 0

    def mentions(self, name: str) -> bool:
        return re.search(r"(?<![\w$])" + re.escape(name) + r"(?![\w$])", self.body) is not None


@dataclass
class Module:
    variables: list[Variable]
    functions: list[Function]
    files: dict[str, str]


_VARIABLE = re.compile(
    r"\.(?P<space>global|const|shared|local|param)\s+"
    r"(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?"
    r"(?P<name>[\w$]+)(?P<array>\[(?P<count>\d*)\])?\s*(?:=\s*(?P<initial>.+))?$",
    re.DOTALL,
)
_REGISTERS = re.compile(r"\.reg\s*\.(\w+)\s+(.*)$", re.DOTALL)
_LOCATION = re.compile(r"(?:\.loc|inlined_at)\s+(\d+)\s+(\d+)")
_TOOLKIT_FILE = re.compile(r"/targets/[^/]+/include/")
_LABEL = re.compile(r"([$\w]+):(?!:)")
_GUARD = re.compile(r"@(!?)(%?[\w$]+)\s+(.*)$", re.DOTALL)
_FUNCTION = re.compile(
    r"\.(?P<kind>entry|func)\s*(?:\((?P<returns>[^)]*)\))?\s*(?P<name>[\w$]+)\s*"
    r"\((?P<parameters>[^)]*)\)(?P<directives>[^{};]*)(?P<end>[{;])"
)
_IGNORED_DIRECTIVES = (".pragma", ".file", ".section", ".callprototype")


def split_operands(text: str) -> list[str]:
    """Splits at commas outside brackets."""
    parts, depth, current = [], 0, ""
    for c in text:
        depth += (c in "{[(") - (c in "}])")
        if c == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += c
    if current.strip():
        parts.append(current.strip())
    return parts


def parse_variable(text: str) -> Variable:
    m = _VARIABLE.match(text.strip())
    if not m or m["type"] not in TYPE_BITS:
        raise UnsupportedPtx(text)
    count = 1 if m["array"] is None else int(m["count"]) if m["count"] else None
    initial = split_operands((m["initial"] or "").strip().strip("{}"))
    alignment = int(m["align"] or type_bytes(m["type"]))
    return Variable(m["name"], m["type"], count, alignment, m["space"], initial)


def parse_parameters(text: str | None) -> list[Variable]:
    return [parse_variable(p) for p in split_operands(text or "")]


def _parse_registers(type_name: str, text: str) -> Registers:
    names: list[str] = []
    for item in text.split(","):
        item = item.strip()
        numbered = re.match(r"(.+)<(\d+)>$", item)
        if numbered:
            names += [numbered[1] + str(i) for i in range(int(numbered[2]))]
        else:
            names.append(item)
    return Registers(type_name, names)


def _parse_location(text: str, files: dict[str, str]) -> Location | None:
    """The innermost place outside the toolkit's headers, or None to keep the previous one."""
    for file, line in _LOCATION.findall(text):
        if file in files and not _TOOLKIT_FILE.search(files[file]):
            return Location(files[file], int(line))
    return None


def _parse_instruction(text: str) -> Instruction:
    predicate, negated = None, False
    guard = _GUARD.match(text)
    if guard:
        negated, predicate, text = bool(guard[1]), guard[2], guard[3]
    head, _, operands = text.partition(" ")
    opcode, *modifiers = head.split(".")
    return Instruction(text, opcode, modifiers, split_operands(operands), predicate, negated)


def parse_statement(text: str, files: dict[str, str]) -> Statement | None:
    """One statement without its semicolon, with single spaces; None for what has no effect."""
    if not text.startswith("."):
        return _parse_instruction(text)
    registers = _REGISTERS.match(text)
    if registers:
        return _parse_registers(registers[1], registers[2])
    if text.startswith(".loc "):
        return _parse_location(text, files)
    if text.split()[0] in _IGNORED_DIRECTIVES:
        return None
    return parse_variable(text)


def statements(body: str, files: dict[str, str]):
    """Yields the statements of a function body."""
    i, last_label = 0, ""
    while i < len(body):
        if body[i].isspace():
            i += 1
            continue
        if body[i] in "{}":
            yield Scope(body[i])
            i += 1
            continue
        label = _LABEL.match(body, i)
        if label:
            last_label = label[1]
            yield Label(last_label)
            i = label.end()
            continue
        end = body.index(";", i)
        text = " ".join(body[i:end].split())
        i = end + 1
        if text.startswith(".branchtargets"):
            yield BranchTargets(last_label, split_operands(text.partition(" ")[2]))
        elif text:
            statement = parse_statement(text, files)
            if statement is not None:
                yield statement


def _matching_brace(text: str, start: int) -> int:
    """Index just after the brace that closes the one before `start`."""
    depth, i = 1, start
    while depth:
        depth += (text[i] == "{") - (text[i] == "}")
        i += 1
    return i


def _clean(source: str) -> str:
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    source = re.sub(r"//[^\n]*", "", source)
    # .loc and .file are the only statements that end at the line's end.
    return re.sub(r"(?m)^(\s*\.loc\s[^\n;]*)$", r"\1;", source)


def parse_module(source: str) -> Module:
    source = _clean(source)
    files = dict(re.findall(r'(?m)^\s*\.file\s+(\d+)\s+"([^"]+)"', source))
    source = re.split(r"(?m)^\s*\.section\s", source)[0]
    functions: list[Function] = []
    outside: list[str] = []
    position = 0
    for m in _FUNCTION.finditer(source):
        if m.start() < position:
            continue
        outside.append(source[position : m.start()])
        position = m.end()
        if m["end"] == ";":
            continue
        position = _matching_brace(source, m.end())
        limit = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", m["directives"])
        max_threads = 1 if limit else 0
        for factor in limit.groups() if limit else ():
            max_threads *= int(factor or 1)
        functions.append(
            Function(
                m["name"],
                m["kind"] == "entry",
                parse_parameters(m["parameters"]),
                parse_parameters(m["returns"]),
                source[m.end() : position - 1],
                max_threads,
            )
        )
    outside.append(source[position:])
    variables = []
    for declaration in "".join(outside).split(";"):
        m = re.search(r"\.(global|const|shared)\s.*", declaration, re.DOTALL)
        # A variable of an unknown kind, such as a texture, only matters to kernels that name it.
        with contextlib.suppress(UnsupportedPtx):
            if m:
                variables.append(parse_variable(m[0].strip()))
    return Module(variables, functions, files)
