"""The instruction sets of the CPU kernels (MBV1_CPU_ISA), and those that this processor has."""

from __future__ import annotations

from pathlib import Path

import torch

INSTRUCTION_SETS = ["portable", "avx2", "avx512", "avx512bf16", "amx"]


def processor_has(isa: str) -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    has = {
        "portable": True,
        "avx2": "AVX2" in capability or "AVX512" in capability,
        "avx512": "AVX512" in capability,
        "avx512bf16": "AVX512" in capability and "avx512_bf16" in flags,
        "amx": "AVX512" in capability and "avx512_bf16" in flags and "amx_bf16" in flags,
    }
    return has[isa]
