"""Clocks, interleaved rounds and the statistics over them. All times are in seconds."""

from __future__ import annotations

import gc
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from .graphs import capture
from .memory import keep_freed_memory

if sys.platform != "win32":
    import resource

#: A sample on the CPU is at least this long, so that the clock's own cost and resolution don't count.
_SAMPLE_SECONDS = 1e-3
#: How long a contender is called before it is timed; for a further clock it is warm already.
_WARM_UP_SECONDS, _NEXT_WARM_UP_SECONDS = 0.02, 0.002

#: Likewise on a GPU, where calls follow each other; within a number that a graph can hold.
_CUDA_SAMPLE_SECONDS = 2e-4
_MOST_CUDA_CALLS = 50

# Threads that wait for work spin for a while before they sleep: OpenMP's for some milliseconds, ONNX Runtime's for
# 40. Until then they would take the cores from whoever is timed next.
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


class Clock(Protocol):
    """A way to time calls. ``name`` says in a few words what the times are of, ``description`` how they are taken."""

    name: str
    description: str
    #: Whether it captures what it times in a CUDA graph.
    graph: bool

    def calls(self, seconds: float) -> int:
        """How many calls make a sample, where one takes ``seconds``."""

    def prepare(self, run: Callable[[], object], calls: int) -> Callable[[], object]:
        """What :meth:`sample` takes for samples of so many calls."""

    def sample(self, run: Callable[[], object], calls: int) -> float:
        """The time of one call, in seconds, of the ``calls`` that it makes."""

    def disturbances(self) -> int:
        """How often so far another process took a core away from one of this process's threads."""


class CpuClock:
    """Wall-clock time of back-to-back calls after an untimed one, with warm caches, while the threads of all other
    contenders sleep."""

    name = "wall, caches warm"
    graph = False

    def __init__(self, memory_kept: bool = False) -> None:
        self.description = (
            "wall clock, back-to-back calls after an untimed one (caches warm), other contenders' threads asleep"
            + (", freed memory kept" if memory_kept else "")
        )

    def calls(self, seconds: float) -> int:
        return max(1, math.ceil(_SAMPLE_SECONDS / max(seconds, 1e-9)))

    def prepare(self, run: Callable[[], object], calls: int) -> Callable[[], object]:
        return run

    def sample(self, run: Callable[[], object], calls: int) -> float:
        if torch.get_num_threads() > 1:
            wait_for_spinning_threads()
        run()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    def disturbances(self) -> int:
        return 0 if sys.platform == "win32" else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def wait_for_spinning_threads() -> None:
    """Returns when no other thread of this process runs, or after a while."""
    running = _others_run if sys.platform == "linux" else _others_used_time
    deadline = time.perf_counter() + _LONGEST_SPIN_SECONDS
    while running() and time.perf_counter() < deadline:
        pass


def _others_run() -> bool:
    """Whether a thread is in the state of running after this one has slept for a moment.

    What the other threads have used is no sign: Linux adds it to the process's clock only at the scheduler's ticks,
    up to 10 ms apart.
    """
    time.sleep(1e-3)
    me = str(threading.get_native_id())
    return any(task.name != me and _state(task) == "R" for task in Path("/proc/self/task").iterdir())


def _state(task: Path) -> str | None:
    try:
        # The name before it is in parentheses and may hold some.
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return None


def _others_used_time() -> bool:
    """Whether this process uses its processor's time while this thread sleeps, for longer than a tick."""
    wall, used = time.perf_counter(), time.process_time()
    time.sleep(0.02)
    return time.process_time() - used >= 0.1 * (time.perf_counter() - wall)


