"""Two runs by hand: what counts as slower, and what makes runs incomparable."""

import json

import pytest

from benchmarks import __main__ as commands
from benchmarks.compare import FASTER, LOST, SAME, SLOWER, changes, main
from benchmarks.result_files import Results


def row(case="a", contender="mbv1", median=100.0, spread=0.02, status="ok", **more):
    made = {"benchmark": "dwconv", "case": case, "batch": 1, "dtype": "fp32", "layout": "nhwc", "threads": 1}
    made |= {"contender": contender, "ours": contender.startswith("mbv1"), "status": status, "reason": None}
    if status == "ok":
        low, high = median * (1 - spread), median * (1 + spread)
        made |= {"median_us": median, "p20_us": low, "p80_us": high, "noisy": False}
    return made | more


def write(path, rows, **environment):
    head = {
        "benchmark": "dwconv",
        "environment": {"device": "chip", "torch": "2.14", **environment},
        "method": {"clock": "wall", "quick": False, "budget": {"seconds": 1}},
    }
    results = Results(path, head)
    results.add(rows)
    results.finish()
    return str(path)


@pytest.mark.parametrize(
    "before, after, verdict",
    [
        (row(median=100), row(median=120), SLOWER),
        (row(median=120), row(median=100), FASTER),
        (row(median=100), row(median=100), SAME),
        # Beyond the threshold, but within the spread.
        (row(median=100, spread=0.15), row(median=120, spread=0.15), SAME),
        # Beyond the spread, but within the threshold.
        (row(median=100, spread=0.001), row(median=104, spread=0.001), SAME),
        (row(), row(status="failed", reason="no kernel"), LOST),
    ],
)
def test_verdicts(before, after, verdict):
    (change,) = changes([before], [after], 0.05)
    assert change.verdict == verdict
    assert (change.ratio is None) == (verdict == LOST)


def test_other_clocks_are_compared_by_themselves():
    def times(median):
        return {"graph": {"median_us": median, "p20_us": median, "p80_us": median, "noisy": False}}

    before = row(other_clocks={**times(50), "no graph": {"reason": "cannot be captured"}})
    found = {c.key[-1]: c.verdict for c in changes([before], [row(other_clocks=times(70))], 0.05)}
    assert found == {"": SAME, "graph": SLOWER}
    (lost,) = changes([row(other_clocks=times(50))], [row(status="failed", reason="no kernel")], 0.05)
    assert (lost.key[-1], lost.verdict) == ("", LOST)
    graph = list(changes([row(other_clocks=times(50))], [row(other_clocks={"graph": {"reason": "no"}})], 0.05))[1]
    assert (graph.verdict, graph.reason) == (LOST, "unavailable: no")


def test_only_what_was_timed_before_and_ran_after_is_compared():
    before = [row("a"), row("b", status="failed"), row("c")]
    assert [c.key[1] for c in changes(before, [row("a"), row("b")], 0.05)] == ["a"]


def test_slower_is_exit_code_1_and_named(tmp_path, capsys):
    before = write(tmp_path / "a.json", [row("deep"), row("wide"), row("deep", "eager")])
    after = write(tmp_path / "b.json", [row("deep", median=150), row("wide", median=50), row("deep", "eager")])
    out = tmp_path / "deep" / "changes.json"
    assert commands.main(["compare", before, after, "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    slower = next(line for line in printed.splitlines() if "slower" in line)
    assert "deep" in slower and "1.50" in slower
    assert "1 slower, 1 faster, 0 same, 0 lost" in printed
    found = json.loads(out.read_text())
    assert {c["case"]: c["verdict"] for c in found["changes"]} == {"deep": SLOWER, "wide": FASTER}
    assert [c["contender"] for c in found["peers"]] == ["eager"] and found["missing"] == 0


def test_nothing_slower_is_exit_code_0(tmp_path):
    before = write(tmp_path / "a.json", [row(), row("gone")])
    assert main([before, write(tmp_path / "b.json", [row(median=90)])]) == 0


def test_a_lost_case_is_exit_code_1(tmp_path, capsys):
    before = write(tmp_path / "a.json", [row()])
    after = write(tmp_path / "b.json", [row(status="wrong", reason="error 0.5")])
    assert main([before, after]) == 1
    assert "lost (wrong: error 0.5)" in capsys.readouterr().out


def test_peers_are_not_judged_unless_asked_for(tmp_path, capsys):
    before = write(tmp_path / "a.json", [row(), row(contender="eager")])
    after = write(tmp_path / "b.json", [row(), row(contender="eager", median=200)])
    assert main([before, after]) == 0
    assert "look at the machine before the code" in capsys.readouterr().out
    assert main([before, after, "--contenders", "eager"]) == 1


def test_another_device_is_refused_unless_forced(tmp_path, capsys):
    before = write(tmp_path / "a.json", [row()])
    after = write(tmp_path / "b.json", [row()], device="other")
    assert main([before, after]) == 2
    assert "device was 'chip', is 'other'" in capsys.readouterr().out
    assert main([before, after, "--force"]) == 0


def test_another_version_is_a_warning(tmp_path, capsys):
    before = write(tmp_path / "a.json", [row()])
    assert main([before, write(tmp_path / "b.json", [row()], torch="2.15")]) == 0
    assert "torch was '2.14', is '2.15'" in capsys.readouterr().out


def test_what_cannot_be_compared_says_why(tmp_path, capsys):
    before = write(tmp_path / "a.json", [row()])
    assert main([before, str(tmp_path / "none.json")]) == 2
    assert "none.json: expected a result file" in capsys.readouterr().err
    assert main([before, write(tmp_path / "b.json", [row("other")])]) == 2
    assert "no case is in both runs" in capsys.readouterr().err
    other = json.loads((tmp_path / "a.json").read_text()) | {"benchmark": "mobilenet"}
    (tmp_path / "c.json").write_text(json.dumps(other))
    assert main([before, str(tmp_path / "c.json")]) == 2
    assert "no benchmark is in both: dwconv before, mobilenet after" in capsys.readouterr().out


def test_folders_of_results_are_compared(tmp_path):
    for name, median in (("x", 100), ("y", 130)):
        write(tmp_path / name / "dwconv.json", [row(median=median)])
    assert main([str(tmp_path / "x"), str(tmp_path / "y")]) == 1
    assert main([str(tmp_path / "y"), str(tmp_path / "x")]) == 0
