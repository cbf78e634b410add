"""The runner of the GPU check, with steps that fail in every way; no step of the real list runs here."""

import json
import sys

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Step


def python(name: str, code: str, limit: float = 60.0) -> Step:
    return Step(name, (sys.executable, "-c", code), limit)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(gpu_check, "probe", lambda: None)


@pytest.fixture
def small_steps(monkeypatch):
    steps = [
        python("fails", "print('before'); raise SystemExit(3)"),
        python(
            "hangs",
            "import subprocess, sys, time; print('started', flush=True); "
            "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])",
            limit=1.0,
        ),
        Step("missing", ("/nonexistent/tool",), 5.0),
        python("works", "print('fine')"),
    ]
    monkeypatch.setattr(gpu_check, "environment_steps", lambda: [python("environment", "print('env')")])
    monkeypatch.setattr(gpu_check, "install_step", lambda wheel, site: python("build", "raise SystemExit(1)"))
    monkeypatch.setattr(gpu_check, "check_steps", lambda device, wheel: steps)
    monkeypatch.setattr(gpu_check, "benchmark_steps", lambda device, out, full: [python("last", "print('end')")])


def test_rehearsal_survives_failing_steps(no_gpu, small_steps, tmp_path, capsys):
    assert gpu_check.main(["--rehearse", "--out", str(tmp_path)]) == 1
    done = {d["name"]: d for d in json.loads((tmp_path / "summary.json").read_text())}
    assert [name for name, d in done.items() if d["ok"]] == ["environment", "works", "last"]
    assert (done["fails"]["code"], done["fails"]["note"]) == (3, "before")
    assert done["hangs"]["code"] is None and "ran out" in done["hangs"]["note"]
    assert done["hangs"]["seconds"] < 30
    assert "could not start" in done["missing"]["note"]
    assert (tmp_path / "hangs.log").read_text() == "started\n"
    assert "FAILED" in capsys.readouterr().out


def test_without_a_gpu_only_the_environment_is_reported(no_gpu, small_steps, tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path)]) == gpu_check.NO_GPU
    assert [d["name"] for d in json.loads((tmp_path / "summary.json").read_text())] == ["environment"]
    assert "torch finds no GPU here" in capsys.readouterr().out


def test_all_steps_well_is_success(no_gpu, monkeypatch, tmp_path):
    for name in ("environment_steps", "check_steps", "benchmark_steps"):
        monkeypatch.setattr(gpu_check, name, lambda *args, **kwargs: [python("fine", "pass")])
    assert gpu_check.main(["--rehearse", "--installed", "--out", str(tmp_path)]) == 0


def test_a_wheel_comes_before_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    site = tmp_path / "site"
    variables = gpu_check.step_variables(tmp_path / "w.whl", site, "9.0")
    assert variables["PYTHONPATH"].split(":")[:2] == [str(site), str(gpu_check.ROOT)]
    assert variables["PYTHONSAFEPATH"] == "1" and variables["TORCH_CUDA_ARCH_LIST"] == "9.0"


def test_a_missing_wheel_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--wheel", str(tmp_path / "none.whl")])
    assert "--wheel: expected a file" in capsys.readouterr().err


def test_without_pytest_the_smoke_test_stands_in(monkeypatch):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    (smoke,) = gpu_check.check_steps("cuda", wheel=False)
    assert "benchmarks.smoke" in smoke.command


def test_on_a_gpu_the_tests_run_on_the_gpu_itself():
    """Nothing is emulated there: that is for machines without one, and takes longer than the step has."""
    _, tests = gpu_check.check_steps("cuda", wheel=False)
    paths = [part for part in tests.command if part.startswith("tests/")]
    assert "tests/cuda" in paths and all((gpu_check.ROOT / path).exists() for path in paths)
    assert not {"tests", "tests/test_cuda_executor.py", "tests/triton"} & set(paths)


def test_benchmarks_run_shortest_first(tmp_path):
    names = [step.name for step in gpu_check.benchmark_steps("cuda", tmp_path, full=True)]
    assert names == ["dwconv quick", "mobilenet quick", "dwconv full", "mobilenet full"]
