"""The other inference libraries: each that is installed agrees with the reference, each other one says so."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import mobilenet
from benchmarks.contest import OK, contest
from benchmarks.fma_peak import _library, fma_peak
from benchmarks.peers import LibraryPeer, find_peers
from benchmarks.peers._model_files import onnx_model
from benchmarks.timing import Budget, CpuClock

CPU = torch.device("cpu")
LIBRARIES = [peer for peer in find_peers("mobilenet") if isinstance(peer, LibraryPeer)]
ONCE = Budget(seconds=0.0, min_rounds=2, max_rounds=2)


@pytest.mark.parametrize("batch, layout", [(1, "nchw"), (2, "nhwc")])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda peer: peer.name)
def test_a_library_agrees_with_the_reference_or_says_what_is_missing(library, batch, layout):
    for dtype in library.dtypes:
        reason = library.unavailable(CPU, dtype, layout)
        if reason is None:
            net = mobilenet.make_net(0.25, 64)
            workload = mobilenet.Net(net, (batch, 3, 64, 64), dtype, layout, CPU)
            (outcome,) = contest(workload, [library], [CpuClock()], ONCE)
            assert (outcome.status, outcome.reason) == (OK, None)
        else:
            missing = [name for name in library.needs if importlib.util.find_spec(name) is None]
            assert missing and all(name in reason for name in missing) and "pip install" in reason


def test_libraries_that_are_not_installed_are_named(roofline, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    names = {name for library in LIBRARIES for name in library.needs}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in names else find_spec(name))
    path = tmp_path / "net.json"
    sizes = ("--width-mult", "0.25", "--resolution", "32", "--layout", "nhwc", "--threads", "1", "--rounds", "1")
    given = ("--peers", "eager", *(library.name for library in LIBRARIES))
    assert mobilenet.main(["--device", "cpu", "--batch", "1", *sizes, *given, "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert {row["contender"] for row in results["rows"]} == {"mbv1", "eager"}
    for library in LIBRARIES:
        assert "not installed: " + library.needs[0] in results["left_out"][library.name]


def test_libraries_take_part_when_asked_for_and_on_the_cpu():
    assert {library.name for library in LIBRARIES} == {
        "onnxruntime",
        "openvino",
        "ncnn",
        "mnn",
        "litert",
        "executorch",
    }
    for library in LIBRARIES:
        assert library.left_out(CPU, quick=False) is not None
        assert library.unavailable(torch.device("cuda"), torch.float32, "nchw") == "compared on the CPU only"


def test_model_files_are_in_the_dtype_that_was_asked_for_and_made_once(monkeypatch):
    made = []

    def export(module, inputs, **options):
        dtypes = {tensor.dtype for tensor in (*module.parameters(), *inputs)}
        made.append(dtypes)
        return SimpleNamespace(save=lambda file: file.write(repr(dtypes).encode()))

    monkeypatch.setattr(torch.onnx, "export", export)
    net = mobilenet.make_net(0.25, 32)
    workload = mobilenet.Net(net, (1, 3, 32, 32), torch.float16, "nchw", CPU)
    for dtype in (torch.float16, torch.float32) * 2:
        assert onnx_model(workload, dtype) == repr({dtype}).encode()
    assert made == [{torch.float16}, {torch.float32}]


def test_multiply_add_peak():
    peak = fma_peak(torch.float32, threads=1, seconds=0.01)
    assert peak is not None and 1e9 < peak < 1e12
    assert fma_peak(torch.float16, threads=1, seconds=0.01) is None


def test_without_a_compiler_there_is_no_multiply_add_peak(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("benchmarks.fma_peak._library", _library.__wrapped__)
    assert fma_peak(torch.float32, threads=1, seconds=0.01) is None
