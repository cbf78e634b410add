"""Steps of a longer run: processes of their own within a time that they share, each one's output in a log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .environment import ROOT
from .report import Column, Screen, Table

OK, FAILED, SKIPPED = "ok", "failed", "skipped"

#: Of a step's seconds, what ``{seconds}`` in its command stands for: the rest is for starting and ending.
_OWN = 0.75


@dataclass(frozen=True)
class Step:
    """A command, with ``variables`` added to its environment. It may take ``share`` of the time that is left when it
    starts, of which ``{seconds}`` in it tells it. With a ``reason`` it is skipped."""

    name: str
    command: tuple[str, ...]
    share: float = 1.0
    variables: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Done:
    """What became of a step; ``code`` is None where it ran out of time, could not start or was skipped."""

    name: str
    status: str
    code: int | None
    seconds: float
    note: str = ""


@dataclass
class Runner:
    """Runs steps until ``deadline`` (of ``time.monotonic``), keeps what they print and what became of them in
    ``out``, and never raises for a step's failure."""

    out: Path
    variables: Mapping[str, str]
    screen: Screen
    deadline: float
    least: float = 15.0  # no step is started with fewer seconds: torch alone takes some to start
    done: list[Done] = field(default_factory=list)

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            left = self.deadline - time.monotonic()
            if step.reason is not None:
                self._add(Done(step.name, SKIPPED, None, 0.0, step.reason))
            elif left < self.least:
                self._add(Done(step.name, SKIPPED, None, 0.0, "no time left"))
            else:
                self._add(self._run(step, max(self.least, step.share * left)))

    @property
    def failed(self) -> bool:
        return any(d.status == FAILED for d in self.done)

    def print_summary(self) -> None:
        widest = max(len(d.name) for d in self.done)
        columns = (Column("step", widest, True), Column("result", 7), Column("seconds", 7), Column("", 0, True))
        table = Table(columns)
        self.screen.print(f"\n{table.header}", "bold")
        styles = {OK: None, FAILED: "bold red", SKIPPED: "yellow"}
        for d in self.done:
            line = table.line([d.name, d.status, f"{d.seconds:.1f}", d.note[:160]])
            self.screen.print(line, styles[d.status])
        self.screen.print(f"logs and results: {self.out}")

    def _add(self, done: Done) -> None:
        self.done.append(done)
        with (self.out / "steps.jsonl").open("a") as file:
            file.write(json.dumps(asdict(done)) + "\n")

    def _run(self, step: Step, limit: float) -> Done:
        """Runs ``step``, printing its output and writing it to a log as it comes."""
        log = self.out / (re.sub(r"\W+", "-", step.name).strip("-") + ".log")
        command = [part.replace("{seconds}", f"{limit * _OWN:.0f}") for part in step.command]
        self.screen.print(f"\n== {step.name} (at most {limit:.0f} s): {' '.join(command)}", "bold")
        start = time.monotonic()
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.variables, **step.variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            log.write_text(f"{error}\n")
            self.screen.print(str(error), "bold red")
            return Done(step.name, FAILED, None, 0.0, f"could not start: {error.strerror}")
        last, timed_out = "", threading.Event()
        with log.open("w") as file, _limit(process, limit, timed_out.set):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                file.flush()
                self.screen.print(line.rstrip("\n"))
                last = line.strip() or last
            code = process.wait()
        seconds = time.monotonic() - start
        if timed_out.is_set():
            return Done(step.name, FAILED, None, seconds, f"ran out of its {limit:.0f} s; last: {last}")
        return Done(step.name, FAILED if code else OK, code, seconds, last if code else "")


@contextlib.contextmanager
def _limit(process: subprocess.Popen, seconds: float, note: Callable[[], None]) -> Iterator[None]:
    """Ends ``process`` and everything that it started after so many seconds, or when this is left by an error."""

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop() -> None:
        note()
        end()

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        yield
    except BaseException:
        end()
        raise
    finally:
        timer.cancel()