class CudaClock:
    """Time between CUDA events, of calls from Python or of a graph of them, with the L2 cache cold or warm.

    Cold, one call: clearing the cache takes longer than most launches, so the launch hides behind it, as it does in
    a net that keeps the GPU busy; a call of many kernels shows its launches where they are the limit. Warm,
    back-to-back calls after an untimed one: from Python they show what launching costs, in one graph nothing but the
    kernels.
    """

    def __init__(self, eviction: torch.Tensor, graph: bool, cold: bool) -> None:
        self._eviction, self.graph, self._cold = eviction, graph, cold
        self.name = f"{'graph' if graph else 'events'}, L2 {'cold' if cold else 'warm'}"
        what = "a CUDA graph of" if graph else "calls from Python:"
        how = "single calls, L2 cleared before each" if cold else "back-to-back calls after untimed ones"
        self.description = f"CUDA events around {what} {how} ({'cold' if cold else 'warm'})"
        self._start, self._stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def calls(self, seconds: float) -> int:
        enough = math.ceil(_CUDA_SAMPLE_SECONDS / max(seconds, 1e-9))
        return 1 if self._cold else min(max(1, enough), _MOST_CUDA_CALLS)

    def prepare(self, run: Callable[[], object], calls: int) -> Callable[[], object]:
        return capture(run, calls) if self.graph else run

    def disturbances(self) -> int:
        return 0

    def sample(self, run: Callable[[], object], calls: int) -> float:
        if self._cold:
            self._eviction.zero_()
        else:
            run()
        self._start.record()
        for _ in range(1 if self.graph else calls):
            run()
        self._stop.record()
        self._stop.synchronize()
        return self._start.elapsed_time(self._stop) / 1e3 / calls


def clocks_for(device: torch.device) -> list[Clock]:
    """The clocks of a device; the first is the one that contenders are compared by."""
    if device.type != "cuda":
        return [CpuClock(keep_freed_memory())]
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    eviction = torch.empty(max(4 * cache, 1 << 28), dtype=torch.uint8, device=device)
    return [CudaClock(eviction, graph, cold) for graph in (False, True) for cold in (True, False)]


@dataclass(frozen=True)
class _Timed:
    """A contender under one clock, ready to be sampled."""

    clock: Clock
    run: Callable[[], object]
    calls: int

    def sample(self) -> float:
        return self.clock.sample(self.run, self.calls)


def _warm_up(run: Callable[[], object], clock: Clock, at_least: float) -> _Timed:
    """Calls ``run`` for some seconds, and finds how many calls should make a sample."""
    timed = _Timed(clock, clock.prepare(run, 1), 1)
    deadline = time.perf_counter() + at_least
    seconds = timed.sample()
    while time.perf_counter() < deadline:
        seconds = min(seconds, timed.sample())
    calls = clock.calls(seconds)
    return timed if calls == 1 else _Timed(clock, clock.prepare(run, calls), calls)


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    clocks: Sequence[Clock],
    budget: Budget,
    uncapturable: Collection[str] = (),
) -> dict[str, dict[str, Timing | str]]:
    """Times all contenders by all clocks in rounds, each once a round in shuffled order, so that whatever else the
    machine does meanwhile, a change of its frequency too, hits them all alike.

    For each contender and name of a clock its timing, or why there is none: a contender of ``uncapturable`` has no
    time in a graph, and neither has one that cannot be captured. What is raised by the first clock is passed on.
    """
    found: dict[str, dict[str, Timing | str]] = {name: {} for name in contenders}
    timed: dict[tuple[str, str], _Timed] = {}
    for name, run in contenders.items():
        for clock in clocks:
            if clock.graph and name in uncapturable:
                found[name][clock.name] = "replays a graph of its own"
                continue
            try:
                at_least = _WARM_UP_SECONDS if clock is clocks[0] else _NEXT_WARM_UP_SECONDS
                timed[name, clock.name] = _warm_up(run, clock, at_least)
            except Exception as failure:
                if clock is clocks[0]:
                    raise
                found[name][clock.name] = f"{type(failure).__name__}: {failure}".splitlines()[0]
    for (name, clock_name), timing in _rounds(timed, budget).items():
        found[name][clock_name] = timing
    return found


def _rounds(timed: Mapping[tuple[str, str], _Timed], budget: Budget) -> dict[tuple[str, str], Timing]:
    order = list(timed)
    shuffle = random.Random(0).shuffle
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in order}
    disturbed = dict.fromkeys(order, 0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + budget.seconds * len(order)
        for done in range(budget.max_rounds):
            if done >= budget.min_rounds and time.perf_counter() > deadline:
                break
            shuffle(order)
            for key in order:
                before = timed[key].clock.disturbances()
                samples[key].append(timed[key].sample())
                disturbed[key] += timed[key].clock.disturbances() - before
    finally:
        if collecting:
            gc.enable()
    return {
        # The untimed call of a sample can be disturbed, too.
        key: Timing.of(values, disturbed[key] / (sum(values) * (timed[key].calls + 1)))
        for key, values in samples.items()
    }
