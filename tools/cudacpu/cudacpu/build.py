"""Builds: nvcc (.cu -> PTX), the translator (PTX -> C++), g++ (C++ -> object), and the links.

Every intermediate file lives in a cache directory ($CUDACPU_CACHE, default ~/.cache/cudacpu) under
the hash of everything it was made from, so nothing is ever out of date and nothing is built twice.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .translate import translate_module

RUNTIME = Path(__file__).resolve().parent / "runtime"
SHARED_MEMORY_LIMITS = {  # opt-in bytes per block by compute capability (CUDA programming guide)
    75: 64 << 10,
    80: 163 << 10,
    86: 99 << 10,
    87: 163 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
    120: 99 << 10,
}
_CXX_FLAGS = [
    "-std=c++17",
    "-g1",
    "-w",
    "-fPIC",
    "-mf16c",
    "-mfma",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-pthread",
]
SANITIZERS = ("races", "address", "thread")
COUNTS = "counts"  # a variant like a sanitizer's, and instead of one
# -O2 takes half as long again to compile and runs no faster: checks and fiber switches dominate.
_KERNEL_FLAGS = {
    None: ["-O1"],
    "races": ["-O1", "-DCUDACPU_RACES=1"],
    "address": ["-O1", "-fsanitize=address"],
    "thread": ["-O1", "-fsanitize=thread"],
    COUNTS: ["-O1", "-DCUDACPU_COUNTS=1"],
}


class BuildError(RuntimeError):
    """A compiler failed; the message holds its command and output."""


def cache_directory() -> Path:
    configured = os.environ.get("CUDACPU_CACHE")
    path = Path(configured) if configured else Path.home() / ".cache" / "cudacpu"
    path.mkdir(parents=True, exist_ok=True)
    return path


def run_tool(command: Sequence[str | os.PathLike]) -> str:
    result = subprocess.run(
        [str(c) for c in command], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        raise BuildError(" ".join(str(c) for c in command) + "\n" + result.stdout)
    return result.stdout


def digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(str(p) for p in parts).encode()).hexdigest()[:24]


def file_digest(path: str | os.PathLike) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cached(name: str, make: Callable[[Path], object]) -> Path:
    """The cache file `name`; if it is missing, `make` writes it, elsewhere first."""
    target = cache_directory() / name
    if not target.exists():
        _replace(target, make)
    return target


def _replace(target: Path, make: Callable[[Path], object]) -> None:
    """Other processes see either no file, the previous one, or the complete new one."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        output = Path(scratch) / target.name
        make(output)
        os.replace(output, target)


# ---- nvcc ----


@functools.cache
def nvcc() -> str:
    candidates = [os.environ.get("NVCC"), shutil.which("nvcc")]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            candidates.insert(1, str(Path(os.environ[variable]) / "bin" / "nvcc"))
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            return candidate
    raise BuildError("nvcc not found: put it on PATH or set CUDA_HOME or NVCC")


@functools.cache
def nvcc_version() -> str:
    return re.search(r"release (\d+\.\d+)", run_tool([nvcc(), "--version"]))[1]


@functools.cache
def cuda_include() -> Path:
    """The toolkit's include directory, as nvcc itself states it."""
    with tempfile.NamedTemporaryFile(suffix=".cu") as source:
        output = run_tool([nvcc(), "--dryrun", source.name])
    include = re.search(r'INCLUDES="-I([^"]+)"', output)
    if include and Path(include[1]).exists():
        return Path(include[1]).resolve()
    return (Path(re.search(r"TOP=(\S+)", output)[1]) / "include").resolve()


def _dependencies(makefile_rule: str) -> list[str]:
    rule = makefile_rule.replace("\\\n", " ").partition(":")[2]
    names = [n.replace("\\ ", " ") for n in re.findall(r"(?:\\ |\S)+", rule)]
    toolkit = (str(cuda_include()), str(cuda_include().parent))
    kept = (str(Path(n).resolve()) for n in names)
    return [n for n in dict.fromkeys(kept) if not n.startswith((*toolkit, "/usr/include", "/usr/lib"))]


def compile_to_ptx(source: Path, flags: Sequence[str], arch: str) -> str:
    """The PTX of a .cu file. The cache entry is valid while no file that it included has changed."""
    if source.suffix == ".ptx":
        return source.read_text()
    standard = [] if any("-std" in f for f in flags) else ["-std=c++17"]
    command = [nvcc(), "-ptx", f"-arch={arch}", "-lineinfo", *standard, *flags, str(source.resolve())]
    stem = digest(*command, nvcc_version())
    ptx_path = cache_directory() / f"{stem}.ptx"
    record_path = cache_directory() / f"{stem}.json"
    if ptx_path.exists() and record_path.exists():
        record = json.loads(record_path.read_text())
        if all(os.path.exists(p) and file_digest(p) == d for p, d in record.items()):
            return ptx_path.read_text()
    with tempfile.TemporaryDirectory() as scratch:
        output, rule = Path(scratch) / "out.ptx", Path(scratch) / "out.d"
        run_tool([*command, "-o", output, "-MD", "-MF", rule])
        record = {p: file_digest(p) for p in _dependencies(rule.read_text())}
        text = output.read_text()
    _replace(ptx_path, lambda out: out.write_text(text))
    _replace(record_path, lambda out: out.write_text(json.dumps(record)))
    return text


