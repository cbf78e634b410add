"""``python -m mbv1``: what is in a photograph, and what a net costs."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbv1_kernels import BACKENDS

from . import __version__
from .journal import FORMATS
from .model import MobileNetV1
from .summary import summarize, table

if TYPE_CHECKING:
    from .images import Card


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mbv1",
        description="MobileNetV1 on fused depthwise separable convolutions.",
        epilog="example: python -m mbv1 classify photo.jpg",
    )
    parser.add_argument("--version", action="version", version=f"mbv1 {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "classify",
        help="name what is in photographs; without --weights: person or non_person",
        description="Prints one line for each photograph: its most probable classes. The net that comes "
        "with the package tells photographs with a person from those without. Each image is resized whole to "
        "the net's square (bilinear), so no part of it is cut off.",
    )
    command.add_argument("photos", nargs="+", metavar="PHOTO", help="any image file that Pillow reads")
    _add_net(command)
    command.add_argument("--json", action="store_true", help="print a JSON array instead of lines")
    command.set_defaults(run=_classify)

    command = commands.add_parser(
        "predict",
        help="classify every image in a folder, into CSV or JSON; resumable, and on many GPUs by torchrun",
        description="Classifies the images in a folder and the folders in it, each as classify does, and writes one "
        "row for each, sorted by path. A file that cannot be read gets a row with the error, and the rest goes on. "
        "What is done is kept in OUT.journal: --resume goes on after an interruption, tries unreadable files again, "
        "and adds files that are new. "
        "torchrun --nproc-per-node 8 -m mbv1 predict … shares the files among processes, also of several machines, "
        "which must see the images under the same path.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="where the images lie")
    command.add_argument(
        "--out", default="-", metavar="FILE", help="FILE.csv, FILE.json or FILE.jsonl; - (the default) prints CSV"
    )
    command.add_argument("--format", dest="kind", choices=FORMATS, help="of the output, where FILE's ending is none")
    _add_net(command)
    command.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="images in one call (64)")
    command.add_argument(
        "--device", type=_device, default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (auto)"
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="what the net runs in (float32)",
    )
    command.add_argument(
        "--workers", type=_not_negative, metavar="N", help="processes that decode images (as many as cores, up to 16)"
    )
    command.add_argument(
        "--fast-jpeg",
        action="store_true",
        help="decode large JPEGs at a fraction of their size: faster; probabilities differ a little",
    )
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="keep the rows of an earlier run, interrupted or not")
    again.add_argument("--overwrite", action="store_true", help="start anew where there is an output already")
    command.set_defaults(run=_predict)

    command = commands.add_parser(
        "summary",
        help="multiply-adds and parameters of every layer",
        description="Counts the multiply-adds (convolutions and the classifier) and the parameters (with "
        "batch norm's) of every layer, and shows the paper's figures beside the totals.",
    )
    command.add_argument("--width-mult", type=_positive_float, default=1.0, metavar="A", help="width (1.0)")
    command.add_argument("--resolution", type=_positive, default=224, metavar="N", help="input size (224)")
    command.add_argument("--n-classes", type=_positive, default=1000, metavar="N", help="classes (1000)")
    command.add_argument("--shallow", action="store_true", help="without the five 14x14x512 blocks")
    command.add_argument("--full-conv", action="store_true", help="dense convolutions in place of separable ones")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=_summary)
    return parser


def _add_net(command: argparse.ArgumentParser) -> None:
    """The options of the commands that classify."""
    command.add_argument(
        "--weights",
        metavar="FILE",
        help="another net: .safetensors, .npz, .pth, .pt, .bin or .h5 with the names of the published "
        "PyTorch code, timm, transformers, keras or TF-slim; a file of the same name ending in .json may "
        "give options, resolution, mean, std and labels",
    )
    command.add_argument("--top", type=_positive, default=1, metavar="N", help="how many classes to give (1)")
    command.add_argument("--resolution", type=_positive, metavar="N", help="input size in place of the net's own")
    command.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the convolutions (auto)")


def _classify(options: argparse.Namespace) -> int:
    from .images import load_net

    try:
        net, card = load_net(options.weights, fused=True, backend=options.backend)
    except (OSError, ValueError) as error:
        return _fail("classify", error)
    results, code = [], 0
    for path in options.photos:
        try:
            results.append((path, _classify_one(net, card, path, options)))
        except (OSError, ValueError, RuntimeError) as error:
            code = _fail("classify", error)
            continue
        if not options.json:
            print(f"{path}: " + ", ".join(f"{label} {p:.3f}" for label, p in results[-1][1]))
    if options.json:
        document = [
            {"file": path, "classes": [{"label": label, "probability": p} for label, p in classes]}
            for path, classes in results
        ]
        print(json.dumps(document, indent=2))
    return code


def _classify_one(net: MobileNetV1, card: Card, path: str, options: argparse.Namespace) -> list[tuple[str, float]]:
    from .images import classify, read_photo

    photo = read_photo(Path(path), options.resolution or card.resolution)
    return classify(net, card, photo)[: options.top]


def _predict(options: argparse.Namespace) -> int:
    from .predict import Job, predict

    arguments = {name: value for name, value in vars(options).items() if name != "run"}
    out = None if options.out == "-" else Path(options.out)
    kind = options.kind or ("csv" if out is None else out.suffix.lower().removeprefix("."))
    try:
        if kind not in FORMATS:
            raise ValueError(f"--out {out}: expected an ending of {', '.join(FORMATS)}, or --format")
        if out is not None and out.is_dir():
            raise ValueError(f"--out {out}: expected a file, got a folder")
        if out is None and (options.resume or options.overwrite):
            raise ValueError("--resume and --overwrite need --out FILE")
        predict(Job(**{**arguments, "out": out, "kind": kind}))
    except (OSError, ValueError, RuntimeError) as error:
        return _fail("predict", error)
    except KeyboardInterrupt:
        after = "" if out is None else f"; --resume goes on from {out}.journal"
        print(f"mbv1 predict: interrupted{after}", file=sys.stderr)
        return 130
    return 0


def _summary(options: argparse.Namespace) -> int:
    net = MobileNetV1(
        n_classes=options.n_classes,
        width_mult=options.width_mult,
        shallow=options.shallow,
        separable=not options.full_conv,
        device="meta",
    )
    if not options.json:
        from rich.console import Console

        # Wide enough for every column where the output is no terminal.
        console = Console() if sys.stdout.isatty() else Console(width=120)
        console.print(table(net, options.resolution))
        return 0
    summary = summarize(net, options.resolution)
    layers = [vars(layer) for layer in summary.layers]
    totals = {"multiply_adds": summary.multiply_adds, "parameters": summary.parameters}
    print(json.dumps({**totals, "layers": layers}, indent=2))
    return 0


def _fail(command: str, error: Exception) -> int:
    print(f"mbv1 {command}: error: {error}", file=sys.stderr)
    return 2


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text}")
    return value


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {text}")
    return text


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
    return value
