"""What a benchmark measures, and how its contenders compare over many cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .contest import Outcome
from .timing import Timing, geometric_mean
from .work import Work
from .workload import Workload


@dataclass(frozen=True)
class Case:
    """One line of the table. ``bound`` is the roofline's least time for it in seconds, ``peak`` the multiply-add
    rate open to it in FLOP/s; ``facts`` go into JSON."""

    name: str
    batch: int
    dtype: str
    layout: str
    threads: int
    work: Work
    bound: float
    peak: float
    make: Callable[[], Workload]
    facts: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} N{self.batch} {self.dtype} {self.layout} T{self.threads}"

    def metrics(self, seconds: float) -> dict[str, float]:
        return {
            "images_per_s": self.batch / seconds,
            "gb_per_s": self.work.bytes / seconds / 1e9,
            "gflop_per_s": self.work.flops / seconds / 1e9,
            "roofline_percent": 100 * self.bound / seconds,
            "peak_percent": 100 * self.work.flops / seconds / self.peak,
        }


@dataclass(frozen=True)
class Result:
    """A case and what became of its contenders."""

    case: Case
    outcomes: tuple[Outcome, ...]

    def timing(self, name: str) -> Timing | None:
        """Of one contender; None where it did not run."""
        return next((o.timing for o in self.outcomes if o.name == name), None)

    @property
    def best_peer(self) -> tuple[str, Timing] | None:
        """The fastest contender that is not this project."""
        timed = [(o.name, o.timing) for o in self.outcomes if o.timing and not o.ours]
        return min(timed, key=lambda peer: peer[1].median, default=None)

    def by(self, clock: str) -> Result:
        """The same with the timings of another clock, for those that have one."""

        def of(outcome: Outcome) -> Timing | None:
            timing = outcome.clocks.get(clock)
            return timing if isinstance(timing, Timing) else None

        return Result(self.case, tuple(replace(o, timing=of(o)) for o in self.outcomes))

    @property
    def noisy(self) -> bool:
        """Whether a timing that the comparison rests on is noisy."""
        ours, best = self.timing("mbv1"), self.best_peer
        return (ours is not None and ours.noisy) or (best is not None and best[1].noisy)


@dataclass(frozen=True)
class Comparison:
    """The geometric mean of (their time / our time) over ``cases``, and its range: above 1, we are faster."""

    versus: str
    mean: float
    low: float
    high: float
    cases: int

    @classmethod
    def of(cls, versus: str, ratios: Sequence[float]) -> Comparison:
        return cls(versus, geometric_mean(ratios), min(ratios), max(ratios), len(ratios))

    def __str__(self) -> str:
        return f"{self.versus:<38}{self.mean:6.2f}x   ({self.low:.2f} to {self.high:.2f}, {self.cases} cases)"


def compare(results: Sequence[Result], names: Sequence[str]) -> list[Comparison]:
    """mbv1 against each other contender of ``names``, the best peer of each case, and, where a case ran in
    both layouts, our better one against the best peer in either."""
    ratios: dict[str, list[float]] = {name: [] for name in (*names, "the best peer of each case")}
    layouts: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for result in results:
        case, ours, best = result.case, result.timing("mbv1"), result.best_peer
        if ours is None:
            continue
        for name in names:
            theirs = result.timing(name)
            if theirs is not None:
                ratios[name].append(theirs.median / ours.median)
        if best is not None:
            medians = best[1].median, ours.median
            ratios["the best peer of each case"].append(medians[0] / medians[1])
            layouts.setdefault((case.name, case.batch, case.dtype, case.threads), []).append(medians)
    ratios["the best peer, free choice of layout"] = [
        min(theirs for theirs, _ in pair) / min(ours for _, ours in pair)
        for pair in layouts.values()
        if len(pair) > 1
    ]
    return [Comparison.of(versus, found) for versus, found in ratios.items() if found]
