"""What there is to show: the runs of one benchmark on one device, its newest cases, means, worst rows and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..cases import Comparison
from ..contest import OK
from ..environment import commit_time
from ..workload import DTYPES
from .files import Row, Run

OURS = "mbv1"
BEST_PEER = "best peer of each case"
BEST_PEER_QUIET = "best peer, quiet cases"

#: What tells two rows of one case apart, besides the contender.
SETTINGS = ("batch", "dtype", "layout", "threads", "clock")
#: Rows call dtypes by their short names, rooflines by torch's.
_DTYPE_NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}
#: How what does not explain itself is said: settings, and the choice of the best peer.
WORDS = {"batch": "batch {}", "threads": "threads {}", "best": "against the best peer"}
#: Settings whose ratios no mean should mix.
_PARTS = ("dtype", "clock")


@dataclass(frozen=True)
class Contest:
    """One case of a run: a row for each contender, measured in interleaved rounds."""

    run: Run
    rows: tuple[Row, ...]

    @cached_property
    def ours(self) -> Row | None:
        return next((row for row in self.rows if row["contender"] == OURS and row["status"] == OK), None)

    @cached_property
    def best_peer(self) -> Row | None:
        """The fastest that is not this project."""
        timed = (row for row in self.rows if row["status"] == OK and not row["ours"])
        return min(timed, key=lambda row: row["median_us"], default=None)

    @property
    def noisy(self) -> bool:
        """Whether a time that the comparison with the best peer rests on is noisy."""
        return any(row is not None and row.get("noisy") for row in (self.ours, self.best_peer))

    @property
    def ratio(self) -> float | None:
        """The best peer's time over ours: above 1, we are faster."""
        if self.ours is None or self.best_peer is None:
            return None
        return self.best_peer["median_us"] / self.ours["median_us"]

    def setting(self, name: str) -> Any:
        """The value of one of ``SETTINGS``; None where the file doesn't have it."""
        return self.rows[0].get(name)


