"""What the report makes of result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import environment
from benchmarks.html_report import files, groups, tables
from benchmarks.result_files import SCHEMA

from .samples import COMMITS, ROWS, TIMES, failed, result, row, write

COMMITTED = sorted((Path(environment.ROOT) / "benchmarks/results").glob("*-cores.json"))


def read(path: Path) -> files.Run:
    found = files.read(path)
    assert isinstance(found, files.Run)
    return found


@pytest.fixture
def mobilenet(results) -> groups.Group:
    return groups.group([read(path) for path in results])[0]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("no JSON", "expected JSON, but Expecting value"),
        ("[1]", "got JSON that is a list"),
        ('{"rows": []}', "got JSON without benchmark, environment"),
        (json.dumps({**result([]), "environment": {"torch": "2"}}), r"device and time, got \['torch'\]"),
        (json.dumps(result([{"case": "a"}])), r"rows\[0\]: expected batch, .*, got \['case'\]"),
        (json.dumps(result([row("a", 1, "mbv1", 1.0), row("a", 1, "b", -1.0)])), r"rows\[1\]: expected median_us"),
        (json.dumps(result([row("a", 1, "b", 1.0, other_clocks={"graph": {"median_us": 0}})])), "expected median_us"),
        (json.dumps(result([row("a", 1, "b", 1.0, other_clocks=[])])), "expected other_clocks by name"),
        (json.dumps({**result([]), "rooflines": {"1": {}}}), "rooflines: expected bandwidth_gb_per_s"),
        ('{"predictions": [{"predicted": {"H100": {}}}]}', "a prediction lacks 'today'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, expected):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(files.ReportError, match=expected) as caught:
        files.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(files.ReportError, match=r"none\.json: cannot be read: No such file"):
        files.read(tmp_path / "none.json")


def test_a_row_of_several_clocks_is_a_case_by_each(tmp_path):
    other = {"median_us": 50.0, "p20_us": 45.0, "p80_us": 55.0, "noisy": True, "roofline_percent": 100.0}
    ours = row("a", 1, "mbv1", 100.0, clock="events, L2 cold", other_clocks={"graph, L2 warm": other})
    theirs = row(
        *("a", 1, "p", 300.0), clock="events, L2 cold", other_clocks={"graph, L2 warm": {"reason": "no capture"}}
    )
    gone = failed("a", 1, "q", "failed", "no")
    gpu = {"device": "A GPU", "device_type": "cuda"}
    (group,) = groups.group([read(write(tmp_path / "gpu.json", result([ours, theirs, gone], **gpu)))])
    cold, warm = group.contests
    assert [r["contender"] for r in cold.rows] == ["mbv1", "p", "q"] and cold.ratio == pytest.approx(3.0)
    assert warm.ours["median_us"] == 50.0 and warm.noisy and warm.best_peer is None
    assert warm.ours["gflop_per_s"] == pytest.approx(2 * cold.ours["gflop_per_s"])
    assert ("p", "unavailable: no capture", "1 of 2 cases") in group.missing()
    assert [part for part, _ in group.comparisons] == ["events, L2 cold"] * 3


def test_files_of_another_schema_are_refused(tmp_path):
    for schema in (None, SCHEMA + 1):
        file = write(tmp_path / "other.json", {**result([row("a", 1, "mbv1", 1.0)]), "schema": schema})
        with pytest.raises(files.ReportError, match=f"expected a result file of schema {SCHEMA}, got {schema}"):
            read(file)


def test_runs_group_by_benchmark_and_device(tmp_path):
    runs = [
        result(ROWS),
        result(ROWS, cpu_capability="AVX512"),
        result(ROWS, benchmark="dwconv"),
        result(ROWS, newer=1),
        result(ROWS, device="A GPU", device_type="cuda"),
    ]
    found = groups.group([read(write(tmp_path / f"{i}.json", run)) for i, run in enumerate(runs)])
    assert {group.title: len(group.runs) for group in found} == {
        "mobilenet on A CPU, AVX2, 2 cores": 2,
        "mobilenet on A CPU, AVX512, 2 cores": 1,
        "dwconv on A CPU, AVX2, 2 cores": 1,
        "mobilenet on A GPU": 1,
    }


def test_each_case_is_the_newest(mobilenet):
    assert [run.path.name for run in mobilenet.runs] == ["older.json", "newer.json"]
    ours = {(c.rows[0]["case"], c.setting("batch")): c.ours["median_us"] for c in mobilenet.contests}
    assert ours == {("first", 1): 200.0, ("first", 8): 1000.0, ("gone <b>", 1): 5.0}


def test_labels_say_what_differs(mobilenet, tmp_path):
    assert mobilenet.varying == ["batch"]
    assert mobilenet.everywhere == "fp32 · nhwc · threads 1 · wall, caches warm"
    assert [mobilenet.label(contest) for contest in mobilenet.contests] == [
        "first · batch 1",
        "first · batch 8",
        "gone <b> · batch 1",
    ]
    (single,) = groups.group([read(write(tmp_path / "single.json", result(ROWS[:1])))])
    assert single.label(single.contests[0]) == "first"
    assert single.everywhere == "first · batch 1 · fp32 · nhwc · threads 1 · wall, caches warm"


def test_speed_ups_and_their_range(mobilenet):
    records = {(r["label"], r["contender"]): r for r in mobilenet.records}
    assert len(records) == 8
    quick = records["first · batch 1", "quick"]
    assert quick["speedup"] == pytest.approx(0.5) and quick["best"]
    assert quick["speedup_low"] == pytest.approx(0.5 * 0.9 / 1.1)
    assert quick["speedup_high"] == pytest.approx(0.5 * 1.1 / 0.9)
    assert quick["median_ms"] == pytest.approx(0.1) and quick["flop_per_byte"] == 10
    slow = records["first · batch 1", "slow"]
    assert slow["pair_noisy"] and not slow["best"]
    assert not records["first · batch 1", "mbv1 triton"]["best"]
    assert "speedup" not in records["first · batch 1", "mbv1"]
    broken = records["first · batch 8", "quick"]
    assert broken["status"] == "failed" and "median_ms" not in broken


def test_means(mobilenet):
    means = {mean.versus: mean for _, mean in mobilenet.comparisons}
    assert list(means) == [groups.BEST_PEER, groups.BEST_PEER_QUIET, "quick", "mbv1 triton", "slow"]
    best = means[groups.BEST_PEER]
    assert best.mean == pytest.approx((0.5 * 4) ** 0.5) and (best.low, best.high, best.cases) == (0.5, 4.0, 2)
    assert means["slow"].mean == pytest.approx(4.0)


def test_means_leave_noisy_cases_out(tmp_path):
    rows = [
        row("a", 1, "mbv1", 1.0),
        row("a", 1, "p", 2.0),
        row("b", 1, "mbv1", 1.0),
        row("b", 1, "p", 8.0, noisy=True),
    ]
    (group,) = groups.group([read(write(tmp_path / "noisy.json", result(rows)))])
    means = {mean.versus: mean for _, mean in group.comparisons}
    assert means[groups.BEST_PEER].mean == pytest.approx(4.0)
    assert means[groups.BEST_PEER_QUIET].mean == pytest.approx(2.0)


@pytest.mark.parametrize(
    "setting, values", [("dtype", ("fp32", "bf16")), ("clock", ("events, L2 cold", "graph, L2 warm"))]
)
def test_no_mean_mixes_dtypes_or_clocks(tmp_path, setting, values):
    rows = [
        row("a", 1, contender, median, **{setting: value})
        for value, theirs in zip(values, (2.0, 8.0), strict=True)
        for contender, median in (("mbv1", 1.0), ("p", theirs))
    ]
    (group,) = groups.group([read(write(tmp_path / "parts.json", result(rows)))])
    assert len(group.contests) == 2
    of_p = {part: mean.mean for part, mean in group.comparisons if mean.versus == "p"}
    assert list(of_p) == [groups.words(setting, value) for value in values]
    assert list(of_p.values()) == pytest.approx([2.0, 8.0])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_means_are_those_that_the_benchmark_printed(path):
    (group,) = groups.group([read(path)])
    printed = {c["versus"]: c for c in json.loads(path.read_text())["comparisons"]}
    dtypes = {c.setting("dtype") for c in group.contests}
    for part, mean in group.comparisons:
        if mean.versus == groups.BEST_PEER:
            versus = f"the best peer, {part}" if len(dtypes) > 1 else "the best peer of each case"
            assert vars(mean) == pytest.approx({**printed[versus], "versus": mean.versus})


def test_the_worst_case_comes_first(mobilenet):
    assert [contest.ratio for contest in mobilenet.worst()] == [0.5, 4.0]


def test_what_did_not_run_and_why(mobilenet):
    assert mobilenet.missing() == [
        ("quick", "failed: out of <memory> & luck", "1 of 3 cases"),
        ("graph", "needs a CUDA device", "left out"),
        ("all", "no time was left", "2 more, from late N1 fp32 nhwc T1"),
    ]


def test_roofs_below_the_multiply_add_rate_are_none(mobilenet, tmp_path):
    assert [(roof.get("dtype"), roof["gflop_per_s"]) for roof in mobilenet.roofs] == [(None, 50.0), ("fp16", 200.0)]
    slow = result(ROWS)
    slow["rooflines"]["1"]["gemm_gflop_per_s"]["float16"] = 1.0
    (group,) = groups.group([read(write(tmp_path / "slow.json", slow))])
    assert [roof.get("dtype") for roof in group.roofs] == [None]


def test_history_is_at_the_time_of_the_commit(mobilenet, monkeypatch):
    made = {COMMITS[0]: "2025-12-31T00:00:00+00:00"}
    monkeypatch.setattr(groups, "commit_time", made.get)
    ours = [r for r in mobilenet.history if r["contender"] == "mbv1" and r["label"] == "first · batch 1"]
    assert [(r["time"], r["median_ms"]) for r in ours] == [(made[COMMITS[0]], 0.4), (TIMES[1], 0.2)]


def test_commit_times(monkeypatch):
    head = environment._output("git", "rev-parse", "HEAD")
    if head is not None:
        assert environment.commit_time(head) == environment._output("git", "log", "-1", "--format=%cI")
    assert environment.commit_time("1" * 40) is None
    assert environment.commit_time(f"{head}-dirty") is None
    assert environment.commit_time(None) is None


def test_tables_leave_out_what_does_not_vary(mobilenet):
    keys = [column.key for column in tables.results(mobilenet, mobilenet.records)]
    assert {"batch", "status", "commit", "images_per_s"} <= set(keys)
    assert not {"dtype", "layout", "threads", "clock"} & set(keys)


def test_predictions_are_rows_per_device(predictions):
    found = files.read(predictions)
    assert isinstance(found, files.Predictions)
    columns, (line,) = tables.predictions(found)
    assert [line[column.key] for column in columns] == [
        *("H100", "block 1", 1, "f16", "nhwc", "dwconv2d_nhwc_k3_f16"),
        *(2.0, "DRAM", 6.0, 4.0, 3.0, 2.0),
    ]


def test_a_run_where_we_failed_has_no_means(tmp_path):
    rows = [failed("a", 1, "mbv1", "wrong", "far off"), row("a", 1, "p", 1.0)]
    (group,) = groups.group([read(write(tmp_path / "wrong.json", result(rows)))])
    assert group.comparisons == [] and group.worst() == []
