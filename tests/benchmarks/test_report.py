import sys

import pytest

from benchmarks.report import Column, Screen, Table, number


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (0.1234, "0.123"),
        (-0.01, "-0.010"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
    ],
)
def test_numbers_keep_three_digits(value, text):
    assert number(value) == text


def test_table_lines_align():
    table = Table((Column("name", 6, left=True), Column("us", 5)))
    assert table.header == "name       us"
    assert table.line(["a", "1.5"]) == "a         1.5"
    with pytest.raises(ValueError):
        table.line(["a"])


def test_plain_text_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    screen = Screen()
    with screen.progress(2) as show:
        show(0, "first")
        screen.print("a line", "bold")
    assert capsys.readouterr().out == "a line\n"


def test_the_bar_names_what_runs(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Screen().progress(3) as show:
        show(1, "second case")
    out = capsys.readouterr().out
    assert "second case" in out and "1/3" in out
