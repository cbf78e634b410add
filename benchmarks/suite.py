"""Runs the cases of a benchmark: one line a case, results to JSON, geometric means at the end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from .contest import FAILED, OK, UNAVAILABLE, WRONG, Outcome, contest
from .environment import environment, load_average
from .options import Setting
from .report import Column, Results, Screen, Table, number
from .roofline import Roofline
from .timing import NOISY, Clock, Timing, clock_for, geometric_mean
from .work import Work
from .workload import Workload

#: How many cases are named as the slowest.
_SLOWEST = 3

_ROW_ENVIRONMENT = ("device", "torch", "torch_cuda", "triton", "mbv1_kernels", "commit", "time")


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
    memory: bool = False  # whether the peak of each contender's allocations is worth measuring

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


def run(
    benchmark: str,
    setting: Setting,
    cases: Sequence[Case],
    rooflines: Mapping[int, Roofline],
    screen: Screen,
    notes: Sequence[str],
) -> int:
    """Runs ``cases``, with the roofline for each number of threads; the exit code: 0 where mbv1 ran every case
    and no contender disagreed with the reference."""
    clock = clock_for(setting.device)
    found = environment(setting.device)
    results = Results(
        setting.json,
        {
            "benchmark": benchmark,
            "environment": found,
            "rooflines": {threads: roofline.as_dict() for threads, roofline in rooflines.items()},
            "method": {"clock": clock.description, "budget": vars(setting.budget), "quick": setting.quick},
            "left_out": {**setting.left_out, "notes": list(notes)},
        },
    )
    results.write()
    _print_head(benchmark, setting, found, rooflines, clock.description, notes, screen)
    names = [peer.name for peer in setting.peers if peer.name != "mbv1"]
    table = _table(benchmark, names, max((len(case.name) for case in cases), default=4))
    screen.print(table.header, "bold")
    done: list[Result] = []
    with screen.progress(len(cases)) as show:
        deadline = time.monotonic() + setting.seconds
        for case in cases:
            if time.monotonic() > deadline:
                break
            show(len(done), str(case))
            torch.set_num_threads(case.threads)
            result = Result(case, _outcomes(case, setting, clock))
            done.append(result)
            results.add(_json_rows(benchmark, result, found))
            screen.print(table.line(_cells(benchmark, result, names)))
    skipped = [str(case) for case in cases[len(done) :]]
    return _finish(done, skipped, names, results, screen)


def _outcomes(case: Case, setting: Setting, clock: Clock) -> tuple[Outcome, ...]:
    try:
        workload = case.make()
    except RuntimeError as error:  # out of memory, or a device that an earlier kernel broke
        reason = f"no inputs: {type(error).__name__}: {error}".splitlines()[0]
        return tuple(Outcome(peer.name, peer.ours, FAILED, reason=reason) for peer in setting.peers)
    return tuple(contest(workload, setting.peers, clock, setting.budget, case.memory))


def _print_head(
    benchmark: str,
    setting: Setting,
    found: dict[str, object],
    rooflines: Mapping[int, Roofline],
    clock: str,
    notes: Sequence[str],
    screen: Screen,
) -> None:
    screen.print(f"{benchmark} on {setting.device.type.upper()}: {found['device']}", "bold")
    screen.print(
        f"torch {found['torch']}, mbv1_kernels {found['mbv1_kernels']}, "
        f"load average {found['load_average']}, commit {found['commit'] or 'unknown'}"
    )
    if setting.device.type == "cpu" and (load_average() or 0) > (os.cpu_count() or 1) / 2:
        screen.print("this machine is busy with something else: the times below say little", "yellow")
    for threads, roofline in rooflines.items():
        screen.print(f"roofline with {threads} threads, measured now: {roofline}")
    screen.print(f"times: {clock}; median, p20-p80 of interleaved rounds, after a check of every result")
    for peer in setting.peers:
        screen.print(f"  {peer.name:<14}{peer.title}")
    for name, reason in setting.left_out.items():
        screen.print(f"  {name:<14}left out: {reason}", "dim")
    for note in notes:
        screen.print(f"  {note}", "dim")
    screen.print()


def _table(benchmark: str, names: Sequence[str], widest: int) -> Table:
    metrics = [Column("img/s", 7)] if benchmark == "mobilenet" else []
    return Table(
        (
            Column("case", widest, left=True),
            Column("N", 3),
            Column("dtype", 5, left=True),
            Column("layout", 6, left=True),
            Column("T", 2),
            Column("mbv1 us", 9),
            Column("p20-p80", 15),
            *metrics,
            Column("GB/s", 6),
            Column("GFLOP/s", 8),
            Column("roof", 5),
            Column("peak", 5),
            *(Column(name, max(len(name), 8)) for name in names),
            Column("x best peer", 19, left=True),
        )
    )


def _cells(benchmark: str, result: Result, names: Sequence[str]) -> list[str]:
    case, best = result.case, result.best_peer
    outcomes = {outcome.name: outcome for outcome in result.outcomes}
    ours = outcomes["mbv1"].timing
    cells = [case.name, str(case.batch), case.dtype, case.layout, str(case.threads), _time(outcomes["mbv1"])]
    if ours:
        metrics = case.metrics(ours.median)
        cells.append(f"{number(ours.p20 * 1e6)}-{number(ours.p80 * 1e6)}")
        cells += [number(metrics["images_per_s"])] if benchmark == "mobilenet" else []
        cells += [
            number(metrics["gb_per_s"]),
            number(metrics["gflop_per_s"]),
            f"{metrics['roofline_percent']:.0f}%",
            f"{metrics['peak_percent']:.0f}%",
        ]
    else:
        cells += [""] * (6 if benchmark == "mobilenet" else 5)
    cells += [_time(outcomes[name]) for name in names]
    cells.append(f"{best[1].median / ours.median:.2f} {best[0]}" if best and ours else "")
    return cells


def _time(outcome: Outcome) -> str:
    if outcome.timing is None:
        return "-" if outcome.status == UNAVAILABLE else outcome.status
    return number(outcome.timing.median * 1e6) + ("~" if outcome.timing.noisy else "")


def _json_rows(benchmark: str, result: Result, found: dict[str, object]) -> list[dict[str, object]]:
    case, rows = result.case, []
    for outcome in result.outcomes:
        row: dict[str, object] = {
            "benchmark": benchmark,
            "case": case.name,
            "batch": case.batch,
            "dtype": case.dtype,
            "layout": case.layout,
            **case.facts,
            "bytes": case.work.bytes,
            "flops": case.work.flops,
            "bound_us": case.bound * 1e6,
            "contender": outcome.name,
            "ours": outcome.ours,
            "status": outcome.status,
            "reason": outcome.reason,
            "peak_bytes": outcome.memory,
            "error": outcome.error if outcome.error is not None and math.isfinite(outcome.error) else None,
        }
        if outcome.timing:
            timing = outcome.timing
            row.update(median_us=timing.median * 1e6, p20_us=timing.p20 * 1e6, p80_us=timing.p80 * 1e6)
            row.update(rounds=timing.rounds, preemptions_per_s=timing.preemptions, noisy=timing.noisy)
            row.update(case.metrics(timing.median))
        rows.append({**row, **{key: found[key] for key in _ROW_ENVIRONMENT}, "threads": case.threads})
    return rows


def _finish(
    done: Sequence[Result], skipped: Sequence[str], names: Sequence[str], results: Results, screen: Screen
) -> int:
    if skipped:
        screen.print(f"out of time (--seconds): {len(skipped)} cases left out, from {skipped[0]} on", "yellow")
    comparisons = compare(done, names)
    quiet = [result for result in done if not result.noisy]
    parts = {dtype: [r for r in done if r.case.dtype == dtype] for dtype in {r.case.dtype: None for r in done}}
    for part, results_of_part in {**parts, "quiet cases only": quiet}.items():
        if len(results_of_part) < len(done):
            best = compare(results_of_part, [])[:1]
            comparisons += [replace(comparison, versus=f"the best peer, {part}") for comparison in best]
    if comparisons:
        screen.print("\ngeometric mean of (their time / mbv1's time); above 1, mbv1 is faster", "bold")
    for comparison in comparisons:
        screen.print(f"  {comparison}")
    percents = [r.case.metrics(t.median)["roofline_percent"] for r in done if (t := r.timing("mbv1"))]
    if len(quiet) < len(done):
        screen.print(
            f"  ~ noisy: p80 > {NOISY:g} x p20 or cores taken away; other load, and the time says little",
            "yellow",
        )
    if percents:
        screen.print(f"  {'of the roofline':<38}{geometric_mean(percents):6.1f}%")
    _print_slowest(done, screen)
    _print_memory(done, screen)
    problems = _problems(done, screen)
    results.finish(comparisons=[vars(c) for c in comparisons], problems=problems, skipped=list(skipped))
    return 1 if problems else 0


def _print_slowest(done: Sequence[Result], screen: Screen) -> None:
    """The cases where most is left to gain, against the roofline and against the best peer."""
    timed = [(result, timing, result.best_peer) for result in done if (timing := result.timing("mbv1"))]
    if len(timed) <= _SLOWEST:
        return
    shares = sorted((r.case.metrics(t.median)["roofline_percent"], str(r.case)) for r, t, _ in timed)
    ratios = sorted((best[1].median / t.median, f"{r.case} ({best[0]})") for r, t, best in timed if best)
    screen.print("\nmost left to gain", "bold")
    screen.print("  of the roofline: " + ", ".join(f"{case} {share:.0f}%" for share, case in shares[:_SLOWEST]))
    screen.print("  against the best peer: " + ", ".join(f"{case} {x:.2f}x" for x, case in ratios[:_SLOWEST]))


def _print_memory(done: Sequence[Result], screen: Screen) -> None:
    """The peak of what a call allocates, in MB, and how many times mbv1's that is."""
    lines = []
    for result in done:
        peaks = {o.name: o.memory for o in result.outcomes if o.memory is not None}
        ours = peaks.get("mbv1")
        if ours:
            cells = (f"{name} {peak / 1e6:.1f} ({peak / ours:.2f}x)" for name, peak in peaks.items())
            lines.append(f"  {result.case}: {', '.join(cells)}")
    if lines:
        screen.print("\npeak of what a call allocates through torch (its activations), MB", "bold")
    for line in lines:
        screen.print(line)


def _problems(done: Sequence[Result], screen: Screen) -> list[str]:
    """Prints every contender that did not run, and once for each reason where one could not; returns what makes
    the run a failure."""
    problems = []
    printed = set()
    for result in done:
        for outcome in (o for o in result.outcomes if o.status != OK):
            line = f"{outcome.status}: {outcome.name}, {result.case}: {outcome.reason}"
            bad = outcome.status == WRONG or outcome.name == "mbv1" or (outcome.ours and outcome.status == FAILED)
            reason = (outcome.name, outcome.reason)
            if outcome.status != UNAVAILABLE or reason not in printed:
                screen.print(line, "bold red" if bad else "dim")
            printed.add(reason)
            if bad:
                problems.append(line)
    if problems:
        screen.print(f"\nFAILED: {len(problems)} results are wrong or missing", "bold red")
    return problems
