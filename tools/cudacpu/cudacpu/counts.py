"""What launches did, counted: memory accesses as warps make them, distinct bytes, instructions by class.

In a process started by ``python -m cudacpu --count``, :func:`take` returns the launches since its last call;
a :class:`cudacpu.Program` loaded with ``count=True`` has the counts of its last launch in ``counts``.
"""

from __future__ import annotations

import ctypes
import json
import os
from dataclasses import dataclass
from typing import Any

#: Executed PTX instructions are counted by these classes. What ptxas makes of them is not known here: it
#: removes moves and merges address arithmetic into loads.
CLASSES = (
    "fma",
    "packed",  # arithmetic on pairs of 16 bits
    "mma",
    "float",
    "convert",
    "integer",
    "move",
    "load",
    "store",
    "barrier",
    "control",
)


@dataclass(frozen=True)
class Access:
    """Requests of one kind: loads or stores of a memory space, or of one buffer."""

    requests: int  # one for each instruction that a warp executes, whatever the number of lanes
    bytes: int  # of all lanes
    useful_bytes: int  # distinct within a request
    sectors: int  # of 32 bytes, distinct within a request; global memory
    wavefronts: int  # shared memory: cycles of the banks; without conflicts, one for 128 bytes

    @property
    def sector_use(self) -> float:
        """The share of the bytes in the sectors of a request that its lanes asked for."""
        return self.useful_bytes / (32 * self.sectors) if self.sectors else 1.0


@dataclass(frozen=True)
class Buffer:
    """One allocation that a launch touched."""

    address: int
    unique_load_bytes: int
    unique_store_bytes: int
    load: Access  # asynchronous copies included
    store: Access
    load_widths: dict[int, int]  # bytes, by the bytes that a lane accessed at once
    store_widths: dict[int, int]


@dataclass(frozen=True)
class Launch:
    """One launch. Instructions count once for each lane that reaches them, predicated off or not."""

    kernel: str
    symbol: str  # its mangled name
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    global_load: Access
    global_store: Access  # and atomics
    async_copy: Access  # cp.async: its reads of global memory
    shared_load: Access
    shared_store: Access
    local: Access
    #: Sectors that loads ask of L2 if a block finds in L1 all that it loaded before, and nothing of other
    #: blocks; cp.async, past L1, asks for all of its.
    l2_load_sectors: int
    #: The most bytes that each thread had under way by cp.async at a time, added up over the threads.
    async_bytes_in_flight: int
    #: Waves of blocks (:func:`set_wave`), and the distinct sectors that each of them loads and stores, added
    #: up: DRAM's traffic if L2 keeps nothing from one wave to the next.
    waves: int
    wave_load_sectors: int
    wave_store_sectors: int
    instructions: dict[str, int]
    buffers: tuple[Buffer, ...]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def unique_bytes(self) -> int:
        """Distinct bytes loaded, and distinct bytes stored."""
        return sum(b.unique_load_bytes + b.unique_store_bytes for b in self.buffers)

    def buffer(self, address: int) -> Buffer:
        """The allocation that starts at ``address``. KeyError where the launch did not touch it."""
        for buffer in self.buffers:
            if buffer.address == address:
                return buffer
        raise KeyError(f"{self.kernel} touches no allocation at {address:#x}")


def parse(text: str) -> list[Launch]:
    """Launches from the runtime's JSON, one a line."""
    return [_launch(json.loads(line)) for line in text.splitlines() if line.strip()]


def take() -> list[Launch]:
    """The launches of this process since the last call. RuntimeError where it does not count."""
    function = _runtime("cudacpu_take_counts")
    function.restype = ctypes.c_char_p
    return parse(function().decode())


def set_wave(blocks: int) -> None:
    """Later launches run in waves of so many blocks, in the order of their indices; 0: all in one wave."""
    _runtime("cudacpu_set_wave")(ctypes.c_uint64(blocks))


def _runtime(name: str) -> Any:
    if "CUDACPU_COUNTS" in os.environ:
        return getattr(ctypes.CDLL(None), name)
    raise RuntimeError("cudacpu.counts: this process was not started by python -m cudacpu --count")


def _launch(row: dict) -> Launch:
    paths = ("global_load", "global_store", "async_copy", "shared_load", "shared_store", "local")
    instructions = dict(zip(CLASSES, row["instructions"], strict=True))
    return Launch(
        kernel=row["kernel"],
        symbol=row["symbol"],
        grid=tuple(row["grid"]),
        block=tuple(row["block"]),
        shared_bytes=row["shared_bytes"],
        l2_load_sectors=row["l2_load_sectors"],
        async_bytes_in_flight=row["async_bytes_in_flight"],
        waves=row["waves"],
        wave_load_sectors=row["wave_load_sectors"],
        wave_store_sectors=row["wave_store_sectors"],
        instructions=instructions,
        buffers=tuple(_buffer(b) for b in row["buffers"]),
        **{path: Access(**row[path]) for path in paths},
    )


def _buffer(row: dict) -> Buffer:
    def widths(key: str) -> dict[int, int]:
        return {int(width): bytes_ for width, bytes_ in row[key].items() if bytes_}

    return Buffer(
        address=row["address"],
        unique_load_bytes=row["unique_load_bytes"],
        unique_store_bytes=row["unique_store_bytes"],
        load=Access(**row["load"]),
        store=Access(**row["store"]),
        load_widths=widths("load_widths"),
        store_widths=widths("store_widths"),
    )
