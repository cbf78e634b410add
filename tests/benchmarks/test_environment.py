import torch

from benchmarks.environment import environment


def test_what_is_preloaded_is_named_without_its_place(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/somewhere/libtcmalloc.so")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/somewhere")
    variables = environment(torch.device("cpu"))["variables"]
    assert variables["LD_PRELOAD"] == "libtcmalloc.so" and "TRITON_CACHE_DIR" not in variables
