"""The two limits of a device, measured: memory bandwidth and multiply-add rate.

A layer's bound is ``max(bytes / bandwidth, FLOPs / rate)``. Memory is what is measured, so a layer whose
tensors stay in a cache can be faster than its bound: more than 100% is no mistake there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from .environment import allows_tf32, last_level_cache
from .fma_peak import fma_peak
from .work import Layer, Work, fused

# Enough tries that one of them runs undisturbed on a machine with other load.
_TRIES = 20


@dataclass(frozen=True)
class Roofline:
    """Measured limits. ``fma`` is the float32 rate outside matrix units, which is all that a depthwise
    convolution can use; ``gemm`` has the rate per dtype that is open to matrix products."""

    bandwidth: float
    fma: float
    gemm: dict[torch.dtype, float] = field(default_factory=dict)
    cache: int | None = None

    def bound(self, work: Work, rate: float | None = None) -> float:
        """The least time in seconds for ``work``, at ``rate`` FLOP/s (default: ``fma``)."""
        return max(work.bytes / self.bandwidth, work.flops / (rate or self.fma))

    def rate(self, kind: str, dtype: torch.dtype) -> float:
        """FLOP/s open to a layer of ``kind``: a kernel may always widen to float32 and multiply there."""
        return self.fma if kind == "dw" else max(self.fma, self.gemm.get(dtype, 0.0))

    def layers_bound(self, layers: Sequence[Layer], dtype: torch.dtype) -> float:
        """One kernel a layer: each activation goes through memory between any two."""
        return sum(self.bound(layer.work(dtype.itemsize), self.rate(layer.kind, dtype)) for layer in layers)

    def blocks_bound(self, layers: Sequence[Layer], dtype: torch.dtype) -> float:
        """One kernel for each depthwise layer and the pointwise one after it, between which nothing moves."""
        total, i = 0.0, 0
        while i < len(layers):
            pair = layers[i : i + 2]
            if [layer.kind for layer in pair] == ["dw", "pw"]:
                compute = (layer.flops / self.rate(layer.kind, dtype) for layer in pair)
                total += max(fused(pair, dtype.itemsize).bytes / self.bandwidth, *compute)
                i += 2
            else:
                total += self.layers_bound(pair[:1], dtype)
                i += 1
        return total

    def as_dict(self) -> dict[str, object]:
        return {
            "bandwidth_gb_per_s": self.bandwidth / 1e9,
            "fma_gflop_per_s": self.fma / 1e9,
            "gemm_gflop_per_s": {str(k).removeprefix("torch."): v / 1e9 for k, v in self.gemm.items()},
            "last_level_cache_bytes": self.cache,
        }

    def __str__(self) -> str:
        gemm = ", ".join(f"{str(k).removeprefix('torch.')} {v / 1e9:,.0f}" for k, v in self.gemm.items())
        cache = f"; last-level cache {self.cache / 2**20:.0f} MiB" if self.cache else ""
        return f"{self.bandwidth / 1e9:,.1f} GB/s, {self.fma / 1e9:,.0f} GFLOP/s (GEMM: {gemm}){cache}"


def measure(
    device: torch.device, dtypes: Sequence[torch.dtype], threads: Sequence[int], seconds: float = 0.3
) -> dict[int, Roofline]:
    """Measures ``device`` with each number of torch's threads, spending some ``seconds`` on each limit."""
    found = {}
    for count in threads:
        torch.set_num_threads(count)
        found[count] = _measure(device, dtypes, seconds)
    return found


def _measure(device: torch.device, dtypes: Sequence[torch.dtype], seconds: float) -> Roofline:
    tf32 = allows_tf32(device)
    fma = _vector_rate(device, torch.float32, seconds) or _gemm_rate(device, torch.float32, False, seconds)
    gemm = {}
    for dtype in dtypes:
        if dtype == torch.float32 and not tf32:
            gemm[dtype] = fma
        else:
            gemm[dtype] = max(_gemm_rate(device, dtype, tf32, seconds), _vector_rate(device, dtype, seconds))
    return Roofline(_bandwidth(device, seconds), fma, gemm, last_level_cache(device))


def _vector_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Of a CPU's vector units, which no matrix product reaches; 0 where it can't be measured."""
    return fma_peak(dtype, torch.get_num_threads(), seconds) or 0.0 if device.type == "cpu" else 0.0


def _bandwidth(device: torch.device, seconds: float) -> float:
    """The better of a copy (1 read, 1 write) and a triad ``c = a + s * b`` (2 reads, 1 write), over tensors
    far larger than the caches."""
    size = max(1 << 26, 4 * (last_level_cache(device) or 0))
    size = min(size, 1 << 28) if device.type == "cpu" else max(size, 1 << 29)
    a, b, c = (torch.ones(size // 4, device=device) for _ in range(3))
    copy = 2 * size / _best(lambda: c.copy_(a), device, seconds / 2)
    triad = 3 * size / _best(lambda: torch.add(a, b, alpha=0.5, out=c), device, seconds / 2)
    return max(copy, triad)


def _gemm_rate(device: torch.device, dtype: torch.dtype, tf32: bool, seconds: float) -> float:
    """FLOP/s of square matrix products, the best over growing sizes."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        best, size, deadline = 0.0, 256, time.perf_counter() + seconds
        while size <= 8192 and (size <= 512 or device.type == "cuda" or time.perf_counter() < deadline):
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            best = max(best, 2 * size**3 / _best(partial(torch.mm, a, b), device, seconds / 4))
            size *= 2
        return best
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _best(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest time of a call, after a first one that doesn't count."""
    calls = 10 if device.type == "cuda" else 1  # so that launching and waiting don't show

    def once() -> float:
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        _synchronize(device)
        return (time.perf_counter() - start) / calls

    once()
    times, deadline = [once()], time.perf_counter() + seconds
    while len(times) < _TRIES and time.perf_counter() < deadline:
        times.append(once())
    return min(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