@dataclass(frozen=True)
class Group:
    """The ``runs`` of one benchmark on one device, oldest first."""

    benchmark: str
    device: str
    runs: Sequence[Run]

    @property
    def title(self) -> str:
        return f"{self.benchmark} on {self.device}"

    @property
    def newest(self) -> Run:
        return self.runs[-1]

    @cached_property
    def contests(self) -> list[Contest]:
        """Each case as the newest run that has it measured it, all contenders from that run."""
        found: dict[object, Contest] = {}
        for run in self.runs:
            found.update(_contests(run))
        return list(found.values())

    @cached_property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(contest.rows[0]["case"] for contest in self.contests))

    @cached_property
    def varying(self) -> list[str]:
        """The settings of which there is more than one value: those worth naming."""
        return [name for name in SETTINGS if len({c.setting(name) for c in self.contests}) > 1]

    @property
    def everywhere(self) -> str:
        """The settings that do not vary, in words, and the case if there is only one."""
        fixed = [name for name in SETTINGS if name not in self.varying]
        values = {name: contest.setting(name) for contest in self.contests for name in fixed}
        known = [words(name, value) for name, value in values.items() if value is not None]
        return " · ".join([*(self.cases if len(self.cases) == 1 else []), *known])

    @cached_property
    def contenders(self) -> dict[str, bool]:
        """Each, and whether it is ours: this project's first, then the peers, in the order of the files."""
        rows = [row for contest in self.contests for row in contest.rows]
        return {row["contender"]: row["ours"] for row in sorted(rows, key=lambda row: not row["ours"])}

    def label(self, contest: Contest) -> str:
        """What tells ``contest`` from the others of the group."""
        parts = [words(name, contest.setting(name)) for name in self.varying]
        return " · ".join([contest.rows[0]["case"], *parts] if len(self.cases) > 1 or not parts else parts)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """One a row: what charts and tables show; a record lacks what its row lacks. Times are in ms; ``speedup`` is
        the contender's time over ours, and its range the widest that the two p20 and p80 allow."""
        found = (self._record(contest, row) for contest in self.contests for row in contest.rows)
        return [{key: value for key, value in record.items() if value is not None} for record in found]

    def _record(self, contest: Contest, row: Row) -> dict[str, Any]:
        found = {
            "label": self.label(contest),
            **{name: row.get(name) for name in ("case", *SETTINGS, "contender", "ours", "status", "reason")},
            "noisy": bool(row.get("noisy")),
            "flop_per_byte": row["flops"] / row["bytes"] if row.get("bytes") and row.get("flops") else None,
            "commit": contest.run.commit,
            "start_s": row.get("start_s"),
            "peak_mb": row["peak_bytes"] / 1e6 if row.get("peak_bytes") is not None else None,
        }
        if row["status"] != OK:
            return found
        rates = ("gb_per_s", "gflop_per_s", "images_per_s", "roofline_percent", "peak_percent")
        found.update(_times(row), **{name: row.get(name) for name in rates})
        ours = contest.ours
        if ours is not None and row is not ours:
            found.update(
                speedup=row["median_us"] / ours["median_us"],
                speedup_low=row["p20_us"] / ours["p80_us"],
                speedup_high=row["p80_us"] / ours["p20_us"],
                pair_noisy=bool(row.get("noisy") or ours.get("noisy")),
                best=row is contest.best_peer,
            )
        return found

    @cached_property
    def comparisons(self) -> list[tuple[str, Comparison]]:
        """Ours against the best peer of each case, the same without noisy cases, and each contender; for each part of
        the group that no mean should mix with another (dtypes, clocks), with the part's name."""
        ratios: dict[tuple[str, str], list[float]] = {}
        parts = [name for name in _PARTS if name in self.varying]
        for contest in self.contests:
            ours = contest.ours
            if ours is None:
                continue
            part = ", ".join(words(name, contest.setting(name)) for name in parts)
            others = [row for row in contest.rows if row["status"] == OK and row is not ours]
            versus = [(row["contender"], row) for row in others]
            if contest.best_peer is not None:
                versus.append((BEST_PEER, contest.best_peer))
                versus += [] if contest.noisy else [(BEST_PEER_QUIET, contest.best_peer)]
            for name, row in versus:
                ratios.setdefault((part, name), []).append(row["median_us"] / ours["median_us"])
        made = [(part, Comparison.of(name, found)) for (part, name), found in ratios.items()]
        parts_in_order = list(dict.fromkeys(part for part, _ in made))
        first = {BEST_PEER: 0, BEST_PEER_QUIET: 1}
        return sorted(made, key=lambda m: (parts_in_order.index(m[0]), first.get(m[1].versus, 2), m[1].mean))

    def worst(self) -> list[Contest]:
        """The cases that have a best peer, the one where we are furthest behind first."""
        compared = [(contest.ratio, contest) for contest in self.contests]
        return [c for _, c in sorted(((r, c) for r, c in compared if r is not None), key=lambda pair: pair[0])]

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Every timed row of every run, at the time of its commit; where that is unknown or the tree had changes, at
        the time of the measurement. Nothing where there is only one such time."""
        times = [commit_time(run.environment.get("commit")) or run.environment["time"] for run in self.runs]
        if len(set(times)) < 2:
            return []
        return [
            {
                "label": self.label(contest),
                **{name: row.get(name) for name in ("case", *SETTINGS, "contender", "ours")},
                **_times(row),
                "noisy": bool(row.get("noisy")),
                "commit": run.commit,
                "time": time,
            }
            for run, time in zip(self.runs, times, strict=True)
            for contest in _contests(run).values()
            for row in contest.rows
            if row["status"] == OK
        ]

    @cached_property
    def roofs(self) -> list[dict[str, Any]]:
        """The limits that the newest runs measured, in GB/s and GFLOP/s, one a number of threads and kind of
        arithmetic: multiply-adds, and matrix products of a dtype where they are faster; else a kernel uses the
        former."""
        found = {}
        for run in self.runs:
            for threads, roofline in run.rooflines.items():
                fma, bandwidth = roofline["fma_gflop_per_s"], roofline["bandwidth_gb_per_s"]
                gemm = {_DTYPE_NAMES.get(k, k): rate for k, rate in roofline.get("gemm_gflop_per_s", {}).items()}
                for dtype, rate in {None: fma, **gemm}.items():
                    if dtype is None or rate > 1.02 * fma:
                        roof = {"threads": threads, "gb_per_s": bandwidth, "gflop_per_s": rate}
                        found[threads, dtype] = {**roof, **({"dtype": dtype} if dtype else {})}
        return list(found.values())

    def missing(self) -> list[tuple[str, str, str]]:
        """What did not run: the contender, why, and where: in how many cases, or in the whole benchmark."""
        counts: dict[tuple[str, str], int] = {}
        for contest in self.contests:
            for row in (row for row in contest.rows if row["status"] != OK):
                key = row["contender"], f"{row['status']}: {row.get('reason') or 'no reason given'}"
                counts[key] = counts.get(key, 0) + 1
        cases = len(self.contests)
        rows = [(name, why, f"{count} of {cases} cases") for (name, why), count in counts.items()]
        rows += [(name, why, "left out") for name, why in self.newest.left_out.items()]
        skipped = self.newest.skipped
        return rows + ([("all", "no time was left", f"{len(skipped)} more, from {skipped[0]}")] if skipped else [])


def group(runs: Sequence[Run]) -> list[Group]:
    """The runs by benchmark and device, in the order of their first files; within a group by time."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.benchmark, run.device), []).append(run)
    return [
        Group(benchmark, device, sorted(members, key=lambda run: run.environment["time"]))
        for (benchmark, device), members in found.items()
    ]


def _contests(run: Run) -> Mapping[object, Contest]:
    found: dict[object, list[Row]] = {}
    for row in run.rows:
        found.setdefault((row["case"], *(row.get(name) for name in SETTINGS)), []).append(row)
    return {key: Contest(run, tuple(rows)) for key, rows in found.items()}


def _times(row: Row) -> dict[str, Any]:
    return {f"{name}_ms": row[f"{name}_us"] / 1e3 for name in ("median", "p20", "p80")}


def words(name: str, value: Any) -> str:
    """The setting ``name`` at ``value``, as a reader would say it."""
    return f"no {name}" if value is None else WORDS.get(name, "{}").format(value)
