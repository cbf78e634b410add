"""Who takes part, who is left out with which reason, and that a wrong result is not timed but reported."""

import pytest
import torch

from benchmarks import dwconv, result_files
from benchmarks.cases import Case, Result, compare
from benchmarks.contest import FAILED, OK, UNAVAILABLE, WRONG, Outcome
from benchmarks.peers import BENCHMARKS, BasePeer, find_peers
from benchmarks.shapes import Shape
from benchmarks.timing import Timing
from benchmarks.work import Work
from benchmarks.workload import Unavailable


class Stranger(BasePeer):
    name = "stranger"
    title = "a contender of the tests"

    def __init__(self, change=lambda y: y, error=None):
        self.change, self.error, self.finished = change, error, 0

    def prepare(self, workload):
        if self.error is not None:
            raise self.error
        run = workload.eager(workload.folded)
        return lambda: self.change(run())

    def finish(self):
        self.finished += 1


def rows_of(results, name):
    return [row for row in results["rows"] if row["contender"] == name]


def test_rows_say_what_was_measured_and_where(run_dwconv):
    code, results = run_dwconv("--layout", "nhwc")
    assert code == 0 and results["complete"]
    (row,) = rows_of(results, "mbv1")
    assert row["status"] == OK and row["ours"]
    assert (row["case"], row["batch"], row["dtype"], row["layout"]) == ("mbv1 block 13", 1, "fp32", "nhwc")
    assert row["bytes"] == 4 * (2 * 1024 * 49 + 1024 * 10)
    assert row["p20_us"] <= row["median_us"] <= row["p80_us"]
    assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["median_us"] / 1e3)
    assert row["roofline_percent"] == pytest.approx(100 * row["bound_us"] / row["median_us"])
    for key in ("device", "torch", "commit", "threads", "time"):
        assert key in row
    assert row["threads"] == 1
    assert row["clock"] == "wall, caches warm" and row["other_clocks"] == {}
    assert results["method"]["clocks"].keys() == {row["clock"]}
    assert row["kernel_name"].startswith("dwconv2d_") and rows_of(results, "eager")[0]["kernel_name"] is None
    assert row["start_s"] > 0 and row["peak_bytes"] >= 4 * 1024 * 49
    assert results["left_out"]["cudnn bench"] == "needs a CUDA device"
    assert {c["versus"] for c in results["comparisons"]} >= {"eager", "passes", "the best peer of each case"}


def test_result_files_hold_what_is_documented(run_dwconv):
    _, results = run_dwconv("--layout", "nhwc", "--peers", "eager")
    found = {*results, *results["method"]}
    for row in results["rows"]:
        found |= row.keys() - set(Shape("dwconv", "s", "n", "o", 1, 1, 1).facts) - set(results["environment"])
    assert {key for key in found if f"``{key}``" not in result_files.__doc__} == set()


def test_half_precision_and_both_layouts(run_dwconv):
    code, results = run_dwconv("--dtype", "fp16", "bf16", "--peers", "eager")
    assert code == 0
    assert {(r["dtype"], r["layout"]) for r in rows_of(results, "mbv1")} == {
        (dtype, layout) for dtype in ("fp16", "bf16") for layout in ("nchw", "nhwc")
    }
    assert {r["contender"] for r in results["rows"]} == {"mbv1", "eager"}
    assert results["left_out"]["passes"] == "not asked for"


@pytest.mark.parametrize(
    "change",
    [lambda y: y * 1.01, lambda y: y[:, :, :-1], lambda y: y.double(), lambda y: y * float("nan")],
    ids=["values", "shape", "dtype", "nan"],
)
def test_disagreement_fails_the_run(run_dwconv, add_peer, change, capsys):
    stranger = Stranger(change)
    add_peer(stranger)
    code, results = run_dwconv("--layout", "nchw")
    assert code == 1
    (row,) = rows_of(results, "stranger")
    assert row["status"] == WRONG and "median_us" not in row
    assert rows_of(results, "mbv1")[0]["status"] == OK
    assert len(results["problems"]) == 1 and "stranger" in results["problems"][0]
    assert "FAILED: 1 results are wrong" in capsys.readouterr().out
    assert stranger.finished == 1


def test_a_peer_that_raises_is_named_and_the_others_run(run_dwconv, add_peer):
    add_peer(Stranger(error=KeyError("no such engine")))
    code, results = run_dwconv("--layout", "nchw")
    assert code == 0
    (row,) = rows_of(results, "stranger")
    assert row["status"] == FAILED and row["reason"] == "KeyError: 'no such engine'"
    assert rows_of(results, "eager")[0]["status"] == OK


def test_a_peer_that_cannot_run_a_case_gives_its_reason(run_dwconv, add_peer):
    add_peer(Stranger(error=Unavailable("only even channels")))
    code, results = run_dwconv("--layout", "nchw")
    assert code == 0
    (row,) = rows_of(results, "stranger")
    assert (row["status"], row["reason"]) == (UNAVAILABLE, "only even channels")


