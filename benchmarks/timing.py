"""Clocks, interleaved rounds and the statistics over them. All times are in seconds."""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

if sys.platform != "win32":
    import resource

#: A sample on the CPU is at least this long, so that the clock's own cost and resolution don't count.
_SAMPLE_SECONDS = 1e-3
_WARM_UP_SECONDS = 0.02

# Threads that wait for work spin for a while before they sleep: OpenMP's for some milliseconds. Until then they would
# take the cores from whoever is timed next.
_LONGEST_SPIN_SECONDS = 0.2

#: Where p80 is this many times p20, a timing counts as noisy.
NOISY = 1.5

# A quiet machine takes a core away a few times a second, one other busy process at every time slice.
_PREEMPTIONS = 20


@dataclass(frozen=True)
class Timing:
    """The middle and the spread of one contender's samples."""

    median: float
    p20: float
    p80: float
    rounds: int
    preemptions: float = 0.0  # times a second that another process took a core away; CPU timings only

    @property
    def noisy(self) -> bool:
        """Whether other load shows: a wide spread, or cores taken away so often that every sample has it."""
        return self.p80 > NOISY * self.p20 or self.preemptions > _PREEMPTIONS

    @classmethod
    def of(cls, samples: Sequence[float], preemptions: float = 0.0) -> Timing:
        middle, low, high = (percentile(samples, percent) for percent in (50, 20, 80))
        return cls(middle, low, high, len(samples), preemptions)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of the samples lie, linear between neighbours."""
    if not samples:
        raise ValueError("percentile: samples: expected at least one, got none")
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def geometric_mean(values: Sequence[float]) -> float:
    """``(prod values) ** (1 / n)``: the only mean under which "twice as fast" and "half as fast" cancel."""
    if not values or min(values) <= 0:
        raise ValueError(f"geometric_mean: values: expected one or more, all > 0, got {list(values)}")
    return math.exp(math.fsum(math.log(v) for v in values) / len(values))


@dataclass(frozen=True)
class Budget:
    """How long to measure: ``seconds`` for each contender, within the limits on rounds."""

    seconds: float
    min_rounds: int
    max_rounds: int


class CpuClock:
    """Wall-clock time of back-to-back calls after an untimed one, with warm caches, while the threads of all other
    contenders sleep."""

    description = (
        "wall clock, back-to-back calls after an untimed one (caches warm), other contenders' threads asleep"
    )

    def calls(self, seconds: float) -> int:
        """How many calls make a sample, where one takes ``seconds``."""
        return max(1, math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9)))

    def sample(self, run: Callable[[], object], calls: int) -> float:
        if torch.get_num_threads() > 1:
            wait_for_spinning_threads()
        run()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    def disturbances(self) -> int:
        """How often so far another process took a core away from one of this process's threads."""
        return 0 if sys.platform == "win32" else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def wait_for_spinning_threads() -> None:
    """Returns when this process has used next to no processor time for a millisecond, or after a while."""
    deadline = time.perf_counter() + _LONGEST_SPIN_SECONDS
    while time.perf_counter() < deadline:
        wall, used = time.perf_counter(), time.process_time()
        time.sleep(1e-3)
        if time.process_time() - used < 0.1 * (time.perf_counter() - wall):
            return


class CudaClock:
    """CUDA events around one call whose inputs are not in the L2 cache.

    Clearing the cache takes longer than most launches, so the launch of the timed call hides behind it, as it
    does in a net that keeps the GPU busy; a call of many kernels shows its launches where they are the limit.
    """

    description = "CUDA events around single calls, L2 cleared before each (cold)"

    def __init__(self, device: torch.device) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._eviction = torch.empty(max(4 * cache, 1 << 28), dtype=torch.uint8, device=device)
        self._start, self._stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def calls(self, seconds: float) -> int:
        return 1

    def disturbances(self) -> int:
        return 0

    def sample(self, run: Callable[[], object], calls: int) -> float:
        self._eviction.zero_()
        self._start.record()
        run()
        self._stop.record()
        self._stop.synchronize()
        return self._start.elapsed_time(self._stop) / 1e3


Clock = CpuClock | CudaClock


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def warm_up(run: Callable[[], object], clock: Clock) -> int:
    """Calls ``run`` until it is warm; how many calls should make a sample."""
    deadline = time.perf_counter() + _WARM_UP_SECONDS
    seconds = clock.sample(run, 1)
    while time.perf_counter() < deadline:
        seconds = min(seconds, clock.sample(run, 1))
    return clock.calls(seconds)


def interleave(contenders: Mapping[str, Callable[[], object]], clock: Clock, budget: Budget) -> dict[str, Timing]:
    """Times all contenders in rounds, each once a round in shuffled order, so that whatever else the machine
    does meanwhile, a change of its clock too, hits them all alike."""
    order = list(contenders)
    shuffle = random.Random(0).shuffle
    calls = {name: warm_up(run, clock) for name, run in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in order}
    disturbed = dict.fromkeys(order, 0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + budget.seconds * len(order)
        for done in range(budget.max_rounds):
            if done >= budget.min_rounds and time.perf_counter() > deadline:
                break
            shuffle(order)
            for name in order:
                before = clock.disturbances()
                samples[name].append(clock.sample(contenders[name], calls[name]))
                disturbed[name] += clock.disturbances() - before
    finally:
        if collecting:
            gc.enable()
    return {
        # The untimed call of a sample can be disturbed, too.
        name: Timing.of(values, disturbed[name] / (sum(values) * (calls[name] + 1)))
        for name, values in samples.items()
    }
