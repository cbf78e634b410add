"""What is found under a folder: links, loops, and folders that cannot be listed."""

import csv
import os
from pathlib import Path

import pytest

from mbv1.cli import main
from mbv1.image_folder import find_images


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two images, a file of another type, links to folders, and a folder that cannot be listed."""
    root = tmp_path / "photos"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "1.JPG").touch()
    (root / "2.png").touch()
    (root / "notes.txt").touch()
    (root / "a" / "loop").symlink_to(root)
    (root / "linked").symlink_to(root / "a" / "b")
    (root / "secret").mkdir()
    scandir = os.scandir

    def forbid(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)  # permissions would not stop root
    return root


def test_folders(folder):
    found = find_images(folder)
    assert found.images == ["2.png", "a/b/1.JPG"]
    assert (found.other, found.unreadable) == (1, {"secret": "Permission denied"})


def test_a_folder_that_cannot_be_listed(folder, tmp_path):
    out = tmp_path / "rows.csv"
    assert main(["predict", str(folder), "--out", str(out), "--workers", "0"]) == 0
    rows = {row["file"]: row["error"] for row in csv.DictReader(out.read_text().splitlines())}
    assert list(rows) == ["2.png", "a/b/1.JPG", "secret"]
    assert rows["secret"] == "Permission denied"
    with pytest.raises(PermissionError):
        find_images(folder / "secret")
