"""The first minutes on a machine with a GPU, without a network: environment, build, checks, benchmarks.

    python -m benchmarks.gpu_check [--wheel FILE | --installed] [--out FOLDER]

Each step is a process of its own with a time limit, and its output is in FOLDER as it comes; a step that
fails is reported and the others still run. Needs torch alone; pytest and rich are used where they are
installed. Without a GPU it ends after the environment step with exit code 2, unless ``--rehearse`` has it run
every step on what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .report import Column, Screen, Table

ROOT = Path(__file__).resolve().parent.parent
NO_GPU = 2

_PROBE = """
import json, torch
if torch.cuda.is_available():
    print(json.dumps({"name": torch.cuda.get_device_name(),
                      "capability": "%d.%d" % torch.cuda.get_device_capability()}))
"""


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: str


@dataclass(frozen=True)
class Step:
    """A command, in seconds at most."""

    name: str
    command: tuple[str, ...]
    limit: float


@dataclass(frozen=True)
class Done:
    """What became of a step; ``code`` is None where it ran out of time or could not start."""

    name: str
    ok: bool
    code: int | None
    seconds: float
    note: str


def environment_steps() -> list[Step]:
    """What the machine says of itself. A tool that is missing is a failed step."""
    return [
        Step("nvidia-smi", ("nvidia-smi",), 60),
        Step("nvcc", ("nvcc", "--version"), 60),
        Step("torch", (sys.executable, "-m", "benchmarks.environment"), 180),
    ]


def install_step(wheel: Path | None, site: Path) -> Step:
    """The wheel into a folder of its own, or a build in the checkout for this machine's GPU."""
    if wheel is not None:
        options = ("--no-deps", "--no-index", "--upgrade", "--target", str(site))
        pip = (sys.executable, "-m", "pip", "install", *options, str(wheel.resolve()))
        return Step("install wheel", pip, 180)
    return Step("build", (sys.executable, "setup.py", "build_ext", "--inplace"), 900)


def check_steps(device: str, wheel: bool) -> list[Step]:
    """The smoke test of every op on every backend, and the tests that run on the device itself."""
    steps = [Step("smoke", (sys.executable, "-m", "benchmarks.smoke", "--device", device), 600)]
    if importlib.util.find_spec("pytest") is None:
        return steps
    tests = (
        ("tests/cuda", "tests/triton/test_triton_ops.py")
        if device == "cuda"
        else ("tests/mbv1_kernels/test_checks.py",)
    )
    # With a wheel, its packages and not the checkout's are tested.
    paths = ("-o", "pythonpath=") if wheel else ()
    options = ("-q", "-p", "no:cacheprovider", "--durations=5", "--continue-on-collection-errors", *paths)
    return [*steps, Step("tests", (sys.executable, "-m", "pytest", *tests, *options), 600)]


def benchmark_steps(device: str, out: Path, full: bool) -> list[Step]:
    """Both benchmarks, shortest first, so that an early end leaves the most."""
    steps = []
    for quick in (True, False) if full else (True,):
        for name in ("dwconv", "mobilenet"):
            kind = "quick" if quick else "full"
            results = ("--json", str(out / f"{name}-{kind}.json"))
            length = ("--quick",) if quick else ("--seconds", "780")
            command = (sys.executable, "-m", f"benchmarks.{name}", "--device", device, *results, *length)
            steps.append(Step(f"{name} {kind}", command, 300 if quick else 900))
    return steps


