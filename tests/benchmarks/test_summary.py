"""The table that a run ends with, from rows by hand."""

import json

import pytest

from benchmarks import __main__ as commands
from benchmarks.report import Screen
from benchmarks.result_files import Results
from benchmarks.summary import contests, print_summary


def row(case, contender, median, bound=10.0, **more):
    made = {"benchmark": "dwconv", "case": case, "batch": 1, "dtype": "fp16", "layout": "nhwc", "threads": 1}
    made |= {"contender": contender, "ours": contender.startswith("mbv1"), "status": "ok", "noisy": False}
    return made | {"median_us": median, "bound_us": bound, "clock": "events"} | more


def results(*rows, complete=True, problems=()):
    return {"benchmark": "dwconv", "rows": rows, "complete": complete, "problems": problems}


def test_geometric_means_and_the_worst_rows(capsys):
    rows = [
        row("a", "mbv1", 20, kernel_name="dw_k3"),
        row("a", "eager", 80),
        row("a", "cudnn", 10),
        row("b", "mbv1", 40),
    ]
    print_summary([results(*rows, row("b", "eager", 160), row("b", "lost", 1, status="failed"))], Screen())
    lines = capsys.readouterr().out.splitlines()
    group = next(line.split() for line in lines if line.startswith("dwconv"))
    # floor 10, ours sqrt(20 * 40), and their times over ours: 4 and 4; 0.5 in the one case that it has
    assert group == ["dwconv", "1", "fp16", "nhwc", "1", "2", "10.0", "28.3", "35%", "4.00x", "0.50x"]
    assert "the 2 worst of 2 against the best peer" in "\n".join(lines)
    assert lines[-2].split()[-3:] == ["0.50", "cudnn", "dw_k3"] and lines[-1].split()[-2:] == ["4.00", "eager"]


def test_at_most_ten_rows_are_the_worst(capsys):
    rows = [r for i in range(12) for r in (row(f"c{i}", "mbv1", 20), row(f"c{i}", "eager", 20 + i))]
    print_summary([results(*rows)], Screen())
    printed = capsys.readouterr().out
    assert "the 10 worst of 12" in printed and "c9" in printed and "c10" not in printed


def test_the_later_file_counts_and_another_clock_can_be_asked_for():
    graph = {"other_clocks": {"graph": {"median_us": 5.0}, "none": {"reason": "no"}}}
    files = [results(row("a", "mbv1", 20)), results(row("a", "mbv1", 30, **graph))]
    (contest,) = contests(files).values()
    assert contest["mbv1"]["median_us"] == 30
    (contest,) = contests(files, "graph").values()
    assert contest["mbv1"]["median_us"] == 5
    assert contests(files, "none") == {}


@pytest.mark.parametrize(
    "files, expected",
    [
        ([results(row("a", "mbv1", 1), complete=False)], "dwconv: cut short after 1 rows"),
        ([results(row("a", "mbv1", 1))], "no case has both mbv1's time and a peer's"),
        ([results(row("a", "mbv1", 1), problems=["wrong: mbv1"])], "dwconv: wrong: mbv1"),
        ([results()], "nothing was timed"),
    ],
)
def test_what_is_missing_is_said(files, expected, capsys):
    print_summary(files, Screen())
    assert expected in capsys.readouterr().out


def test_the_command_reads_files_and_folders(tmp_path, capsys):
    written = Results(tmp_path / "dwconv.json", {"benchmark": "dwconv"})
    written.add([row("a", "mbv1", 20), row("a", "eager", 40)])
    assert commands.main(["summary", str(tmp_path)]) == 0
    assert "2.00 eager" in capsys.readouterr().out
    (tmp_path / "dwconv.json").write_text(json.dumps({"rows": []}))
    assert commands.main(["summary", str(tmp_path)]) == 2
    assert "expected a result file of schema" in capsys.readouterr().err
