"""Translates PTX to C++ that runs on the fibers of runtime/scheduler/scheduler.h.

Every PTX register becomes an unsigned integer variable of its width (bool for predicates), every
label a C++ label, and every instruction one block of statements (emitters/). #line directives
carry the .cu lines along. A kernel with an instruction that has no emitter is still listed in the
module's table, with the reason why it cannot be launched.
"""

from __future__ import annotations

import re

from . import ptx
from .counting import Counting
from .cxx import (
    SPECIAL_REGISTERS,
    SPECIAL_VECTORS,
    float_format,
    identifier,
    integer_type,
    is_float,
    literal,
    quoted,
    register_type,
)
from .emitters import EMITTERS
from .ptx import Instruction, UnsupportedPtx, Variable

PROLOGUE = """  [[maybe_unused]] const Dim3 thread = thread_index(), block = block_index();
  [[maybe_unused]] const Dim3 block_size = block_dim(), grid_size = grid_dim();
  [[maybe_unused]] const uint32_t lane = lane_index(), warp = warp_index();
  [[maybe_unused]] bool carry = false;
"""


class FunctionTranslator:
    """Translates one .entry or .func and collects what its table entry needs."""

    def __init__(self, function: ptx.Function, module: ptx.Module, functions: set[str]):
        self.function = function
        self.module = module
        self.functions = functions
        self.register_types: dict[str, str] = {}
        self.symbols: dict[str, str] = {}  # addressable names and their C++ address expressions
        self.byte_buffers: dict[str, str] = {}  # parameters and .param buffers as byte pointers
        self.parameters: list[tuple[int, int]] = []
        self.parameter_bytes = 0
        self.shared: list[Variable] = []
        self.local_bytes = 0
        self.branch_targets: dict[str, list[str]] = {}
        self.lines: list[str] = []
        self.counting = Counting([], function.name)

    # ---- structure ----

    def translate(self) -> str:
        self._declare_parameters()
        prologue = PROLOGUE + self._declare_module_variables()
        parsed = list(ptx.statements(self.function.body, self.module.files))
        for statement in parsed:
            if isinstance(statement, ptx.BranchTargets):
                self.branch_targets[statement.label] = statement.targets
            if isinstance(statement, Variable) and statement.space == "shared":
                self.shared.append(statement)
                prologue += self._shared_symbol(statement)
        self.counting = Counting(parsed, self.function.name)
        prologue += self.counting.declarations()
        for position, statement in enumerate(parsed):
            self._statement(statement, position)
        keys = "".join(f"static const char key_{identifier(v.name)} = 0;\n" for v in self.shared)
        return f"{keys}{self.counting.rows()}{self.signature()} {{\n{prologue}{self._joined_lines()}\n}}\n"

    def _joined_lines(self) -> str:
        """All code between two #line directives on one line: the compiler would count further."""
        return "".join(f"\n{line}\n" if line.startswith("#line") else line + " " for line in self.lines)

    def signature(self) -> str:
        name = identifier(self.function.name)
        if self.function.is_entry:
            return f"static void entry_{name}([[maybe_unused]] const unsigned char* parameters)"
        buffers = self.function.returns + self.function.parameters
        arguments = ", ".join(f"[[maybe_unused]] unsigned char* param_{identifier(p.name)}" for p in buffers)
        return f"static void function_{name}({arguments})"

    def _declare_parameters(self) -> None:
        offset = 0
        for p in self.function.parameters:
            if self.function.is_entry:
                offset = -(-offset // p.alignment) * p.alignment
                self.byte_buffers[p.name] = f"(parameters + {offset})"
                self.parameters.append((offset, p.bytes))
                offset += p.bytes
        self.parameter_bytes = offset
        if not self.function.is_entry:
            for p in self.function.parameters + self.function.returns:
                self.byte_buffers[p.name] = f"param_{identifier(p.name)}"
        for name, buffer in self.byte_buffers.items():
            self.symbols[name] = f"reinterpret_cast<uint64_t>({buffer})"

    def _shared_symbol(self, v: Variable) -> str:
        name = identifier(v.name)
        self.symbols[v.name] = f"symbol_{name}"
        return f"  const uint64_t symbol_{name} = shared_object(&key_{name});\n"

    def _declare_module_variables(self) -> str:
        prologue = ""
        for v in self.module.variables:
            if v.space != "shared":
                self.symbols[v.name] = f"address_{identifier(v.name)}"
            elif self.function.mentions(v.name) and v.count is None:
                self.symbols[v.name] = f"symbol_{identifier(v.name)}"
                prologue += f"  const uint64_t symbol_{identifier(v.name)} = dynamic_shared_base();\n"
            elif self.function.mentions(v.name):
                prologue += self._shared_symbol(v)
        return prologue

    def _statement(self, statement: ptx.Statement, position: int) -> None:
        match statement:
            case ptx.Scope(brace):
                self.lines.append(brace)
            case ptx.Label(name):
                if name not in self.branch_targets:
                    self.lines.append(f"{self.counting.before_label(name)}label_{identifier(name)}:;")
            case ptx.Location(file, line):
                self.lines.append(f"#line {line} {quoted(file)}")
            case ptx.Registers(type_name, names):
                self._registers(type_name, names)
            case Variable():
                self._variable(statement)
            case Instruction():
                self._instruction(statement, position)

    def _registers(self, type_name: str, names: list[str]) -> None:
        for name in names:
            self.register_types[name] = type_name
        for i in range(0, len(names), 16):
            group = ", ".join(self.register(name) for name in names[i : i + 16])
            self.lines.append(f"  [[maybe_unused]] {register_type(type_name)} {group};")

    def _variable(self, v: Variable) -> None:
        if v.space == "shared":
            return
        name = identifier(v.name)
        prefix = "local" if v.space == "local" else "param"
        self.lines.append(f"  alignas(16) unsigned char {prefix}_{name}[{max(v.bytes, 1)}];")
        self.symbols[v.name] = f"reinterpret_cast<uint64_t>({prefix}_{name})"
        if v.space == "local":
            self.local_bytes += v.bytes
        else:
            self.byte_buffers[v.name] = f"{prefix}_{name}"

    def _instruction(self, ins: Instruction, position: int) -> None:
        emitter = EMITTERS.get(ins.opcode)
        if emitter is None:
            raise ins.unsupported()
        try:
            code = emitter(self, ins)
        except (IndexError, KeyError, ValueError) as error:  # an operand form no emitter expects
            raise ins.unsupported() from error
        block, ahead = self.counting.before(ins, position)
        code = ahead + code
        if block:
            self.lines.append(block)
        if ins.predicate:
            condition = ("!" if ins.negated else "") + self.register(ins.predicate)
            self.lines.append(f"  if ({condition}) {{ {code} }}")
        else:
            self.lines.append(f"  {{ {code} }}")

    # ---- operands ----

    def register(self, name: str) -> str:
        return "r_" + identifier(name.strip())

    def value(self, operand: str) -> str:
        """A C++ expression for an operand; its width is the register's or a literal's."""
        operand = operand.strip()
        if operand.startswith("!"):
            return "!" + self.value(operand[1:])
        number = literal(operand)
        if number:
            return number
        vector = re.match(r"(%n?(?:cta|t)id)\.([xyz])$", operand)
        if vector:
            return f"{SPECIAL_VECTORS[vector[1]]}.{vector[2]}"
        if operand in SPECIAL_REGISTERS:
            return SPECIAL_REGISTERS[operand]
        if operand in self.register_types:
            return self.register(operand)
        symbol = re.match(r"([\w$]+)(?:\s*\+\s*(-?\d+))?$", operand)
        if symbol and symbol[1] in self.symbols:
            return f"({self.symbols[symbol[1]]} + {symbol[2] or 0})"
        raise UnsupportedPtx("operand " + operand)

    def typed(self, type_name: str, operand: str) -> str:
        """The operand's bits, cut or extended to the register type of `type_name`."""
        return f"({register_type(type_name)}){self.value(operand)}"

    def integer(self, type_name: str, operand: str) -> str:
        return f"({integer_type(type_name)}){self.value(operand)}"

    def decoded(self, ins: Instruction, type_name: str, operand: str) -> str:
        """The operand as a C++ number."""
        if is_float(type_name):
            return f"{float_format(ins, type_name)}::decode({self.typed(type_name, operand)})"
        return self.integer(type_name, operand)

    def address(self, operand: str) -> str:
        m = re.match(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+)|-\s*(\w+))?\s*\]$", operand)
        if not m:
            raise UnsupportedPtx("address " + operand)
        offset = f"-{m[3]}" if m[3] else m[2] or "0"
        return f"uint64_t({self.value(m[1])}) + {offset}"

    def parameter_bytes_at(self, operand: str, step: int) -> str:
        """A byte pointer for [name+offset] in .param space, or through a register."""
        m = re.match(r"\[([\w$]+)(?:\+(\d+))?\]$", operand)
        if m and m[1] in self.byte_buffers:
            return f"{self.byte_buffers[m[1]]} + {int(m[2] or 0) + step}"
        return f"reinterpret_cast<unsigned char*>({self.address(operand)} + {step})"

    def assign(self, destination: str, expression: str) -> str:
        if destination.strip() == "_":
            return f"(void)({expression});"
        name = destination.strip()
        if name not in self.register_types:
            raise UnsupportedPtx("destination " + name)
        return f"{self.register(name)} = {expression};"

    @staticmethod
    def vector(operand: str) -> list[str]:
        operand = operand.strip()
        return [x.strip() for x in operand[1:-1].split(",")] if operand.startswith("{") else [operand]


