"""``python -m mbv1``: in this process for the cases, in one of its own for the exit code and the streams."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from mbv1 import MobileNetV1
from mbv1.cli import main
from mbv1.images import read_photo


@pytest.fixture
def photos(tmp_path, pictures) -> dict[str, Path]:
    """The four photographs as PNG files."""
    paths = {name: tmp_path / f"{name}_96.png" for name in pictures}
    for name, picture in pictures.items():
        picture.save(paths[name])
    return paths


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mbv1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="surrogateescape")


def test_classify_in_a_process(photos):
    result = run("classify", photos["astronaut"])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{photos['astronaut']}: person 0.922\n"


@pytest.mark.parametrize("backend", ["auto", "cpu", "torch"])
def test_classify_several(backend, photos, capsys):
    assert main(["classify", *map(str, photos.values()), "--top", "2", "--backend", backend]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(": ")[1] for line in lines] == [
        "person 0.922, non_person 0.078",
        "non_person 0.967, person 0.033",
        "non_person 0.987, person 0.013",
        "non_person 0.860, person 0.140",
    ]


def test_json(photos, capsys):
    assert main(["classify", str(photos["astronaut"]), str(photos["coffee"]), "--json", "--top", "5"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["file"] == str(photos["astronaut"])
    assert first["classes"][0]["label"] == "person"
    assert first["classes"][0]["probability"] == pytest.approx(0.92177, abs=1e-4)
    assert [c["label"] for c in second["classes"]] == ["non_person", "person"]


def test_bad_files_in_a_process(tmp_path, photos):
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    odd = photos["astronaut"].rename(tmp_path / os.fsdecode(b"no-utf8-\xe9.png"))
    result = run("classify", text, odd, tmp_path / "absent.png")
    assert result.returncode == 2
    assert result.stdout == f"{odd}: person 0.922\n"
    errors = result.stderr.splitlines()
    assert len(errors) == 2, result.stderr
    assert errors[0].startswith(f"mbv1 classify: error: {text}: not an image that can be read")
    assert errors[1] == f"mbv1 classify: error: {tmp_path / 'absent.png'}: no such file"


@pytest.mark.parametrize("damage", ["truncated", "empty", "folder"])
def test_broken_images(damage, tmp_path, photos, capsys):
    path = tmp_path / "broken.png"
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(photos["coffee"].read_bytes()[: 3000 if damage == "truncated" else 0])
    assert main(["classify", str(path)]) == 2
    assert "broken.png: not an image that can be read" in capsys.readouterr().err


def test_bad_weights(tmp_path, photos, capsys):
    assert main(["classify", str(photos["coffee"]), "--weights", str(tmp_path / "none.npz")]) == 2
    assert "none.npz: no such file" in capsys.readouterr().err
    assert main(["classify", str(photos["coffee"]), "--backend", "cuda"]) in (0, 2)


def test_own_weights_with_a_card(tmp_path, photos, capsys, randomize):
    net = randomize(MobileNetV1(n_classes=3, width_mult=0.25, activation="relu6")).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    arguments = [
        "classify",
        str(photos["coffee"]),
        "--weights",
        str(tmp_path / "net.pth"),
        "--resolution",
        "64",
    ]
    assert main([*arguments, "--top", "3"]) == 0
    assert "class 0" in capsys.readouterr().out
    card = {
        "options": {"activation": "relu6"},
        "labels": ["cup", "dog", "sky"],
        "mean": [0, 0, 0],
        "std": [255, 255, 255],
    }
    (tmp_path / "net.json").write_text(json.dumps(card))
    assert main([*arguments, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    with torch.no_grad():
        probabilities = net(read_photo(photos["coffee"], 64) / 255).softmax(1)[0]
    assert result["classes"][0]["label"] == card["labels"][probabilities.argmax()]
    assert result["classes"][0]["probability"] == pytest.approx(probabilities.max().item(), abs=1e-4)
    (tmp_path / "net.json").write_text('{"colour": "blue"}')
    assert main(arguments) == 2
    assert "net.json: not a card" in capsys.readouterr().err


def solid(mode, color, size=(20, 10)):
    return Image.new(mode, size, color)


IMAGES = {
    "gray.png": (solid("L", 90), (90, 90, 90)),
    "gray16.png": (Image.fromarray(np.full((10, 20), 90 * 257, np.uint16)), (90, 90, 90)),
    "bilevel.png": (solid("1", 1), (255, 255, 255)),
    "palette.gif": (solid("RGB", (200, 30, 60)).quantize(), (200, 30, 60)),
    "cmyk.jpg": (solid("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
    "opaque.png": (solid("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
    "clear.png": (solid("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
    "graya.png": (solid("LA", (40, 255)), (40, 40, 40)),
    "photo.webp": (solid("RGB", (120, 120, 120)), (120, 120, 120)),
    "photo.bmp": (solid("RGB", (1, 2, 3)), (1, 2, 3)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_modes(name, tmp_path):
    image, color = IMAGES[name]
    image.save(tmp_path / name)
    photo = read_photo(tmp_path / name, 8)
    assert photo.shape == (1, 3, 8, 8)
    assert photo.dtype == torch.float32
    expected = torch.tensor(color).float().view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(photo, expected, rtol=0, atol=3 if name.endswith(("jpg", "webp")) else 0)


def test_exif_orientation(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    photo = read_photo(tmp_path / "turned.png", 8)
    assert photo[0, :, :4].max() == 0
    assert photo[0, :, 4:].min() == 255


@pytest.mark.parametrize("exif", [b"Exif\0\0nothing that is EXIF", b"Exif\0\0II*\0"], ids=["other", "torn"])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_broken_exif_is_no_broken_image(kind, exif, tmp_path):
    Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / f"photo.{kind}", exif=exif, lossless=True)
    assert read_photo(tmp_path / f"photo.{kind}", 8).unique().tolist() == [7]


@pytest.mark.parametrize("error", [struct.error("torn"), RuntimeError("torn"), KeyError("torn"), MemoryError("torn")])
def test_whatever_a_decoder_raises(error, photos, capsys, monkeypatch):
    def fail(image):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert main(["classify", str(photos["coffee"])]) == 2
    assert "coffee_96.png: not an image that can be read (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"resolution": "96"}, "resolution: expected an integer >= 1, got '96'"),
        ({"mean": [0, 0]}, "mean: expected three numbers, got [0, 0]"),
        ({"std": [1, 1, 0]}, "std: expected three numbers > 0, got [1, 1, 0]"),
        ({"labels": "person"}, "labels: expected a list of strings, got 'person'"),
        ({"options": ["relu6"]}, "options: expected arguments of MobileNetV1, got ['relu6']"),
        ({"options": {"depth": 3}}, "options: "),
        ([], "not a card of a net"),
    ],
)
def test_bad_cards(card, expected, tmp_path, photos, capsys):
    torch.save(MobileNetV1(n_classes=2, width_mult=0.25).state_dict(), tmp_path / "net.pth")
    (tmp_path / "net.json").write_text(json.dumps(card))
    assert main(["classify", str(photos["coffee"]), "--weights", str(tmp_path / "net.pth")]) == 2
    error = capsys.readouterr().err
    assert f"error: {tmp_path / 'net.json'}: " in error
    assert expected in error


def test_weights_of_this_folder(tmp_path, photos, capsys, monkeypatch):
    """``.`` has no name that a card could have beside it."""
    (tmp_path / "net").mkdir()
    torch.save(MobileNetV1(n_classes=2, width_mult=0.25).state_dict(), tmp_path / "net" / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path / "net")
    assert main(["classify", str(photos["coffee"]), "--weights", "."]) == 0
    (tmp_path / "net.json").write_text('{"labels": ["cup", "no cup"]}')
    assert main(["classify", str(photos["coffee"]), "--weights", "."]) == 0
    assert "cup 0." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["568,740,352", "4,231,976", "569 M", "4.2 M", "depthwise 3x3 /2"]),
        (("--width-mult", "0.5", "--resolution", "160"), ["76,524,800", "1,331,592", "76 M", "1.32 M"]),
        (("--full-conv",), ["4866 M", "29.3 M"]),
        (("--shallow",), ["307 M", "2.9 M"]),
        (("--n-classes", "10"), ["not given"]),
    ],
)
def test_summary(arguments, expected, capsys):
    assert main(["summary", *arguments]) == 0
    printed = capsys.readouterr().out
    for text in expected:
        assert text in printed


def test_summary_json(capsys):
    assert main(["summary", "--width-mult", "0.25", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["multiply_adds"], summary["parameters"], len(summary["layers"])) == (
        41_030_272,
        470_072,
        28,
    )


def test_help(capsys):
    for arguments in (["--help"], ["classify", "--help"], ["summary", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert capsys.readouterr().out
    for arguments in (
        [],
        ["classify"],
        ["classify", "x.png", "--top", "0"],
        ["summary", "--width-mult", "0"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
