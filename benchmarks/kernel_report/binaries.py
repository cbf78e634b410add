"""Compiled kernels, by disassembly: registers, spills, shared memory, the mix of instructions, loads in flight."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mbv1_kernels import _extension

from ..environment import ROOT

_MATH = ("FFMA", "HFMA2", "HMMA", "FMUL", "FADD", "HADD2", "HMUL2", "FFMA2")
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
_RESOURCES = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class ToolError(RuntimeError):
    """A tool of the CUDA toolkit is missing or failed; the message names it."""


@dataclass(frozen=True)
class Binary:
    """One kernel as compiled for one architecture."""

    name: str  # demangled, without namespaces and parameters: dwconv2d_nhwc_kernel<float, 3, 4>
    symbol: str
    arch: str
    threads: int  # of a block at most, by its launch bounds; 0 where it has none
    registers: int
    stack: int
    spills: int  # loads and stores of local memory
    static_shared: int
    instructions: int
    mix: dict[str, int]  # by opcode, with the width in bytes of a lane's access: LDG.16
    bytes_in_flight: int  # of global memory, the most that one thread has asked for before it needs the first of it

    @property
    def math_share(self) -> float:
        """FMAs, adds, multiplications and tensor-core instructions among all."""
        return sum(self.mix.get(opcode, 0) for opcode in _MATH) / self.instructions

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "math_share": self.math_share}


def tool(name: str) -> str:
    """A disassembler: that on PATH, of the toolkit, or Triton's own."""
    places = [shutil.which(name), f"/usr/local/cuda/bin/{name}"]
    try:
        import triton

        places.append(str(Path(triton.__file__).parent / "backends/nvidia/bin" / name))
    except ImportError:
        pass
    for place in places:
        if place and Path(place).exists():
            return place
    raise ToolError(f"{name} was not found: it comes with the CUDA toolkit and with Triton")


def run(*command: str | Path) -> str:
    """The output of a tool. ToolError where it fails."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        raise ToolError(f"{Path(command[0]).name} failed: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def library() -> Path:
    """The extension with the CUDA kernels."""
    path = _extension._find("_cuda")
    if path is None:
        raise ToolError("mbv1_kernels was built without CUDA")
    return path


def read(arch: str) -> list[Binary]:
    """Our kernels for ``arch`` (sm_80): those in the built library, else compiled for it now."""
    if f"arch = {arch}\n" in run(tool("cuobjdump"), "-lelf", library()).replace(f".{arch}.cubin", f"arch = {arch}"):
        return read_file(library(), arch)
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for source in sorted((ROOT / "csrc/cuda").glob("*.cu")):
            cubin = Path(folder) / f"{source.stem}.cubin"
            run(_nvcc(), "-cubin", f"-arch={arch}", "-O3", "-std=c++20", "-o", cubin, source)
            found += read_file(cubin, arch)
        return found


def _nvcc() -> str:
    path = shutil.which("nvcc")
    if path is None:
        raise ToolError("nvcc is not on PATH")
    return path


def read_file(path: Path, arch: str, functions: Sequence[str] = ()) -> list[Binary]:
    """The kernels of a library or a cubin; only ``functions`` (mangled names), where given."""
    chosen = [argument for name in functions for argument in ("-fun", name)]
    select = ["-arch", arch] if path.suffix != ".cubin" else []
    resources = {
        symbol: tuple(map(int, numbers))
        for symbol, *numbers in _RESOURCES.findall(run(tool("cuobjdump"), *select, "-res-usage", path))
    }
    code = run(tool("cuobjdump"), *select, "-sass", *chosen, path)
    demangled = demangle(resources)
    threads = _max_threads(run(tool("cuobjdump"), *select, "-elf", path)) if not functions else {}
    binaries = []
    for symbol, lines in _functions(code):
        if symbol not in resources:
            continue
        registers, stack, shared, _ = resources[symbol]
        instructions = [(m[1], m[2]) for m in map(_INSTRUCTION.match, lines) if m]
        mix = Counter(_opcode(opcode, operands) for opcode, operands in instructions)
        spills = sum(count for opcode, count in mix.items() if opcode.startswith(("LDL", "STL")))
        binaries.append(
            Binary(
                name=short_name(demangled[symbol]),
                symbol=symbol,
                arch=arch,
                threads=threads.get(symbol, 0),
                registers=registers,
                stack=stack,
                spills=spills,
                static_shared=shared,
                instructions=len(instructions),
                mix=dict(mix),
                bytes_in_flight=bytes_in_flight(instructions),
            )
        )
    return binaries


def _max_threads(elf: str) -> dict[str, int]:
    found, symbol, wanted = {}, "", False
    for line in elf.splitlines():
        if line.startswith("."):
            symbol = line.removeprefix(".nv.info.") if line.startswith(".nv.info.") else ""
        elif "EIATTR_" in line:
            wanted = bool(symbol) and "EIATTR_MAX_THREADS" in line
        elif wanted and "Value:" in line:
            x, y, z = (int(n, 16) for n in line.split(":")[1].split())
            found[symbol] = x * y * z
    return found


def _functions(code: str) -> Iterator[tuple[str, list[str]]]:
    parts = re.split(r"^\s*Function : (\S+)$", code, flags=re.MULTILINE)[1:]
    for symbol, body in zip(parts[::2], parts[1::2], strict=True):
        yield symbol, body.splitlines()


def _opcode(opcode: str, operands: str) -> str:
    """LDG.E.128.CONSTANT → LDG.16, FFMA.FTZ → FFMA; a product with the zero register is how ptxas moves constants."""
    base = opcode.split(".")[0]
    if base in ("HFMA2", "FFMA", "IMAD") and "-RZ, RZ" in operands.replace("RZ.H0_H0", "RZ"):
        return "MOV"
    if base in ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LDGSTS"):
        return f"{base}.{_width(opcode)}"
    return base


def _width(opcode: str) -> int:
    """Bytes of a lane's access."""
    return next((_WIDTHS[part] for part in opcode.split(".")[1:] if part in _WIDTHS), 4)


