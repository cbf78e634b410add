"""Direct launches: build a .cu file and run one of its kernels on numpy arrays.

The kernel runs in a process of its own, so that a sanitizer can watch it and an infinite loop can
be stopped. Arrays are device buffers; after a successful launch they hold what the kernel wrote.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import counts
from .build import COUNTS, SHARED_MEMORY_LIMITS, build_runner

Dims = int | Sequence[int]
_SCALAR_FORMATS = {
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}


class KernelError(RuntimeError):
    """The launch was refused, the kernel failed, or a sanitizer stopped it."""


@dataclass
class Struct:
    """A struct passed by value: raw bytes and arrays (which become pointers), in order."""

    alignment: int
    members: Sequence[bytes | np.ndarray]


Argument = np.ndarray | np.generic | int | float | bool | Struct


class _ParameterBlock:
    """The kernel's parameter bytes, with the places where buffer addresses go."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.buffers: list[np.ndarray] = []
        self.pointers: list[tuple[int, int]] = []

    def align(self, alignment: int) -> None:
        self.data += bytes(-len(self.data) % alignment)

    def add_pointer(self, array: np.ndarray) -> None:
        known = next((i for i, b in enumerate(self.buffers) if b is array), None)
        if known is None:
            known = len(self.buffers)
            self.buffers.append(array)
        self.pointers.append((len(self.data), known))
        self.data += bytes(8)

    def add(self, argument: Argument) -> None:
        if isinstance(argument, np.ndarray):
            self.align(8)
            self.add_pointer(argument)
        elif isinstance(argument, Struct):
            self._add_struct(argument)
        else:
            packed = _pack_scalar(argument)
            self.align(len(packed))
            self.data += packed

    def _add_struct(self, value: Struct) -> None:
        self.align(value.alignment)
        for member in value.members:
            if isinstance(member, np.ndarray):
                self.add_pointer(member)
            else:
                self.data += member
        self.align(value.alignment)


def _pack_scalar(value: np.generic | float | bool) -> bytes:
    """Python ints are int32 and floats float32; use numpy scalars for other types."""
    if isinstance(value, np.generic):
        return struct.pack("<" + _SCALAR_FORMATS[value.dtype.name], value.item())
    if isinstance(value, bool):
        return struct.pack("<?", value)
    return struct.pack("<i" if isinstance(value, int) else "<f", value)


def _dims(value: Dims) -> tuple[int, int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (*values, 1, 1)[:3]


@dataclass
class Program:
    """A built .cu file."""

    executable: Path
    shared_limit: int
    #: Of the last launch, where the program counts; buffers are in the order of the arrays in the arguments.
    counts: counts.Launch | None = field(default=None, compare=False)

    def launch(
        self,
        kernel: str,
        arguments: Sequence[Argument],
        grid: Dims,
        block: Dims,
        shared: int = 0,
        seed: int = 1,
        timeout: float = 300,
        env: dict[str, str] | None = None,
    ) -> str:
        """Runs a kernel, named by its mangled name or a unique part of it; returns what it printed.

        Seed 0 runs lanes and blocks in index order, any other seed in a random order of its own.
        """
        parameters = _ParameterBlock()
        for argument in arguments:
            parameters.add(argument)
        with tempfile.TemporaryDirectory() as scratch:
            files = [f"{scratch}/{i}" for i in range(len(parameters.buffers))]
            for file, array in zip(files, parameters.buffers, strict=True):
                np.ascontiguousarray(array).tofile(file)
            lines = [
                f"kernel {kernel}",
                "grid {} {} {}".format(*_dims(grid)),
                "block {} {} {}".format(*_dims(block)),
                f"shared {shared}",
                f"shared_limit {self.shared_limit}",
                f"seed {seed}",
            ]
            lines += [f"buffer {file}" for file in files]
            lines.append(f"parameters {parameters.data.hex()}")
            lines += [f"pointer {offset} {index}" for offset, index in parameters.pointers]
            counted = Path(scratch) / "counts"
            lines.append(f"counts {counted}")
            job = Path(scratch) / "job"
            job.write_text("\n".join(lines) + "\n")
            output = self._run(job, timeout, env or {})
            self.counts = next(iter(counts.parse(counted.read_text())), None)
            for file, array in zip(files, parameters.buffers, strict=True):
                array[...] = np.fromfile(file, array.dtype).reshape(array.shape)
        return output

    def _run(self, job: Path, timeout: float, env: dict[str, str]) -> str:
        environment = {
            "ASAN_OPTIONS": "detect_leaks=0",
            "TSAN_OPTIONS": "halt_on_error=1 history_size=2",
            **os.environ,
            **env,
        }
        result = subprocess.run(
            [self.executable, job],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment,
        )
        if result.returncode:
            raise KernelError(result.stdout.strip() or f"exit status {result.returncode}")
        return result.stdout


def load(
    source: str | os.PathLike,
    flags: Sequence[str] = (),
    arch: str = "sm_80",
    sanitize: str | None = None,
    count: bool = False,
) -> Program:
    """Builds a .cu (or .ptx) file; `sanitize` is None, "races", "address" or "thread".

    With `count` instead, `Program.counts` tells what a launch did.
    """
    if count and sanitize:
        raise ValueError(f"cudacpu.load: expected count or sanitize, got both: {sanitize!r}")
    capability = int(re.match(r"sm_(\d+)", arch)[1])
    limit = SHARED_MEMORY_LIMITS.get(capability, 48 << 10)
    return Program(build_runner([Path(source)], list(flags), arch, COUNTS if count else sanitize), limit)