# ---- C++ ----


@functools.cache
def _implementation_digest() -> str:
    """Changes whenever the translator or the runtime does."""
    package = Path(__file__).parent
    outside = {package / "fallback.py", package / "launch.py", package / "__main__.py"}
    files = [*package.rglob("*.py"), *package.rglob("*.h"), *package.rglob("*.cpp")]
    kept = sorted(f for f in files if f not in outside)
    return digest(*(f"{f.relative_to(package)} {file_digest(f)}" for f in kept))


def _cxx() -> str:
    return os.environ.get("CXX", "g++")


def compiler_sanitizer(sanitize: str | None) -> str | None:
    """The sanitizer of the C++ compiler that a variant needs; our own race check needs none."""
    return sanitize if sanitize in ("address", "thread") else None


def _variant_defines(sanitize: str | None) -> list[str]:
    return ["-DCUDACPU_SHADOW=0"] if compiler_sanitizer(sanitize) else []


def _link_flags(sanitize: str | None) -> list[str]:
    return [f"-fsanitize={sanitize}"] if compiler_sanitizer(sanitize) else []


def _sources(*patterns: str) -> list[Path]:
    """Runtime sources in a fixed order."""
    return [path for pattern in patterns for path in sorted(RUNTIME.glob(pattern))]


EXECUTION_SOURCES = _sources("memory.cpp", "scheduler/*.cpp")
DRIVER_SOURCES = _sources("cuda/driver.cpp")
CUDART_SOURCES = [s for s in _sources("cuda/*.cpp") if s not in DRIVER_SOURCES]


def _in_parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def _runtime_objects(sources: Sequence[Path], sanitize: str | None, extra: Sequence[str] = ()) -> list[Path]:
    flags = [*_CXX_FLAGS, "-O2", *_variant_defines(sanitize), f"-I{RUNTIME}", *extra]

    def compiled(source: Path) -> Path:
        key = digest(source.relative_to(RUNTIME), *flags, _implementation_digest())
        return cached(f"{key}.o", lambda out: run_tool([_cxx(), *flags, "-c", source, "-o", out]))

    return _in_parallel(compiled, sources)


@dataclass
class KernelObject:
    """One translated source: its object file and the symbol of its module table."""

    object: Path
    symbol: str
    unsupported: dict[str, str]


def compile_kernels(source: Path, flags: Sequence[str], arch: str, sanitize: str | None) -> KernelObject:
    ptx_text = compile_to_ptx(source, flags, arch)
    key = digest(ptx_text, sanitize, _implementation_digest())
    symbol = f"cudacpu_module_{key}"
    cpp, reasons = cache_directory() / f"{key}.cpp", cache_directory() / f"{key}.unsupported.json"
    if not (cpp.exists() and reasons.exists()):
        code, unsupported = translate_module(ptx_text, symbol)
        _replace(cpp, lambda out: out.write_text(code))
        _replace(reasons, lambda out: out.write_text(json.dumps(unsupported)))
    command = [
        _cxx(),
        *_CXX_FLAGS,
        *_KERNEL_FLAGS[sanitize],
        *_variant_defines(sanitize),
        f"-I{RUNTIME}",
        "-c",
        cpp,
    ]
    compiled = cached(f"{key}.o", lambda out: run_tool([*command, "-o", out]))
    return KernelObject(compiled, symbol, json.loads(reasons.read_text()))


def compile_all(
    sources: Sequence[Path], flags: Sequence[str], arch: str, sanitize: str | None
) -> list[KernelObject]:
    compiled = _in_parallel(lambda s: compile_kernels(s, flags, arch, sanitize), sources)
    return list({k.symbol: k for k in compiled}.values())


def _module_index(kernels: Sequence[KernelObject]) -> Path:
    """A C++ file that lists the module tables of all sources."""
    names = [k.symbol for k in kernels]
    text = '#include "scheduler/scheduler.h"\n'
    text += "".join(f'extern "C" const cudacpu::Module {n};\n' for n in names)
    rows = "".join(f"&{n}, " for n in names)
    text += 'extern "C" __attribute__((visibility("default")))\n'
    text += f"const cudacpu::Module* const cudacpu_modules[] = {{{rows}nullptr}};\n"
    return cached(f"index_{digest(text)}.cpp", lambda out: out.write_text(text))


