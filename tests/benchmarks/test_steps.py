"""Steps that fail in every way: none of them stops the others."""

import json
import sys
import time

import pytest

from benchmarks.report import Screen
from benchmarks.steps import FAILED, OK, SKIPPED, Runner, Step


def python(name: str, code: str, **options) -> Step:
    return Step(name, (sys.executable, "-c", code), **options)


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path, {"PYTHONUNBUFFERED": "1"}, Screen(), time.monotonic() + 600, least=2.0)


def test_a_failing_step_leaves_the_others(runner, tmp_path, capsys):
    hangs = (
        "import subprocess, sys; print('started', flush=True); "
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    steps = [
        python("fails", "print('before'); raise SystemExit(3)"),
        python("hangs", hangs, share=0.001),  # the least that a step is given
        Step("missing", ("/nonexistent/tool",)),
        python("left out", "", reason="not installed here"),
        python("works", "print('fine')"),
    ]
    runner.run(steps)
    assert [(d.name, d.status, d.code) for d in runner.done] == [
        ("fails", FAILED, 3),
        ("hangs", FAILED, None),
        ("missing", FAILED, None),
        ("left out", SKIPPED, None),
        ("works", OK, 0),
    ]
    notes = {d.name: d.note for d in runner.done}
    assert notes["fails"] == "before" and notes["hangs"] == "ran out of its 2 s; last: started"
    assert "could not start" in notes["missing"] and notes["left out"] == "not installed here"
    assert (tmp_path / "hangs.log").read_text() == "started\n"
    lines = (tmp_path / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [step.name for step in steps]
    runner.print_summary()
    assert runner.failed and "left out" in capsys.readouterr().out.splitlines()[-3]


def test_a_step_knows_its_share_of_the_time_and_its_variables(runner, tmp_path):
    code = "import os, sys; print(sys.argv[1], os.environ['WHAT'])"
    runner.run([Step("asks", (sys.executable, "-c", code, "{seconds}"), 0.1, {"WHAT": "it"})])
    seconds, what = (tmp_path / "asks.log").read_text().split()
    assert 30 < float(seconds) <= 45 and what == "it"


def test_no_step_starts_without_time(runner):
    runner.deadline = time.monotonic() + 1
    runner.run([python("late", "print('never')")])
    assert [(d.status, d.note) for d in runner.done] == [(SKIPPED, "no time left")]
    assert not runner.failed
