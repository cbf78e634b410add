"""The first minutes on a machine with a GPU, without a network: environment, build, checks, benchmarks.

    python -m benchmarks.gpu_check [--minutes 8] [--wheel FILE | --installed] [--out FOLDER]

Each step is a process of its own that gets a share of the time that is left, and its output and results are in FOLDER
as they come; a step that fails is reported and the others still run. At the end: ours, each peer, the floor, and the
ten worst rows. Needs torch alone; pytest, rich and compute-sanitizer are used where they are installed. Without a GPU
it ends after the environment with exit code 2, unless ``--rehearse`` has it run every step on what there is: the
benchmarks on the CPU, and the CUDA tests on the device that tools/cudacpu emulates.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .environment import ROOT
from .peers import BENCHMARKS, find_peers
from .report import Screen
from .result_files import load_all
from .steps import Runner, Step
from .summary import print_summary

NO_GPU = 2

_PROBE = """
import json, torch
if torch.cuda.is_available():
    print(json.dumps({"name": torch.cuda.get_device_name(),
                      "capability": "%d.%d" % torch.cuda.get_device_capability()}))
"""

_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", "--continue-on-collection-errors")


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: str


def environment_steps() -> list[Step]:
    """What the machine says of itself; a tool that is missing is skipped."""
    tools = {"nvidia-smi": ("nvidia-smi",), "nvcc": ("nvcc", "--version")}
    steps = [
        Step(name, command, 0.1, reason=None if shutil.which(name) else f"{name} is not installed")
        for name, command in tools.items()
    ]
    return [*steps, Step("torch", (sys.executable, "-m", "benchmarks.environment"), 0.2)]


def install_step(wheel: Path | None, site: Path) -> Step:
    """The wheel into a folder of its own, or a build in the checkout for this machine's GPU."""
    if wheel is not None:
        options = ("--no-deps", "--no-index", "--upgrade", "--target", str(site))
        pip = (sys.executable, "-m", "pip", "install", *options, str(wheel.resolve()))
        return Step("install wheel", pip, 0.3)
    return Step("build", (sys.executable, "setup.py", "build_ext", "--inplace"), 0.6)


def check_steps(device: str, wheel: bool) -> list[Step]:
    """The smoke test of every op on every backend, the CUDA tests, and the sanitizer on small cases."""
    smoke = (sys.executable, "-m", "benchmarks.smoke", "--device", device)
    return [Step("smoke", smoke, 0.3), *test_steps(device, wheel), *sanitizer_steps(device)]


def test_steps(device: str, wheel: bool) -> list[Step]:
    """The CUDA tests, on the device itself."""
    if device != "cuda":
        return emulated_test_steps()
    reason = None if importlib.util.find_spec("pytest") else "pytest is not installed"
    # With a wheel, its packages and not the checkout's are tested.
    paths = ("-o", "pythonpath=") if wheel else ()
    tests = ("tests/cuda", "tests/triton/test_triton_ops.py")
    return [Step("CUDA tests", (sys.executable, *_PYTEST, *tests, *paths), 0.5, reason=reason)]


