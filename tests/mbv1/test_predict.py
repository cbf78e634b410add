"""``python -m mbv1 predict``: rows for every file, whatever is wrong with it, and whatever ends the run."""

import csv
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import torch

from mbv1 import MobileNetV1, image_folder
from mbv1.cli import main

SHIPPED = Path(image_folder.__file__).parent / "weights" / "vww_0.25_96_weights.npz"

GOOD = ["astronaut.png", "b/coffee.PNG", "b/c/motorcycle.jpg", 'ünïcode, "quoted"\n.png']


@pytest.fixture
def folder(tmp_path, pictures) -> Path:
    """Four photographs and a file of another type."""
    root = tmp_path / "photos"
    for name, picture in zip(GOOD, pictures.values(), strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.resize((300, 200)).save(root / name)
    (root / "notes.txt").write_text("no image")
    return root


def a_bomb() -> bytes:
    """A PNG that says it is 60000x60000."""
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", bytes(100))):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png


def predict(*arguments, code=0) -> None:
    assert main(["predict", *map(str, arguments), "--workers", "0"]) == code


def read(path: Path) -> list[dict]:
    """The rows of an output of any format, as those of JSON."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    rows = []
    for cells in csv.DictReader(text.splitlines(keepends=True)):
        classes = [
            {
                "class": int(cells[f"class{n}"]),
                "label": cells[f"label{n}"] or None,
                "probability": float(cells[f"probability{n}"]),
            }
            for n in ("", "_2")
            if cells.get(f"class{n}")
        ]
        rows.append({"file": cells["file"], **({"classes": classes} if classes else {"error": cells["error"]})})
    return rows


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_equals_classify(kind, folder, tmp_path, capsys):
    out = tmp_path / f"new/rows.{kind}"
    predict(folder, "--out", out, "--top", 5, "--batch-size", 3)
    printed = capsys.readouterr().err
    assert "4 classified, 1 of other types left out; " in printed
    assert f"images/s on cpu after the first batch; {out}" in printed
    rows = read(out)
    assert [row["file"] for row in rows] == sorted(GOOD)
    assert main(["classify", *(str(folder / row["file"]) for row in rows), "--top", "5", "--json"]) == 0
    for row, expected in zip(rows, json.loads(capsys.readouterr().out), strict=True):
        assert [c["label"] for c in row["classes"]] == [c["label"] for c in expected["classes"]]
        assert [("person", "non_person")[c["class"]] for c in row["classes"]] == [c["label"] for c in row["classes"]]
        probabilities = [c["probability"] for c in row["classes"]]
        assert probabilities == pytest.approx([c["probability"] for c in expected["classes"]], abs=1e-6)


def test_standard_output(folder, capsysbinary):
    predict(folder)
    printed = capsysbinary.readouterr()
    assert printed.out.startswith(b"file,class,label,probability,error\nastronaut.png,0,person,0.9")
    predict(folder, "--format", "json")
    assert len(json.loads(capsysbinary.readouterr().out)) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_files(workers, folder, tmp_path, capsys):
    whole = (folder / GOOD[0]).read_bytes()
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.gif").touch()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bomb.png").write_bytes(a_bomb())
    (folder / "lost.tif").symlink_to(folder / "nowhere")
    (folder / "loop.tif").symlink_to(folder / "loop.tif")
    os.mkfifo(folder / "pipe.bmp")
    (folder / "folder.jpg").mkdir()
    out = tmp_path / "rows.jsonl"
    assert main(["predict", str(folder), "--out", str(out), "--batch-size", "3", "--workers", str(workers)]) == 0
    errors = {row["file"]: row["error"] for row in read(out) if "error" in row}
    assert set(errors) == {"text.jpg", "empty.gif", "torn.png", "bomb.png", "lost.tif", "loop.tif", "pipe.bmp"}
    assert errors["lost.tif"] == "no such file"
    assert "Too many levels of symbolic links" in errors["loop.tif"]
    assert errors["pipe.bmp"] == "not a file"
    assert errors["text.jpg"].startswith("not an image that can be read (cannot identify")
    assert "exceeds limit" in errors["bomb.png"]
    assert [row["file"] for row in read(out) if "classes" in row] == sorted(GOOD)
    printed = capsys.readouterr().err
    assert "4 classified, 7 not readable" in printed
    for file, why in errors.items():
        assert f"mbv1 predict: {file}: {why}\n" in printed


def test_many_bad_files_are_not_all_printed(tmp_path, capsys):
    for i in range(30):
        (tmp_path / f"{i}.jpg").touch()
    predict(tmp_path, "--out", tmp_path / "rows.csv")
    printed = capsys.readouterr().err
    assert "mbv1 predict: 0 classified, 30 not readable; " in printed
    assert "and 10 more, with their errors in their rows" in printed
    assert len(read(tmp_path / "rows.csv")) == 30


def test_a_name_that_is_no_utf8(tmp_path, pictures, capsysbinary):
    name = b"caf\xe9.png"
    pictures["astronaut"].save(tmp_path / os.fsdecode(name))
    for kind in ("csv", "json"):
        predict(tmp_path, "--out", tmp_path / f"rows.{kind}")
        assert [os.fsencode(row["file"]) for row in read(tmp_path / f"rows.{kind}")] == [name]
    predict(tmp_path)
    assert name in capsysbinary.readouterr().out


def test_finished_run_goes_on(folder, tmp_path, monkeypatch):
    out = tmp_path / "rows.csv"
    whole = (folder / GOOD[0]).read_bytes()
    (folder / "torn.png").write_bytes(whole[:3000])
    predict(folder, "--out", out)
    assert [row["file"] for row in read(out) if "error" in row] == ["torn.png"]
    (folder / "torn.png").write_bytes(whole)
    (folder / "new.png").write_bytes(whole)
    opened = reads(monkeypatch)
    predict(folder, "--out", out, "--resume")
    assert opened == ["new.png", "torn.png"]
    rows = {row["file"]: row.get("classes") for row in read(out)}
    assert list(rows) == sorted([*GOOD, "new.png", "torn.png"])
    assert rows["torn.png"] == rows["new.png"] == rows[GOOD[0]]
    assert sorted(p.name for p in tmp_path.glob("rows*")) == ["rows.csv", "rows.csv.journal"]


def reads(monkeypatch) -> list[str]:
    """The names of the files that are read from here on."""
    opened, read_pixels = [], image_folder.read_pixels

    def spy(path, resolution, **options):
        opened.append(path.name)
        return read_pixels(path, resolution, **options)

    monkeypatch.setattr(image_folder, "read_pixels", spy)
    return opened


def test_what_exists_is_safe(folder, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    predict(folder, "--out", out)
    before = out.read_bytes()
    predict(folder, "--out", out, "--top", 2, code=2)
    assert (
        f"error: {out}.journal exists: --resume goes on from it, --overwrite starts anew" in capsys.readouterr().err
    )
    predict(folder, "--out", out, "--top", 2, "--dtype", "bfloat16", "--resume", code=2)
    error = capsys.readouterr().err
    assert f"{out}.journal belongs to a run with other settings (dtype: 'float32' there, 'bfloat16' now; " in error
    assert "top: 1 there, 2 now)" in error
    predict(folder / "b", "--out", out, "--resume", code=2)
    assert "with other settings (folder: " in capsys.readouterr().err
    assert out.read_bytes() == before
    predict(folder, "--out", out, "--top", 2, "--overwrite")
    assert len(read(out)[0]["classes"]) == 2
    (tmp_path / "rows.csv.journal").unlink()
    predict(folder, "--out", out, "--top", 2, "--resume", code=2)
    assert "rows.csv exists, without the journal to go on from: --overwrite" in capsys.readouterr().err
    (tmp_path / "rows.csv.journal.1").write_text("what is this\n")
    predict(folder, "--out", out, "--top", 2, "--resume", code=2)
    assert "rows.csv.journal.1:1: not a line of a journal: b'what is this'" in capsys.readouterr().err


def test_other_weights_are_refused(folder, tmp_path, capsys, randomize):
    net = randomize(MobileNetV1(n_classes=3, width_mult=0.25))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    options = [folder, "--weights", tmp_path / "net.pth", "--out", tmp_path / "rows.json", "--resolution", 32]
    predict(*options)
    assert {c["label"] for row in read(tmp_path / "rows.json") for c in row["classes"]} == {None}
    with torch.no_grad():
        net.fc.bias += 1
    torch.save(net.state_dict(), tmp_path / "net.pth")
    predict(*options, "--resume", code=2)
    assert "with other settings (weights: " in capsys.readouterr().err
    with torch.no_grad():
        net.fc.bias[1] = float("nan")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    predict(*options, "--overwrite")
    assert {row["error"] for row in read(tmp_path / "rows.json")} == {"the net's output is not finite"}


def test_bad_options(folder, tmp_path, capsys):
    gray = MobileNetV1(ch_in=1, width_mult=0.25)
    torch.save(gray.state_dict(), tmp_path / "gray.pth")
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ((folder, "--out", tmp_path / "rows.txt"), "rows.txt: expected an ending of csv, json, jsonl, or --format"),
        ((folder, "--out", folder, "--format", "csv"), f"--out {folder}: expected a file, got a folder"),
        ((folder, "--resume"), "--resume and --overwrite need --out FILE"),
        ((tmp_path / "empty",), "expected image files (.jpg, .jpeg, "),
        ((tmp_path / "absent",), "No such file or directory"),
        ((folder, "--weights", tmp_path / "none.npz"), "none.npz: no such file"),
        ((folder, "--weights", tmp_path / "gray.pth"), "expected a net for 3 channels, red, green and blue, got one"),
        ((folder, "--device", "cuda:99"), "--device cuda:99: torch sees "),
    ):
        predict(*arguments, code=2)
        assert expected in capsys.readouterr().err
    for arguments in (["--device", "tpu"], ["--batch-size", "0"], ["--workers", "-1"], ["--resume", "--overwrite"]):
        with pytest.raises(SystemExit):
            main(["predict", str(folder), *arguments])


def test_low_precision_and_fast_jpeg(tmp_path, pictures):
    pictures["astronaut"].resize((1600, 1200)).save(tmp_path / "large.jpg")
    found = {}
    for name, options in {
        "exact": [],
        "bfloat16": ["--dtype", "bfloat16"],
        "float16": ["--dtype", "float16"],
        "fast": ["--fast-jpeg"],
    }.items():
        predict(tmp_path, "--out", tmp_path / f"{name}.json", *options)
        found[name] = read(tmp_path / f"{name}.json")[0]["classes"][0]["probability"]
    for name in ("bfloat16", "float16", "fast"):
        assert found[name] != found["exact"]
        assert found[name] == pytest.approx(found["exact"], abs=0.02)


def test_progress_is_for_terminals(folder, tmp_path, capsys, monkeypatch):
    predict(folder, "--out", tmp_path / "rows.csv")
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    predict(folder, "--out", tmp_path / "rows.csv", "--overwrite")
    assert "4/4" in capsys.readouterr().err


@pytest.fixture
def many(tmp_path, folder) -> Path:
    """500 images and a bad one."""
    root = tmp_path / "many"
    root.mkdir()
    for i in range(500):
        os.link(folder / GOOD[i % 4], root / f"{i:03d}.png")
    (root / "bad.png").touch()
    return root


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(command, journals, **options) -> subprocess.Popen:
    """Starts a run and returns when it has some rows in each journal."""
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], stderr=subprocess.PIPE, text=True, **options
    )
    while min(lines(journal) for journal in journals) < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process


def complete(rows: list[dict], many: Path) -> bool:
    """Whether there is one row a file, in order, and images that are the same have the same row."""
    assert [row["file"] for row in rows] == sorted(p.name for p in many.iterdir())
    assert "error" in rows.pop()
    assert all(row["classes"] == rows[i % 4]["classes"] for i, row in enumerate(rows))
    return True


def test_interrupted(many, tmp_path, monkeypatch):
    out = tmp_path / "rows.csv"
    journal = tmp_path / "rows.csv.journal.0"
    process = start(["mbv1", "predict", many, "--out", out, "--batch-size", 1, "--workers", 0], [journal])
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert (process.returncode, error) == (130, f"mbv1 predict: interrupted; --resume goes on from {out}.journal\n")
    assert not out.exists()
    with journal.open("ab") as file:
        file.write(b'{"file": "499.png", "cla')
    kept = lines(journal) - 1
    opened = reads(monkeypatch)
    predict(many, "--out", out, "--resume")
    assert len(opened) == 501 - kept < 500
    assert complete(read(out), many)


# Each process is a machine of its own: nothing but the images is common to them. First one fails, and all give up.
MACHINE = """
import os, sys
from contextlib import nullcontext
from mbv1.cli import main
from mbv1.processes import World

os.chdir("machine" + os.environ["RANK"])
os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
with World.joined() as world:
    World.joined = lambda: nullcontext(world)
    try:
        code = main([*sys.argv[1:], "--weights", "weights.npz"])
    except SystemExit as exit:
        code = exit.code
    assert code == 2, code
    code = main(sys.argv[1:])
sys.exit(code)
"""

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2]


def test_killed_alone_and_resumed_on_two_machines(many, tmp_path):
    (tmp_path / "machine0").mkdir()
    (tmp_path / "machine1").mkdir()
    (tmp_path / "machine.py").write_text(MACHINE)
    journal = tmp_path / "machine0" / "rows.json.journal.0"
    options = ["predict", many, "--out", "rows.json", "--batch-size", 1, "--workers", 0]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = start(["mbv1", *options], [journal], cwd=tmp_path / "machine0", env=environment)
    process.kill()
    process.communicate()
    kept = lines(journal) - 1
    for suffix in (".npz", ".json"):  # on one machine only
        shutil.copy(SHIPPED.with_suffix(suffix), tmp_path / "machine0" / f"weights{suffix}")
    command = [sys.executable, "-m", *TORCHRUN, tmp_path / "machine.py", *options, "--resume"]
    result = subprocess.run([*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("error: ") == 1
    assert "mbv1 predict: error: rank 1: weights.npz: no such file" in result.stderr
    assert f"{500 - kept} classified, {kept} kept from before, 1 not readable; " in result.stderr
    assert "images/s on 2 processes on cpu" in result.stderr
    assert complete(read(tmp_path / "machine0" / "rows.json"), many)
    assert sorted(p.name for p in tmp_path.glob("machine*/rows*")) == ["rows.json", "rows.json.journal"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of a process's children")
def test_one_of_two_processes_dies_and_torchrun_restarts_them(many, tmp_path):
    out = tmp_path / "rows.csv"
    journals = [tmp_path / f"rows.csv.journal.{rank}" for rank in range(2)]
    options = ["predict", many, "--out", out, "--batch-size", 1, "--workers", 0, "--resume"]
    process = start([*TORCHRUN, "--max-restarts", 1, "-m", "mbv1", *options], journals)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, error = process.communicate()
    assert process.returncode == 0, error
    kept = int(re.search(r"(\d+) classified, (\d+) kept from before, 1 not readable", error)[2])
    assert kept >= 8
    assert complete(read(out), many)
    assert not any(journal.exists() for journal in journals)


def test_rows_of_other_numbers_of_processes(folder, tmp_path, monkeypatch):
    out, journal = tmp_path / "rows.csv", tmp_path / "rows.csv.journal"
    predict(folder, "--out", out)
    before = out.read_bytes()
    header, *rows = journal.read_bytes().splitlines(keepends=True)
    journal.rename(tmp_path / "rows.csv.journal.7").write_bytes(header + rows[0] + rows[2][:20])
    (tmp_path / "rows.csv.journal.0").write_bytes(header[:20])
    (tmp_path / "rows.csv.journal.1").write_bytes(header + rows[1])
    opened = reads(monkeypatch)
    predict(folder, "--out", out, "--resume")
    assert len(opened) == 2
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("rows*")) == ["rows.csv", "rows.csv.journal"]