def bytes_in_flight(instructions: Sequence[tuple[str, str]]) -> int:
    """The most bytes of global memory that a thread has under way, in program order: a load until the first
    instruction that uses a register of it, a group of asynchronous copies until the wait for it. Code in program
    order takes every branch, so loads whose bounds are tested one by one count as independent."""
    loads: list[tuple[range, int]] = []  # registers, bytes
    groups, open_group, most = [], 0, 0
    for opcode, operands in instructions:
        base = opcode.split(".")[0]
        registers = [int(r) for r in re.findall(r"\bR(\d+)\b", operands)]
        used = [i for i, (covered, _) in enumerate(loads) if any(r in covered for r in registers)]
        if used:
            del loads[: used[-1] + 1]  # loads return in order, or nearly so
        if base == "LDG" and registers:
            width = _width(opcode)
            loads.append((range(registers[0], registers[0] + max(1, width // 4)), width))
        elif base == "LDGSTS":
            open_group += _width(opcode)
        elif base == "LDGDEPBAR":
            groups.append(open_group)
            open_group = 0
        elif base == "DEPBAR":
            left = re.search(r"SB0, (0x[0-9a-f]+)", operands)
            keep = int(left[1], 16) if left else 0
            groups = groups[len(groups) - keep :] if keep else []
        most = max(most, sum(width for _, width in loads) + sum(groups) + open_group)
    return most


def demangle(symbols: Iterable[str]) -> dict[str, str]:
    """Names as C++ spells them; unchanged where binutils are missing."""
    symbols = list(symbols)
    filt = shutil.which("c++filt")
    names = symbols
    if filt is not None:
        result = subprocess.run([filt], input="\n".join(symbols), capture_output=True, text=True, check=True)
        names = result.stdout.splitlines()
    return dict(zip(symbols, names, strict=True))


def short_name(demangled: str) -> str:
    """A demangled name without return type, namespaces and parameters: dwconv2d_nhwc_kernel<float, 3, 4>"""
    name = re.sub(r"\(anonymous namespace\)::|mbv1::cuda::|at::native::|c10::", "", demangled)
    name = re.sub(r"\((?:int|bool|Layout)\)", "", name).removeprefix("void ")
    return name.partition("(")[0]
