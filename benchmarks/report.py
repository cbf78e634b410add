"""What a run prints: lines as they come, tables, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Screen:
    """Prints lines, with colours and a progress bar where ``rich`` is installed."""

    def __init__(self) -> None:
        self._console = _console()

    def print(self, text: str = "", style: str | None = None) -> None:
        """``style`` is one of rich's, such as ``bold`` or ``red``."""
        if self._console is None:
            print(text, flush=True)
        else:
            self._console.print(text, style=style, soft_wrap=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int, str], None]]:
        """Gives the function that shows how many of ``total`` steps are done and what runs now: a bar under
        what is printed meanwhile, on a terminal only."""
        if self._console is None or not self._console.is_terminal:
            yield lambda done, what: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done, what: bar.update(task, completed=done, description=what)


def _console() -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False, markup=False)


@dataclass(frozen=True)
class Column:
    """A column of fixed width, so that lines can be printed before the last one is known."""

    title: str
    width: int
    left: bool = False


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]

    def line(self, values: Sequence[str]) -> str:
        cells = zip(self.columns, values, strict=True)
        return "  ".join(v.ljust(c.width) if c.left else v.rjust(c.width) for c, v in cells).rstrip()

    @property
    def header(self) -> str:
        return self.line([column.title for column in self.columns])


def number(value: float, digits: int = 3) -> str:
    """``value`` with at least ``digits`` significant digits and no exponent: 0.123, 12.3, 1,234."""
    magnitude = abs(value)
    decimals = 0
    while decimals < digits and 0 < magnitude < 10 ** (digits - 1):
        decimals, magnitude = decimals + 1, magnitude * 10
    return f"{value:,.{decimals}f}"