def run_step(step: Step, out: Path, variables: dict[str, str], screen: Screen) -> Done:
    """Runs ``step``, printing its output and writing it to a log as it comes. Never raises for a step's
    failure."""
    log = out / (re.sub(r"\W+", "-", step.name).strip("-") + ".log")
    start = time.monotonic()
    screen.print(f"\n== {step.name} (at most {step.limit:.0f} s): {' '.join(step.command)}", "bold")
    try:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        log.write_text(f"{error}\n")
        screen.print(str(error), "bold red")
        return Done(step.name, False, None, 0.0, f"could not start: {error.strerror}")
    timed_out = threading.Event()

    def stop() -> None:
        timed_out.set()
        _kill(process)

    timer = threading.Timer(step.limit, stop)
    timer.start()
    last = ""
    try:
        assert process.stdout is not None
        with log.open("w") as file:
            for line in process.stdout:
                file.write(line)
                file.flush()
                screen.print(line.rstrip("\n"))
                last = line.strip() or last
        code = process.wait()
    except BaseException:
        _kill(process)
        raise
    finally:
        timer.cancel()
    seconds = time.monotonic() - start
    if timed_out.is_set():
        return Done(step.name, False, None, seconds, f"ran out of its {step.limit:.0f} s")
    return Done(step.name, code == 0, code, seconds, "" if code == 0 else last)


def _kill(process: subprocess.Popen) -> None:
    """The step and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def probe() -> Gpu | None:
    """The GPU that torch can use. In a process of its own: a broken driver may hang or crash it."""
    try:
        run = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=180)
        return Gpu(**json.loads(run.stdout.splitlines()[-1]))
    except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError):
        return None


def run_steps(steps: Sequence[Step], out: Path, variables: dict[str, str], screen: Screen, done: list[Done]) -> None:
    """Runs ``steps`` in order, appends to ``done`` and keeps ``summary.json`` up to date."""
    for step in steps:
        done.append(run_step(step, out, variables, screen))
        (out / "summary.json").write_text(json.dumps([asdict(d) for d in done], indent=1) + "\n")


def step_variables(wheel: Path | None, site: Path, capability: str | None) -> dict[str, str]:
    """The steps' environment. With a wheel, its packages come before the checkout's of the same name."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if capability is not None:
        variables.setdefault("TORCH_CUDA_ARCH_LIST", capability)
    if wheel is not None:
        paths = [str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]
        variables.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), PYTHONSAFEPATH="1")
    return variables


def print_summary(done: Sequence[Done], out: Path, screen: Screen) -> None:
    columns = (
        Column("step", max(len(d.name) for d in done), True),
        Column("result", 6),
        Column("seconds", 7),
    )
    table = Table((*columns, Column("", 0, True)))
    screen.print(f"\n{table.header}", "bold")
    for d in done:
        line = table.line([d.name, "ok" if d.ok else "FAILED", f"{d.seconds:.1f}", d.note[:160]])
        screen.print(line, None if d.ok else "bold red")
    screen.print(f"logs and results: {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every step; 0 where all succeeded, 1 where any failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="install this wheel instead of building")
    parser.add_argument("--installed", action="store_true", help="neither install nor build: check what is there")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/results/<device>-<date>")
    parser.add_argument("--quick", action="store_true", help="the quick benchmarks only")
    parser.add_argument("--rehearse", action="store_true", help="run on the CPU where there is no GPU")
    given = parser.parse_args(arguments)
    if given.wheel is not None and not given.wheel.is_file():
        parser.error(f"--wheel: expected a file, got {given.wheel}")

    gpu, screen = probe(), Screen()
    slug = re.sub(r"\W+", "-", gpu.name if gpu else "cpu").strip("-").lower()
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = (given.out or ROOT / "benchmarks" / "results" / f"{slug}-{date}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    site = out / "site"
    variables = step_variables(given.wheel, site, gpu.capability if gpu else None)

    done: list[Done] = []
    run_steps(environment_steps(), out, variables, screen, done)
    if gpu is None and not given.rehearse:
        print_summary(done, out, screen)
        screen.print(
            "torch finds no GPU here: nothing more to check. --rehearse runs the steps on the CPU.",
            "bold red",
        )
        return NO_GPU
    device = "cpu" if gpu is None else "cuda"
    steps = [] if given.installed else [install_step(given.wheel, site)]
    steps += check_steps(device, given.wheel is not None)
    steps += benchmark_steps(device, out, full=not given.quick)
    run_steps(steps, out, variables, screen, done)
    print_summary(done, out, screen)
    return 0 if all(d.ok for d in done) else 1


if __name__ == "__main__":
    sys.exit(main())
