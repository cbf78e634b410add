import json

import pytest

from benchmarks.result_files import SCHEMA, Results, load, load_all


def test_results_are_whole_after_every_row(tmp_path):
    path = tmp_path / "deep" / "r.json"
    results = Results(path, {"benchmark": "b"})
    results.add([{"a": 1}])
    assert json.loads(path.read_text()) == {
        "schema": SCHEMA,
        "benchmark": "b",
        "rows": [{"a": 1}],
        "complete": False,
    }
    results.add([{"a": 2}])
    results.finish(extra=3)
    assert json.loads(path.read_text())["rows"] == [{"a": 1}, {"a": 2}]
    assert json.loads(path.read_text())["complete"] is True
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


def test_what_was_written_can_be_read(tmp_path):
    Results(tmp_path / "a.json", {"benchmark": "a"}).write()
    Results(tmp_path / "b.json", {"benchmark": "b"}).write()
    (tmp_path / "summary.json").write_text("[1, 2]")
    assert [results["benchmark"] for results in load_all([tmp_path])] == ["a", "b"]
    assert load_all([tmp_path / "b.json"]) == [load(tmp_path / "b.json")]


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"rows": []}', f"expected a result file of schema {SCHEMA}, got none"),
        ('{"schema": 99, "rows": []}', f"expected a result file of schema {SCHEMA}, got 99"),
        ("[1]", f"expected a result file of schema {SCHEMA}, got none"),
        ('{"schema"', "expected a result file of a benchmark"),
    ],
)
def test_anything_else_is_an_error_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"r.json: {message}"):
        load(path)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: expected a result file"):
        load_all([tmp_path / "none.json"])
    with pytest.raises(ValueError, match="expected a folder with result files, found none"):
        load_all([tmp_path])
