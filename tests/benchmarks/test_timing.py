import math

import pytest

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

    def disturbances(self):
        return 0

    def calls(self, seconds):
        return 1

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
    timings = interleave(contenders, CountingClock(), Budget(seconds=0.0, min_rounds=4, max_rounds=9))
    assert {name: timing.median for name, timing in timings.items()} == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert {timing.rounds for timing in timings.values()} == {4}
    rounds = [order[-12:][i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


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


@pytest.mark.parametrize("spins_until, waits", [(0.0, 0.001), (0.02, 0.021), (60.0, 0.2)])
def test_samples_wait_until_no_thread_spins_but_not_for_ever(monkeypatch, spins_until, waits):
    fake = FakeTime(spins_until)
    monkeypatch.setattr(timing, "time", fake)
    timing.wait_for_spinning_threads()
    assert fake.now == pytest.approx(waits, abs=0.0015)


def test_a_sample_follows_an_untimed_call():
    calls = []
    CpuClock().sample(lambda: calls.append(1), 5)
    assert len(calls) == 6


def test_interleave_stops_at_the_most_rounds():
    timings = interleave({"a": lambda: 1.0}, CountingClock(), Budget(seconds=60.0, min_rounds=1, max_rounds=6))
    assert timings["a"].rounds == 6