def _is_number(text: str) -> bool:
    return literal(text) is not None


class ModuleTranslator:
    """Translates all functions of a module and writes its tables (runtime/scheduler/scheduler.h)."""

    def __init__(self, module: ptx.Module):
        # Variables that hold addresses are left out; only kernels that name one are affected.
        module.variables = [v for v in module.variables if all(map(_is_number, v.initial))]
        self.module = module
        self.functions = {fn.name for fn in module.functions if not fn.is_entry}
        self.translators: dict[str, FunctionTranslator] = {}
        self.bodies: dict[str, str] = {}
        self.unsupported: dict[str, str] = {}

    def translate(self, symbol: str) -> str:
        for function in self.module.functions:
            self._translate_function(function)
        self._drop_callers_of_unsupported()
        tables, kernel_rows = [], []
        for function in self.module.functions:
            if function.is_entry:
                kernel_rows.append(self._kernel_row(function, tables))
        module_variables = [v for v in self.module.variables if v.space != "shared"]
        declarations, variable_rows = (
            zip(*map(_module_variable, module_variables), strict=True) if module_variables else ((), ())
        )
        keys = [v for v in self.module.variables if v.space == "shared" and v.count is not None]
        return "".join(
            [
                '#include "device/device.h"\n\nnamespace cudacpu {\nnamespace {\n\n',
                *(f"const char key_{identifier(v.name)} = 0;\n" for v in keys),
                *declarations,
                *(
                    self.translators[name].signature() + ";\n"
                    for name in self.bodies
                    if name in self.functions
                ),
                *(body + '#line 1 "translated"\n' for body in self.bodies.values()),
                *tables,
                # The last rows keep the arrays from being empty.
                "const Kernel kernels[] = {\n",
                *kernel_rows,
                "  {},\n};\n",
                "const Variable variables[] = {\n",
                *variable_rows,
                "  {},\n};\n",
                "\n}  // namespace\n}  // namespace cudacpu\n\n",
                f'extern "C" __attribute__((visibility("default"))) const cudacpu::Module {symbol} = {{\n',
                f"    cudacpu::kernels, {len(kernel_rows)}, cudacpu::variables, {len(variable_rows)}}};\n",
            ]
        )

    def unsupported_kernels(self) -> dict[str, str]:
        return {name: why for name, why in self.unsupported.items() if name not in self.functions}

    def _translate_function(self, function: ptx.Function) -> None:
        translator = FunctionTranslator(function, self.module, self.functions)
        self.translators[function.name] = translator
        try:
            self.bodies[function.name] = translator.translate()
        except UnsupportedPtx as error:
            self.unsupported[function.name] = str(error)

    def _drop_callers_of_unsupported(self) -> None:
        for function in self.module.functions:
            for callee in self._reachable(function):
                if callee.name in self.unsupported:
                    self.unsupported.setdefault(function.name, self.unsupported[callee.name])
        for name in self.unsupported:
            self.bodies.pop(name, None)

    def _reachable(self, start: ptx.Function) -> list[ptx.Function]:
        found, queue = [start], [start]
        while queue:
            current = queue.pop()
            for other in self.module.functions:
                if other not in found and not other.is_entry and current.mentions(other.name):
                    found.append(other)
                    queue.append(other)
        return found

    def _shared_objects(self, reachable: list[ptx.Function]) -> list[Variable]:
        objects = [v for function in reachable for v in self.translators[function.name].shared]
        for v in self.module.variables:
            if v.space == "shared" and v.count is not None and any(fn.mentions(v.name) for fn in reachable):
                objects.append(v)
        return objects

    def _kernel_row(self, function: ptx.Function, tables: list[str]) -> str:
        """The kernel's row in the kernel table; adds the arrays that it refers to to `tables`."""
        name, plain, limit = identifier(function.name), quoted(function.name), function.max_threads
        if function.name in self.unsupported:
            why = quoted(self.unsupported[function.name])
            return f"  {{{plain}, nullptr, {why}, nullptr, 0, 0, nullptr, 0, 0, {limit}}},\n"
        kernel, reachable = self.translators[function.name], self._reachable(function)
        objects = self._shared_objects(reachable)
        local = sum(self.translators[fn.name].local_bytes for fn in reachable)
        parameters, shared = "nullptr", "nullptr"
        if kernel.parameters:
            parameters = f"parameters_{name}"
            rows = ", ".join(f"{{{offset}, {size}}}" for offset, size in kernel.parameters)
            tables.append(f"const Parameter {parameters}[] = {{{rows}}};\n")
        if objects:
            shared = f"shared_{name}"
            rows = ", ".join(
                f"{{&key_{identifier(v.name)}, {quoted(v.name)}, {v.bytes}, {v.alignment}}}" for v in objects
            )
            tables.append(f"const SharedObject {shared}[] = {{{rows}}};\n")
        return (
            f"  {{{plain}, entry_{name}, nullptr, {parameters}, {len(kernel.parameters)}, "
            f"{kernel.parameter_bytes}, {shared}, {len(objects)}, {local}, {limit}}},\n"
        )


def _module_variable(v: Variable) -> tuple[str, str]:
    """Declarations and table row of a .global or .const variable."""
    name, bits = identifier(v.name), register_type(v.type)
    values = ", ".join(f"({bits}){literal(x)}" for x in v.initial)
    count = max(v.count or 1, 1)
    declarations = f"uint64_t address_{name};\nconst {bits} initial_{name}[{count}] = {{{values}}};\n"
    return declarations, f"  {{{quoted(v.name)}, &address_{name}, initial_{name}, sizeof initial_{name}}},\n"


def translate_module(source: str, symbol: str) -> tuple[str, dict[str, str]]:
    """Translates PTX text to C++ that defines the module table `symbol`.

    Returns the C++ text and, for each kernel that could not be translated, the reason.
    """
    translator = ModuleTranslator(ptx.parse_module(source))
    return translator.translate(symbol), translator.unsupported_kernels()
