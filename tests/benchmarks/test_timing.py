import math
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import Budget, CpuClock, Timing, geometric_mean, interleave, percentile


@pytest.mark.parametrize("percent, expected", [(0, 1.0), (25, 2.0), (50, 3.0), (80, 4.2), (100, 5.0), (10, 1.4)])
def test_percentile_is_linear_between_neighbours(percent, expected):
    assert percentile([5.0, 3.0, 1.0, 4.0, 2.0], percent) == pytest.approx(expected)


def test_percentile_of_one_sample_is_that_sample():
    assert percentile([7.0], 20) == percentile([7.0], 80) == 7.0


def test_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 50)


def test_geometric_mean():
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert math.isfinite(geometric_mean([1e300] * 10))


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -2.0]])
def test_geometric_mean_takes_positive_values_only(values):
    with pytest.raises(ValueError, match="all > 0"):
        geometric_mean(values)


def test_noisy_is_a_wide_spread_or_cores_taken_away():
    assert Timing(median=1.0, p20=1.0, p80=1.6, rounds=5).noisy
    assert not Timing(median=1.0, p20=1.0, p80=1.4, rounds=5).noisy
    assert Timing(median=1.0, p20=1.0, p80=1.0, rounds=5, preemptions=100.0).noisy


def test_cpu_samples_are_long_enough_to_measure():
    clock = CpuClock()
    assert clock.calls(1e-5) >= 100
    assert clock.calls(0.5) == 1


class CountingClock:
    """Each call takes as long as it says, and nothing waits."""

    description = "no clock"

    def __init__(self, name="count", graph=False):
        self.name, self.graph = name, graph

    def disturbances(self):
        return 0

    def calls(self, seconds):
        return 1

    def prepare(self, run, calls):
        return run

    def sample(self, run, calls):
        return run()


def test_interleaved_rounds_sample_every_contender_alike():
    order = []

    def contender(name, seconds):
        def run():
            order.append(name)
            return seconds

        return run

    contenders = {name: contender(name, i + 1.0) for i, name in enumerate("abc")}
    budget = Budget(seconds=0.0, min_rounds=4, max_rounds=9)
    timings = {name: found["count"] for name, found in interleave(contenders, [CountingClock()], budget).items()}
    assert {name: timing.median for name, timing in timings.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert {timing.rounds for timing in timings.values()} == {4}
    rounds = [order[-12:][i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


class Captures(CountingClock):
    """Has some contenders fail to be captured."""

    def prepare(self, run, calls):
        if run() > 1:
            raise RuntimeError("stream is capturing\nand more")
        return run


def test_each_clock_has_its_own_timing_or_reason():
    contenders = {"a": lambda: 1.0, "b": lambda: 2.0, "graph": lambda: 3.0}
    clocks = [CountingClock("first"), Captures("graph", graph=True)]
    found = interleave(contenders, clocks, Budget(0.0, 2, 2), uncapturable={"graph"})
    assert {name: timings["first"].median for name, timings in found.items()} == {"a": 1.0, "b": 2.0, "graph": 3.0}
    assert found["a"]["graph"].median == 1.0
    assert found["b"]["graph"] == "RuntimeError: stream is capturing"
    assert found["graph"]["graph"] == "replays a graph of its own"


def test_a_failure_by_the_first_clock_is_raised():
    with pytest.raises(RuntimeError, match="stream is capturing"):
        interleave({"b": lambda: 2.0}, [Captures()], Budget(0.0, 1, 1))


class FakeEvent:
    """Events on a clock that every call of :func:`device` moves on."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = FakeEvent.now

    def synchronize(self):
        pass

    def elapsed_time(self, stop):
        return (stop.time - self.time) * 1e3


@pytest.fixture
def device(monkeypatch):
    """A GPU of the tests: a call takes 10 us, and 30 us more where the cache was cleared before it."""
    log = []

    class Eviction:
        def zero_(self):
            log.append("clear")

    def run():
        FakeEvent.now += 40e-6 if log and log[-1] == "clear" else 10e-6
        log.append("call")

    def capture(run, calls):
        def replay():
            log.append(f"replay {calls}")
            FakeEvent.now += 9e-6 * calls

        return replay

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=100))
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: Eviction())
    monkeypatch.setattr(timing, "capture", capture)
    return SimpleNamespace(run=run, log=log)


def test_the_clocks_of_a_gpu(device):
    clocks = timing.clocks_for(torch.device("cuda"))
    names = ["events, L2 cold", "events, L2 warm", "graph, L2 cold", "graph, L2 warm"]
    assert [clock.name for clock in clocks] == names
    found = interleave({"a": device.run}, clocks, Budget(0.0, 2, 2))["a"]
    medians = {name: round(timing.median * 1e6) for name, timing in found.items()}
    assert medians == dict(zip(names, (40, 10, 9, 9), strict=True))
    assert "replay 23" in device.log and "replay 1" in device.log  # warm: 200 us of calls in one graph


class FakeTime:
    """A clock that a spinning thread of this process runs on, until a moment."""

    def __init__(self, spins_until):
        self.now, self.used, self.spins_until = 0.0, 0.0, spins_until

    def perf_counter(self):
        return self.now

    def process_time(self):
        return self.used

    def sleep(self, seconds):
        self.used += max(0.0, min(seconds, self.spins_until - self.now))
        self.now += seconds


@pytest.mark.parametrize("spins_until, waits", [(0.0, 0.02), (0.05, 0.08), (60.0, 0.22)])
def test_samples_wait_until_no_thread_spins_but_not_for_ever(monkeypatch, spins_until, waits):
    """By processor time, where the system doesn't tell threads' states."""
    fake = FakeTime(spins_until)
    monkeypatch.setattr(timing, "time", fake)
    monkeypatch.setattr(timing.sys, "platform", "darwin")
    timing.wait_for_spinning_threads()
    assert fake.now == pytest.approx(waits, abs=0.0015)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which tells threads' states")
def test_samples_wait_for_a_thread_that_runs(monkeypatch):
    monkeypatch.setattr(timing, "_LONGEST_SPIN_SECONDS", 60.0)
    ones, sums = torch.ones(2**25), torch.zeros(2**25)
    thread = threading.Thread(target=lambda: torch.cumsum(ones, 0, out=sums))  # without Python's lock, for a while
    thread.start()
    timing.wait_for_spinning_threads()
    assert sums[-1] > 0
    thread.join()
    assert timing._state(Path("/proc/self/task/0")) is None  # as of a thread that has ended meanwhile


def test_a_sample_follows_an_untimed_call():
    calls = []
    CpuClock().sample(lambda: calls.append(1), 5)
    assert len(calls) == 6


def test_interleave_stops_at_the_most_rounds():
    timings = interleave({"a": lambda: 1.0}, [CountingClock()], Budget(seconds=60.0, min_rounds=1, max_rounds=6))
    assert timings["a"]["count"].rounds == 6
