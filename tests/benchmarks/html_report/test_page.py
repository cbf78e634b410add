"""The page and the PNGs as files; how the page behaves is in test_browser.py."""

from __future__ import annotations

import re
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import __main__ as command
from benchmarks.html_report import charts, files, groups, page, theme

from .samples import ROWS, failed, result, row, write


def figures(*paths: Path) -> dict[str, charts.Figure]:
    (group,) = groups.group([found for path in paths if isinstance(found := files.read(path), files.Run)])
    return {figure.name: figure for figure in charts.figures(group, theme.light, "sans-serif", legend=True)}


def test_a_chart_only_where_its_data_is(results, tmp_path):
    assert list(figures(*results[:2])) == ["means", "speedup", "roofline", "latency", "history"]
    assert list(figures(results[2])) == ["means", "speedup", "roofline"]
    bare = result([failed("a", 1, "mbv1", "failed", "no"), row("a", 1, "p", 1.0)])
    del bare["rooflines"]
    assert list(figures(write(tmp_path / "bare.json", bare))) == []


def menus(rows: list, path: Path) -> dict[str, object]:
    """What the menus of the speed-ups start at."""
    params = figures(write(path, result(rows)))["speedup"].spec["params"]
    return {param["name"]: param["value"] for param in params if param["name"] != "hidden"}


def test_many_bars_start_at_fewer_settings(tmp_path):
    def rows(layers: int) -> list:
        return [
            row(f"layer {i}", batch, contender, 1.0, layout=layout)
            for i in range(layers)
            for batch in (1, 8)
            for layout in ("nchw", "nhwc")
            for contender in ("mbv1", "p")
        ]

    start = {"pick_layout": None, "pick_batch": None, "pick_case": None, "pick_best": None}
    assert menus(rows(10), tmp_path / "few.json") == start
    assert menus(rows(11), tmp_path / "more.json") == {**start, "pick_layout": "nchw"}
    assert menus(rows(41), tmp_path / "many.json") == {
        **{"pick_layout": "nchw", "pick_batch": 1},
        **{"pick_case": None, "pick_best": True},
    }


def test_the_command_writes_the_page_and_the_charts(results, predictions, tmp_path, capsys):
    output, folder = tmp_path / "deep" / "report.html", tmp_path / "png"
    arguments = ["report", *map(str, results), str(predictions), "-o", str(output), "--png", str(folder)]
    assert command.main(arguments) == 0
    text = output.read_text()
    assert "out of &lt;memory&gt; &amp; luck" in text and "Predicted, not measured" in text
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(
        [f"mobilenet-on-a-cpu-avx2-2-cores-{n}.png" for n in ("means", "speedup", "roofline", "latency", "history")]
        + [f"dwconv-on-a-cpu-avx2-2-cores-{n}.png" for n in ("means", "speedup", "roofline")]
    )
    for path in folder.iterdir():
        content = path.read_bytes()
        assert len(content) < 100_000
        image = Image.open(BytesIO(content)).convert("RGB")
        assert image.getpixel((0, 0)) == (255, 255, 255) and len(image.getcolors()) > 8
    assert str(output) in capsys.readouterr().out


def test_the_page_refers_to_nothing_outside(results, predictions):
    found = [files.read(path) for path in (*results, predictions)]
    runs = [item for item in found if isinstance(item, files.Run)]
    text = page.render(groups.group(runs), [item for item in found if isinstance(item, files.Predictions)])
    markup = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", text, flags=re.S)
    assert set(re.findall(r'(?:src|href)="([^"#][^"]*)', markup)) == {"data:,"}
    assert "@import" not in text and not re.search(r"url\((?!data:)", text[: text.index("<body>")])


def test_no_results_are_no_charts(predictions, tmp_path):
    output = tmp_path / "report.html"
    assert command.main(["report", str(predictions), "-o", str(output)]) == 0
    assert "No measurements were given" in output.read_text()


def test_a_run_of_failures_is_shown(tmp_path):
    rows = [failed("a", 1, "mbv1", "failed", "no inputs"), failed("a", 1, "p", "unavailable", "not here")]
    path, output = write(tmp_path / "failures.json", result(rows)), tmp_path / "report.html"
    assert command.main(["report", str(path), "-o", str(output)]) == 0
    text = output.read_text()
    assert "no case that both mbv1 and a peer ran" in text and "failed: no inputs" in text


def test_a_folder_stands_for_its_files(results, tmp_path):
    output = tmp_path / "report.html"
    assert command.main(["report", str(tmp_path), "-o", str(output)]) == 0
    assert all(path.name in output.read_text() for path in results)


def test_an_empty_folder_is_an_error(tmp_path, capsys):
    assert command.main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 2
    assert "expected a folder with result files, found none" in capsys.readouterr().err


def test_an_incomplete_run_says_so(tmp_path):
    path, output = write(tmp_path / "part.json", {**result(ROWS), "complete": False}), tmp_path / "report.html"
    assert command.main(["report", str(path), "-o", str(output)]) == 0
    assert "not complete" in output.read_text()


def test_a_file_of_another_kind_is_an_error(tmp_path, capsys):
    path, output = write(tmp_path / "other.json", []), tmp_path / "report.html"
    assert command.main(["report", str(path), "-o", str(output)]) == 2
    assert "expected a result file" in capsys.readouterr().err and not output.exists()


def test_what_is_missing_is_named(results, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "benchmarks.html_report.command", None)
    with pytest.raises(ModuleNotFoundError):  # one of our own is no missing extra
        command.main(["report", str(results[0])])
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("benchmarks.html_report.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert command.main(["report", str(results[0])]) == 2
    assert capsys.readouterr().err == "report: needs the package vl_convert: pip install '.[report]'\n"