def _link(
    kernels: Sequence[KernelObject], objects: Sequence[Path], flags: Sequence[str], suffix: str
) -> Path:
    index = _module_index(kernels)
    inputs = [index, *(k.object for k in kernels), *objects]
    key = digest(*inputs, *flags, _implementation_digest())
    command = [_cxx(), "-std=c++17", "-O1", "-w", "-fPIC", f"-I{RUNTIME}", *inputs, *flags, "-pthread"]
    return cached(f"{key}{suffix}", lambda out: run_tool([*command, "-o", out]))


def build_runner(sources: Sequence[Path], flags: Sequence[str], arch: str, sanitize: str | None) -> Path:
    """An executable that launches one kernel on buffers read from files (see launch.py)."""
    kernels = compile_all(sources, flags, arch, sanitize)
    runtime = _runtime_objects([*_sources("runner.cpp"), *EXECUTION_SOURCES], sanitize)
    return _link(kernels, runtime, _link_flags(sanitize), "")


def build_kernel_library(
    sources: Sequence[Path], flags: Sequence[str], arch: str, sanitize: str | None = None
) -> tuple[Path, dict[str, str]]:
    """A shared object with all kernels, for the substitute CUDA runtime to load."""
    kernels = compile_all(sources, flags, arch, sanitize)
    link_flags = ["-shared", *_link_flags(sanitize)]
    unsupported = {name: why for k in kernels for name, why in k.unsupported.items()}
    return _link(kernels, [], link_flags, ".so"), unsupported


# ---- the substitute CUDA libraries ----


def _stubs(names: set[str], handler: str) -> str:
    """C source with a weak stub for every name; definitions in the C++ sources override them."""
    lines = [f"int {handler}(const char* name);"]
    lines += [f'__attribute__((weak)) int {n}() {{ return {handler}("{n}"); }}' for n in sorted(names)]
    return "\n".join(lines) + "\n"


def _runtime_functions() -> set[str]:
    headers = [cuda_include() / "cuda_runtime_api.h", *(cuda_include() / "crt").glob("*.h")]
    text = "\n".join(h.read_text(errors="replace") for h in headers)
    return set(re.findall(r"CUDARTAPI(?:_CDECL)?\s+((?:__)?cuda[A-Za-z0-9_]+)\s*\(", text))


def _driver_functions() -> set[str]:
    text = (cuda_include() / "cuda.h").read_text(errors="replace")
    plain = re.findall(r"CUDAAPI\s+(cu[A-Z]\w*)\s*\(", text)
    versioned = re.findall(r"#\s*define\s+cu[A-Z]\w*\s+(cu[A-Z]\w*_v\d+)", text)
    return {*plain, *versioned}


def _substitute_library(
    soname: str, sources: Sequence[Path], stubs: str, exports: str, sanitize: str | None
) -> Path:
    key = digest(soname, stubs, exports, sanitize, nvcc_version(), _implementation_digest())
    objects = _runtime_objects(sources, sanitize, [f"-I{cuda_include()}"])
    stub_source = cached(f"{key}.c", lambda out: out.write_text(stubs))
    version_script = cached(f"{key}.map", lambda out: out.write_text(exports))
    c_compiler = [os.environ.get("CC", "gcc"), "-O1", "-w", "-fPIC", "-c", stub_source]
    stub_object = cached(f"{key}.o", lambda out: run_tool([*c_compiler, "-o", out]))
    link = [_cxx(), "-shared", *objects, stub_object, "-ldl", "-pthread"]
    link += [f"-Wl,-soname,{soname}", f"-Wl,--version-script={version_script}"]
    (cache_directory() / key).mkdir(exist_ok=True)
    return cached(f"{key}/{soname}", lambda out: run_tool([*link, "-o", out]))


def build_cuda_libraries(sanitize: str | None = None) -> list[Path]:
    """Substitutes for libcudart and libcuda, to be put in LD_PRELOAD in this order.

    They have the real libraries' sonames (and libcudart its symbol versions), so that the loader
    takes them for the real ones wherever those are needed.
    """
    soname = f"libcudart.so.{nvcc_version().partition('.')[0]}"
    runtime_exports = f"{soname} {{ global: cuda*; __cuda*; _ZN*7cudacpu*; _ZNK*7cudacpu*; local: *; }};\n"
    runtime = _substitute_library(
        soname,
        [*EXECUTION_SOURCES, *CUDART_SOURCES],
        _stubs(_runtime_functions(), "cudacpu_unimplemented"),
        runtime_exports,
        sanitize,
    )
    driver = _substitute_library(
        "libcuda.so.1",
        DRIVER_SOURCES,
        _stubs(_driver_functions(), "cudacpu_unimplemented_driver"),
        "{ global: cu*; local: *; };\n",
        sanitize,
    )
    return [runtime, driver]
