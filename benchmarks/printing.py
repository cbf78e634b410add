"""What a benchmark prints: a head, one line a case, and what stands out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from .cases import Result
from .contest import FAILED, OK, UNAVAILABLE, WRONG, Outcome
from .environment import load_average
from .options import Setting
from .report import Column, Screen, Table, number
from .roofline import Roofline
from .timing import Clock

#: How many cases are named as the slowest.
_SLOWEST = 3


def print_head(
    benchmark: str,
    setting: Setting,
    found: dict[str, object],
    rooflines: Mapping[int, Roofline],
    clocks: Sequence[Clock],
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
    screen.print(
        f"times: {clocks[0].description}; median, p20-p80 of interleaved rounds, after a check of every result"
    )
    for clock in clocks[1:]:
        screen.print(f"  and in the results, {clock.name}: {clock.description}")
    for peer in setting.peers:
        screen.print(f"  {peer.name:<14}{peer.title}")
    for name, reason in setting.left_out.items():
        screen.print(f"  {name:<14}left out: {reason}", "dim")
    for note in notes:
        screen.print(f"  {note}", "dim")
    screen.print()


def table(benchmark: str, names: Sequence[str], widest: int) -> Table:
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


def cells(benchmark: str, result: Result, names: Sequence[str]) -> list[str]:
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


def print_slowest(done: Sequence[Result], screen: Screen) -> None:
    """The cases where most is left to gain, against the roofline and against the best peer."""
    timed = [(result, timing, result.best_peer) for result in done if (timing := result.timing("mbv1"))]
    if len(timed) <= _SLOWEST:
        return
    shares = sorted((r.case.metrics(t.median)["roofline_percent"], str(r.case)) for r, t, _ in timed)
    ratios = sorted((best[1].median / t.median, f"{r.case} ({best[0]})") for r, t, best in timed if best)
    screen.print("\nmost left to gain", "bold")
    screen.print("  of the roofline: " + ", ".join(f"{case} {share:.0f}%" for share, case in shares[:_SLOWEST]))
    screen.print("  against the best peer: " + ", ".join(f"{case} {x:.2f}x" for x, case in ratios[:_SLOWEST]))


def print_memory(done: Sequence[Result], screen: Screen) -> None:
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


def problems(done: Sequence[Result], screen: Screen) -> list[str]:
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