def emulated_test_steps() -> list[Step]:
    """The CUDA tests on the device that tools/cudacpu emulates; the kernels' also with its check for races."""
    tools = {"nvcc": shutil.which("nvcc"), "pytest": importlib.util.find_spec("pytest")}
    reason = next((f"{name} is not installed" for name, found in tools.items() if found is None), None)
    sources = sorted(map(str, (ROOT / "csrc" / "cuda").glob("*.cu")))
    emulated = (sys.executable, "-m", "cudacpu", "--sources", *sources, "--nvcc-flags=-std=c++20")
    pytest = ("--", sys.executable, *_PYTEST, "tests/cuda")
    paths = [str(ROOT / "tools" / "cudacpu"), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    races = ("--sanitize", "races", *pytest, "-k", "test_cuda or test_tf32 or test_fused_net")
    return [
        Step("CUDA tests, emulated", (*emulated, *pytest), 0.5, variables, reason),
        Step("races, emulated", (*emulated, *races), 0.4, variables, reason),
    ]


def sanitizer_steps(device: str) -> list[Step]:
    """compute-sanitizer over the small calls of the smoke test, our kernels alone: every tensor is an allocation of
    its own, so that no access past its end falls into another."""
    reason = None if shutil.which("compute-sanitizer") else "compute-sanitizer is not installed"
    reason = reason if device == "cuda" else "needs a GPU"
    smoke = (sys.executable, "-m", "benchmarks.smoke", "--device", "cuda", "--backends", "cuda", "--small")
    checked = ("--kernel-name", "kns=mbv1", "--error-exitcode", "1")
    return [
        Step(
            tool,
            ("compute-sanitizer", "--tool", tool, *checked, *smoke),
            0.2,
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            reason,
        )
        for tool in ("memcheck", "racecheck")
    ]


def benchmark_steps(device: str, out: Path, quick_only: bool) -> list[Step]:
    """Every benchmark, shortest first, so that an early end leaves the most: quick runs, then the default ones with
    the peers that are quick to start, then with all peers."""
    kinds = ("quick",) if quick_only else ("quick", "default", "all peers")
    steps = []
    for kind in kinds:
        for i, name in enumerate(BENCHMARKS):
            results = str(out / f"{name}-{kind.replace(' ', '-')}.json")
            command = (sys.executable, "-m", f"benchmarks.{name}", "--device", device, "--json", results)
            # Each gets as much as those of its kind after it, and as the next kind together.
            share = 1 / (len(BENCHMARKS) - i + (kind != kinds[-1]))
            steps.append(Step(f"{name} {kind}", (*command, *_length(name, kind, device)), share))
    return steps


def _length(name: str, kind: str, device: str) -> tuple[str, ...]:
    import torch

    limit = ("--seconds", "{seconds}")
    if kind == "quick":
        return ("--quick", *limit)
    if kind == "all peers":
        return ("--peers", "all", *limit)
    quick = [p.name for p in find_peers(name) if p.left_out(torch.device(device), quick=True) is None]
    return ("--peers", *quick, *limit)


def probe() -> Gpu | None:
    """The GPU that torch can use. In a process of its own: a broken driver may hang or crash it."""
    try:
        run = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=180)
        return Gpu(**json.loads(run.stdout.splitlines()[-1]))
    except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError):
        return None


def step_variables(wheel: Path | None, site: Path, capability: str | None) -> dict[str, str]:
    """The steps' environment. With a wheel, its packages come before the checkout's of the same name."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if capability is not None:
        variables.setdefault("TORCH_CUDA_ARCH_LIST", capability)
    if wheel is not None:
        paths = [str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]
        variables.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), PYTHONSAFEPATH="1")
    return variables


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs every step; 0 where none failed, 1 where any did, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help="for all of it (8)")
    install = parser.add_mutually_exclusive_group()
    install.add_argument("--wheel", type=Path, metavar="FILE", help="install this wheel instead of building")
    install.add_argument("--installed", action="store_true", help="neither install nor build: check what is there")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/results/<device>-<date>")
    parser.add_argument("--quick", action="store_true", help="the quick benchmarks only")
    parser.add_argument("--rehearse", action="store_true", help="run on what there is where there is no GPU")
    given = parser.parse_args(arguments)
    if given.wheel is not None and not given.wheel.is_file():
        parser.error(f"--wheel: expected a file, got {given.wheel}")

    deadline = time.monotonic() + 60 * given.minutes
    gpu, screen = probe(), Screen()
    slug = re.sub(r"\W+", "-", gpu.name if gpu else "cpu").strip("-").lower()
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = (given.out or ROOT / "benchmarks" / "results" / f"{slug}-{date}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    site = out / "site"
    runner = Runner(out, step_variables(given.wheel, site, gpu.capability if gpu else None), screen, deadline)
    runner.run(environment_steps())
    if gpu is None and not given.rehearse:
        runner.print_summary()
        note = "torch finds no GPU here: nothing more to check. --rehearse runs the steps on what there is."
        screen.print(note, "bold red")
        return NO_GPU
    device = "cpu" if gpu is None else "cuda"
    if not given.installed:
        runner.run([install_step(given.wheel, site)])
    runner.run(check_steps(device, given.wheel is not None))
    runner.run(benchmark_steps(device, out, given.quick))
    _print_results(out, screen)
    runner.print_summary()
    return 1 if runner.failed else 0


def _print_results(out: Path, screen: Screen) -> None:
    try:
        print_summary(load_all([out]), screen)
    except ValueError as error:  # no benchmark came far enough to write anything
        screen.print(f"no results: {error}", "bold red")


if __name__ == "__main__":
    sys.exit(main())
