"""What a run has found so far, on disk as it finds it, and the files that come of it: CSV, JSON, JSON Lines.

A row is a line of JSON, ``{"file": …, "classes": [{"class": …, "label": …, "probability": …}, …]}`` or
``{"file": …, "error": …}``, and :data:`Rows` has them by file. ``OUT.journal`` holds the rows of finished runs, and
``OUT.journal.RANK`` those that a process adds while it runs; the first line of each holds the run's settings.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

Rows = dict[str, str]

FORMATS = ("csv", "json", "jsonl")


class Journals:
    """The journals beside the output ``out`` that are on this machine.

    Args:
        out: the output; need not exist.
        settings: what the rows depend on beside the files, as JSON has it.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.settings = out, dict(settings)
        self.whole = out.with_name(f"{out.name}.journal")

    def paths(self) -> list[Path]:
        """Every journal that there is."""
        name = re.compile(re.escape(self.whole.name) + r"(\.\d+)?")
        return sorted(p for p in self.out.parent.glob("*") if name.fullmatch(p.name))

    def read(self) -> Rows:
        """The rows of every journal. What a process that died has left of its last line is left out.

        Raises:
            ValueError: a journal belongs to other settings, or is none.
        """
        rows: Rows = {}
        for path in self.paths():
            lines = path.read_bytes().split(b"\n")[:-1]
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    if number == 1:
                        self._compare(path, row["settings"])
                    else:
                        rows[row["file"]] = line.decode()
                except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
                    raise ValueError(f"{path}:{number}: not a line of a journal: {line[:80]!r}") from error
        return rows

    def _compare(self, path: Path, theirs: Mapping[str, Any]) -> None:
        ours = self.settings
        differ = [f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in ours if ours[k] != theirs.get(k)]
        if differ:
            raise ValueError(f"{path} belongs to a run with other settings ({'; '.join(differ)})")

    def append(self, rank: int) -> BinaryIO:
        """The journal of process ``rank``, open at its end, after its last whole line."""
        path = self.whole.with_name(f"{self.whole.name}.{rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        if file.tell():
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
        if not path.stat().st_size:
            file.write(self._header())
            file.flush()
        return file

    def finish(self, rows: Rows) -> None:
        """Puts all rows into the one journal that stays. The processes' own are then of no more use."""
        _replace(self.whole, (self._header(), *(f"{row}\n".encode() for row in rows.values())))

    def _header(self) -> bytes:
        return json.dumps({"settings": self.settings}).encode() + b"\n"

    def remove(self, *, whole: bool) -> None:
        """Removes the processes' journals, and with ``whole`` the one of finished runs."""
        for path in self.paths():
            if whole or path != self.whole:
                path.unlink(missing_ok=True)  # another process may be faster


def write(rows: Rows, kind: str, top: int, out: Path | BinaryIO) -> None:
    """Writes rows as ``kind``, one of :data:`FORMATS`, in the order of ``rows``; a file is replaced at once.

    CSV has the columns file, class, label, probability, then class_2, … up to ``top``, and error.
    """
    if kind == "csv":
        parts = _csv(rows.values(), top)
    elif kind == "json":
        parts = iter(("[\n", ",\n".join(rows.values()), "\n]\n"))
    else:
        parts = (f"{row}\n" for row in rows.values())
    # Names of files may hold bytes that are no UTF-8; Python has them as surrogates.
    chunks = (part.encode("utf-8", "surrogateescape") for part in parts)
    if isinstance(out, Path):
        _replace(out, chunks)
    else:
        out.writelines(chunks)
        out.flush()


def _csv(rows: Iterable[str], top: int) -> Iterator[str]:
    places = ["", *(f"_{n}" for n in range(2, top + 1))]
    columns = [f"{name}{place}" for place in places for name in ("class", "label", "probability")]
    yield ",".join(["file", *columns, "error"]) + "\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in rows:
        row = json.loads(line)
        cells = [cell for c in row.get("classes", ()) for cell in (c["class"], c["label"], c["probability"])]
        cells += [None] * (len(columns) - len(cells))
        writer.writerow([row["file"], *cells, row.get("error")])
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _replace(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file under another name first, so that at no time half of it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        file.writelines(chunks)
    os.replace(draft, path)
