import json
from pathlib import Path

import pytest
import torch

from benchmarks import dwconv, peers
from benchmarks.roofline import Roofline


@pytest.fixture(autouse=True)
def same_threads_after():
    """The tools set torch's threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def roofline(monkeypatch):
    """A device of 100 GB/s and 1 TFLOP/s, which nobody has to measure."""
    made = Roofline(bandwidth=100e9, fma=1e12, gemm={torch.float32: 2e12}, cache=None)
    for benchmark in ("op_suite", "mobilenet"):
        monkeypatch.setattr(
            f"benchmarks.{benchmark}.measure", lambda device, dtypes, threads, seconds: dict.fromkeys(threads, made)
        )
    return made


@pytest.fixture
def run_dwconv(roofline, tmp_path: Path):
    """Runs the dwconv benchmark on one small layer in float32; its exit code and its JSON."""

    def run(*arguments: str) -> tuple[int, dict]:
        path = tmp_path / "results" / "dwconv.json"
        given = ("--device", "cpu", "--quick", "--threads", "1", "--filter", "block 13", "--dtype", "fp32")
        code = dwconv.main([*given, "--json", str(path), *arguments])
        return code, json.loads(path.read_text())

    return run


@pytest.fixture
def add_peer(monkeypatch):
    """Adds a contender to every benchmark."""

    def add(peer) -> None:
        found = peers.find_peers
        monkeypatch.setattr("benchmarks.options.find_peers", lambda benchmark: [*found(benchmark), peer])

    return add
