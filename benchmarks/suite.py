"""Runs the cases of a benchmark: one line a case, results to JSON, geometric means at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from .cases import Case, Result, compare
from .contest import FAILED, Outcome, contest
from .environment import environment
from .options import Setting
from .peers import MOBILENET
from .printing import cells, print_head, print_memory, print_slowest, problems, table
from .report import Screen
from .result_files import Results
from .roofline import Roofline
from .timing import NOISY, Clock, Timing, clocks_for, geometric_mean

#: Of more cases, and of layers, the memory that they take is in the results alone.
_FEW = 16

_ROW_ENVIRONMENT = ("device", "torch", "torch_cuda", "triton", "mbv1_kernels", "commit", "time")


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
    clocks = clocks_for(setting.device)
    found = environment(setting.device)
    results = Results(
        setting.json,
        {
            "benchmark": benchmark,
            "environment": found,
            "rooflines": {threads: roofline.as_dict() for threads, roofline in rooflines.items()},
            "method": {
                "clock": clocks[0].description,
                "clocks": {clock.name: clock.description for clock in clocks},
                "budget": vars(setting.budget),
                "quick": setting.quick,
            },
            "left_out": {**setting.left_out, "notes": list(notes)},
        },
    )
    results.write()
    print_head(benchmark, setting, found, rooflines, clocks, notes, screen)
    names = [peer.name for peer in setting.peers if peer.name != "mbv1"]
    columns = table(benchmark, names, max((len(case.name) for case in cases), default=4))
    screen.print(columns.header, "bold")
    done: list[Result] = []
    with screen.progress(len(cases)) as show, _stream(setting.device):
        deadline = time.monotonic() + setting.seconds
        for case in cases:
            if time.monotonic() > deadline:
                break
            show(len(done), str(case))
            torch.set_num_threads(case.threads)
            result = Result(case, _outcomes(case, setting, clocks))
            done.append(result)
            results.add(_json_rows(benchmark, result, clocks[0].name, found))
            screen.print(columns.line(cells(benchmark, result, names)))
    skipped = [str(case) for case in cases[len(done) :]]
    return _finish(benchmark, done, skipped, names, [clock.name for clock in clocks[1:]], results, screen)


def _stream(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU a stream other than the default one, on which TensorRT would wait for every call."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext()


def _outcomes(case: Case, setting: Setting, clocks: Sequence[Clock]) -> tuple[Outcome, ...]:
    try:
        workload = case.make()
    except RuntimeError as error:  # out of memory, or a device that an earlier kernel broke
        reason = f"no inputs: {type(error).__name__}: {error}".splitlines()[0]
        return tuple(Outcome(peer.name, peer.ours, FAILED, reason=reason) for peer in setting.peers)
    return tuple(contest(workload, setting.peers, clocks, setting.budget))


def _json_rows(benchmark: str, result: Result, clock: str, found: dict[str, object]) -> list[dict[str, object]]:
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
            "kernel_name": outcome.kernel,
            "status": outcome.status,
            "reason": outcome.reason,
            "peak_bytes": outcome.memory,
            "start_s": outcome.start,
            "error": outcome.error if outcome.error is not None and math.isfinite(outcome.error) else None,
        }
        if outcome.timing:
            row.update(clock=clock, preemptions_per_s=outcome.timing.preemptions)
            row.update(_times(case, outcome.timing), **case.metrics(outcome.timing.median))
            others = {name: t for name, t in outcome.clocks.items() if name != clock}
            row["other_clocks"] = {
                name: _times(case, t) if isinstance(t, Timing) else {"reason": t} for name, t in others.items()
            }
        rows.append({**row, **{key: found[key] for key in _ROW_ENVIRONMENT}, "threads": case.threads})
    return rows


def _times(case: Case, timing: Timing) -> dict[str, object]:
    times = {"median_us": timing.median * 1e6, "p20_us": timing.p20 * 1e6, "p80_us": timing.p80 * 1e6}
    share = 100 * case.bound / timing.median
    return {**times, "rounds": timing.rounds, "noisy": timing.noisy, "roofline_percent": share}


def _finish(
    benchmark: str,
    done: Sequence[Result],
    skipped: Sequence[str],
    names: Sequence[str],
    other_clocks: Sequence[str],
    results: Results,
    screen: Screen,
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
    for clock in other_clocks:
        best = compare([result.by(clock) for result in done], [])[:1]
        comparisons += [replace(comparison, versus=f"the best peer, {clock}") for comparison in best]
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
    print_slowest(done, screen)
    if benchmark == MOBILENET and len(done) <= _FEW:
        print_memory(done, screen)
    found = problems(done, screen)
    results.finish(comparisons=[vars(c) for c in comparisons], problems=found, skipped=list(skipped))
    return 1 if found else 0
