"""The steps of the GPU check and what it ends with; the steps themselves are replaced by small ones."""

import json
import sys

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Gpu, benchmark_steps, check_steps, environment_steps
from benchmarks.result_files import Results
from benchmarks.steps import Step


def python(name: str, code: str) -> Step:
    return Step(name, (sys.executable, "-c", code))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(gpu_check, "probe", lambda: None)


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(gpu_check, "environment_steps", lambda: [python("environment", "print('env')")])
    monkeypatch.setattr(gpu_check, "install_step", lambda wheel, site: python("build", "raise SystemExit(1)"))
    monkeypatch.setattr(gpu_check, "check_steps", lambda device, wheel: [python("checks", "print('fine')")])

    def benchmarks(device, out, quick_only):
        row = {"benchmark": "dwconv", "case": "deep", "batch": 1, "dtype": "fp16", "layout": "nhwc", "threads": 1}
        times = {"status": "ok", "median_us": 20.0, "bound_us": 5.0, "noisy": False}
        rows = [{**row, **times, "contender": "mbv1", "ours": True}]
        rows.append({**row, **times, "contender": "eager", "ours": False, "median_us": 15.0})
        Results(out / "dwconv-quick.json", {"benchmark": "dwconv"}, rows).write()
        return [python("benchmark", "raise SystemExit(9)")]

    monkeypatch.setattr(gpu_check, "benchmark_steps", benchmarks)


def names(out):
    done = map(json.loads, (out / "steps.jsonl").read_text().splitlines())
    return {d["name"]: d["status"] for d in done}


def test_it_survives_failing_steps_and_ends_with_what_was_measured(no_gpu, small_steps, tmp_path, capsys):
    assert gpu_check.main(["--rehearse", "--out", str(tmp_path)]) == 1
    assert names(tmp_path) == {"environment": "ok", "build": "failed", "checks": "ok", "benchmark": "failed"}
    printed = capsys.readouterr().out
    assert "the 1 worst of 1 against the best peer" in printed and "0.75 eager" in printed
    assert "dwconv: cut short after 2 rows" in printed and "failed" in printed


def test_without_a_gpu_only_the_environment_is_reported(no_gpu, small_steps, tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path)]) == gpu_check.NO_GPU
    assert names(tmp_path) == {"environment": "ok"}
    assert "torch finds no GPU here" in capsys.readouterr().out


def test_all_steps_well_is_success_even_without_results(no_gpu, monkeypatch, tmp_path, capsys):
    for name in ("environment_steps", "check_steps", "benchmark_steps"):
        monkeypatch.setattr(gpu_check, name, lambda *args, **kwargs: [python("fine", "pass")])
    assert gpu_check.main(["--rehearse", "--installed", "--out", str(tmp_path)]) == 0
    assert "no results" in capsys.readouterr().out


def test_on_a_gpu_it_is_built_for_that_gpu(small_steps, monkeypatch, tmp_path):
    seen = []

    def checks(device, wheel):
        seen.append(device)
        return [python("arch", "import os; print(os.environ['TORCH_CUDA_ARCH_LIST'])")]

    monkeypatch.setattr(gpu_check, "probe", lambda: Gpu("chip", "9.0"))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(gpu_check, "check_steps", checks)
    gpu_check.main(["--installed", "--out", str(tmp_path)])
    assert (tmp_path / "arch.log").read_text() == "9.0\n" and seen == ["cuda"]


def test_a_wheel_comes_before_the_checkout(tmp_path):
    site = tmp_path / "site"
    variables = gpu_check.step_variables(tmp_path / "w.whl", site, None)
    assert variables["PYTHONPATH"].split(":")[:2] == [str(site), str(gpu_check.ROOT)]
    assert variables["PYTHONSAFEPATH"] == "1"
    assert "--no-index" in gpu_check.install_step(tmp_path / "w.whl", site).command


def test_a_missing_wheel_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--wheel", str(tmp_path / "none.whl")])
    assert "--wheel: expected a file" in capsys.readouterr().err


def test_tools_that_are_missing_are_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    reasons = {step.name: step.reason for step in (*environment_steps(), *check_steps("cuda", wheel=False))}
    assert reasons.pop("torch") is reasons.pop("smoke") is None
    assert reasons.pop("CUDA tests") == "pytest is not installed"
    for tool in ("memcheck", "racecheck"):
        assert reasons.pop(tool) == "compute-sanitizer is not installed"
    assert all(reason == f"{name} is not installed" for name, reason in reasons.items())


def test_on_a_gpu_the_tests_run_on_the_gpu_itself():
    """Nothing is emulated there: that is for machines without one, and takes longer than the step has."""
    tests = next(step for step in check_steps("cuda", wheel=False) if step.name == "CUDA tests")
    paths = [part for part in tests.command if part.startswith("tests/")]
    assert "tests/cuda" in paths and all((gpu_check.ROOT / path).exists() for path in paths)
    assert not {"tests", "tests/test_cuda_executor.py", "tests/triton"} & set(paths)


def test_without_a_gpu_the_cuda_tests_run_on_the_emulated_device(monkeypatch):
    steps = {step.name: step for step in check_steps("cpu", wheel=False)}
    for name in ("CUDA tests, emulated", "races, emulated"):
        command = steps[name].command
        assert command[1:3] == ("-m", "cudacpu") and "tests/cuda" in command[command.index("--") :]
        assert any(part.endswith("dwconv2d.cu") for part in command)
        assert steps[name].variables["PYTHONPATH"].split(":")[0].endswith("tools/cudacpu")
    assert "--sanitize" in steps["races, emulated"].command
    assert steps["memcheck"].reason == "needs a GPU"
    monkeypatch.setattr(gpu_check.shutil, "which", lambda name: None)
    steps = {step.name: step for step in check_steps("cpu", wheel=False)}
    assert steps["races, emulated"].reason == "nvcc is not installed"


def test_the_sanitizer_checks_our_kernels_on_small_calls():
    steps = {step.name: step for step in check_steps("cuda", wheel=False)}
    command = " ".join(steps["racecheck"].command)
    assert command.startswith("compute-sanitizer --tool racecheck --kernel-name kns=mbv1 --error-exitcode 1")
    assert command.endswith("-m benchmarks.smoke --device cuda --backends cuda --small")
    assert steps["memcheck"].variables == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def test_benchmarks_run_shortest_first_within_the_time(tmp_path):
    steps = benchmark_steps("cuda", tmp_path, quick_only=False)
    suites = ("dwconv", "pwconv", "separable", "mobilenet")
    expected = [f"{name} {kind}" for kind in ("quick", "default", "all peers") for name in suites]
    assert [step.name for step in steps] == expected
    assert all("{seconds}" in step.command for step in steps)
    assert steps[-1].share == 1 and steps[7].share == 0.5
    (default,) = (step.command for step in steps if step.name == "separable default")
    assert "cudnn bench" in default and not {"compile", "max-autotune", "tensorrt"} & set(default)
    assert benchmark_steps("cpu", tmp_path, quick_only=True)[-1].name == "mobilenet quick"