def test_no_contender_changes_the_number_of_threads(run_dwconv, add_peer):
    seen = []

    class Greedy(Stranger):
        def prepare(self, workload):
            run = super().prepare(workload)
            torch.set_num_threads(2)
            return lambda: seen.append(torch.get_num_threads()) or run()

    add_peer(Greedy())
    assert run_dwconv("--layout", "nchw")[0] == 0
    assert seen[0] == 2 and set(seen[1:]) == {1}


def test_our_own_failure_fails_the_run(run_dwconv, monkeypatch):
    def broken(self, backend="auto"):
        raise RuntimeError("no kernel")

    monkeypatch.setattr("benchmarks.layers.LayerWorkload.ours", broken)
    code, results = run_dwconv("--layout", "nchw")
    assert code == 1 and "no kernel" in results["problems"][0]


def test_every_peer_has_a_short_name_of_its_own():
    for benchmark in BENCHMARKS:
        peers = find_peers(benchmark)
        names = [peer.name for peer in peers]
        assert names[0] == "mbv1" and len(set(names)) == len(names)
        assert all(len(peer.name) <= 13 and peer.title for peer in peers)


def test_peers_that_need_a_gpu_say_so():
    reasons = {p.name: p.unavailable(torch.device("cpu"), torch.float32, "nchw") for p in find_peers("mobilenet")}
    assert reasons["mbv1 graph"] == reasons["cudnn bench"] == "needs a CUDA device"
    assert reasons["eager"] is None


def test_an_unknown_peer_is_an_error(run_dwconv):
    with pytest.raises(SystemExit, match="got nobody"):
        run_dwconv("--peers", "nobody")


def result(layout, **medians):
    case = Case("c", 1, "fp32", layout, 1, Work(1, 1), 1.0, 1.0, lambda: None)
    outcomes = tuple(
        Outcome(name, name == "mbv1", OK, Timing(median, median, median, 1)) for name, median in medians.items()
    )
    return Result(case, outcomes)


def test_comparisons_by_hand():
    results = [result("nchw", mbv1=1.0, a=2.0, b=4.0), result("nhwc", mbv1=2.0, a=1.0, b=8.0)]
    means = {c.versus: (c.mean, c.cases) for c in compare(results, ["a", "b"])}
    assert means["a"] == (pytest.approx(1.0), 2)
    assert means["b"] == (pytest.approx(4.0), 2)
    assert means["the best peer of each case"] == (pytest.approx(1.0), 2)
    assert means["the best peer, free choice of layout"] == (pytest.approx(1.0), 1)


def test_results_by_another_clock():
    case = Case("c", 1, "fp32", "nhwc", 1, Work(1, 1), 1.0, 1.0, lambda: None)
    slow, fast = (Timing(seconds, seconds, seconds, 1) for seconds in (4.0, 1.0))
    ours = Outcome("mbv1", True, OK, slow, clocks={"first": slow, "graph": fast})
    theirs = Outcome("a", False, OK, fast, clocks={"first": fast, "graph": slow})
    other = Outcome("b", False, OK, fast, clocks={"first": fast, "graph": "no graph"})
    found = Result(case, (ours, theirs, other)).by("graph")
    assert [o.timing for o in found.outcomes] == [fast, slow, None]
    assert compare([found], ["a", "b"])[0].mean == pytest.approx(4.0)


def test_comparisons_skip_what_did_not_run():
    results = [result("nchw", mbv1=1.0, a=3.0), result("nhwc", mbv1=1.0), result("nhwc", a=1.0)]
    (versus, best) = compare(results, ["a", "b"])
    assert (versus.versus, versus.mean, versus.cases) == ("a", pytest.approx(3.0), 1)
    assert best.cases == 1


def test_a_failure_while_timing_is_reported(run_dwconv, add_peer):
    calls = []

    def fails_later(y):
        calls.append(y)
        if len(calls) > 2:
            raise MemoryError("all at once")
        return y

    add_peer(Stranger(fails_later))
    code, results = run_dwconv("--layout", "nchw")
    assert code == 1
    assert "while timing all: MemoryError: all at once" in results["problems"][0]
    assert {row["status"] for row in results["rows"]} == {FAILED}


def test_summary_tells_dtypes_apart(run_dwconv):
    code, results = run_dwconv("--dtype", "fp32", "bf16", "--layout", "nhwc", "--peers", "eager")
    assert code == 0
    cases = {c["versus"]: c["cases"] for c in results["comparisons"]}
    assert cases["the best peer, fp32"] == cases["the best peer, bf16"] == 1
    assert cases["the best peer of each case"] == 2


def test_no_case_starts_after_the_time_limit(run_dwconv):
    code, results = run_dwconv("--seconds", "1e-9")
    assert code == 0 and results["rows"] == []
    assert results["skipped"] == ["mbv1 block 13 N1 fp32 nchw T1", "mbv1 block 13 N1 fp32 nhwc T1"]


def test_a_cpu_measures_single_and_half_precision_by_default(monkeypatch):
    seen = []
    monkeypatch.setattr("benchmarks.op_suite.measure", lambda device, dtypes, *_: seen.extend(dtypes) or {})
    monkeypatch.setattr("benchmarks.op_suite.make_cases", lambda *args: [])
    assert dwconv.main(["--device", "cpu", "--threads", "1"]) == 0
    assert seen == [torch.float32, torch.bfloat16]
