import subprocess
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as commands


@pytest.fixture
def ran(monkeypatch):
    """The commands that would have run; dwconv fails."""
    seen = []

    def run(command, cwd):
        seen.append(command[1:])
        return SimpleNamespace(returncode=int("benchmarks.dwconv" in command))

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_all_runs_every_benchmark_and_survives_a_failure(ran, tmp_path, capsys):
    assert commands.main(["all", "--out", str(tmp_path), "--peers", "eager", "--batch", "1", "8"]) == 1
    assert [command[1] for command in ran] == [
        f"benchmarks.{name}" for name in ("dwconv", "pwconv", "separable", "mobilenet")
    ]
    assert ran[0][2:] == [
        *("--full", "--json", str(tmp_path.resolve() / "dwconv.json")),
        *("--peers", "eager", "--batch", "1", "8"),
    ]
    assert "FAILED: dwconv" in capsys.readouterr().out


def test_quick_runs_are_quick(ran, tmp_path):
    commands.main(["all", "--quick", "--out", str(tmp_path)])
    assert all("--quick" in command and "--full" not in command for command in ran)


def test_an_unknown_command_is_an_error(capsys):
    with pytest.raises(SystemExit):
        commands.main(["nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
