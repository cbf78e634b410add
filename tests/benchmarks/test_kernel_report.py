"""The parts of the kernel report, on inputs whose results are known by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks.kernel_report import limits, tables, today
from benchmarks.kernel_report.binaries import Binary, bytes_in_flight, short_name
from benchmarks.kernel_report.layers import Layer, layers


def _code(text: str) -> list[tuple[str, str]]:
    return [
        tuple(line.strip().split(" ", 1)) if " " in line.strip() else (line.strip(), "") for line in text.splitlines()
    ]


def test_loads_are_in_flight_until_their_first_use() -> None:
    code = _code("LDG.E.128 R4, [R2.64]\nLDG.E.128 R8, [R2.64+0x10]\nFFMA R0, R4, R4, R0\nLDG.E R12, [R2.64+0x20]")
    assert bytes_in_flight(code) == 32  # the use of the first leaves the second, and 4 bytes come


def test_a_register_in_the_middle_of_a_vector_waits_for_it() -> None:
    code = _code("LDG.E.128 R4, [R2.64]\nFADD R0, R6, R0\nLDG.E.64 R8, [R2.64]")
    assert bytes_in_flight(code) == 16


def test_asynchronous_copies_are_in_flight_until_the_wait() -> None:
    group = "LDGSTS.E.BYPASS.128 [R3], [R4.64]\nLDGDEPBAR\n"
    assert bytes_in_flight(_code(group * 3 + "DEPBAR.LE SB0, 0x1\n" + group)) == 48
    assert bytes_in_flight(_code((group + "DEPBAR.LE SB0, 0x0\n") * 3)) == 16


def test_names_without_namespaces_and_parameters() -> None:
    name = "void mbv1::cuda::(anonymous namespace)::pw_kernel<__half, false, (mbv1::cuda::Layout)1>(mbv1::P, long)"
    assert short_name(name) == "pw_kernel<__half, false, 1>"


def test_the_loop_that_stores_an_output_is_found() -> None:
    lines = [
        "MOV R1, c[0x0][0x28]",
        "LDG.E R2, [R4.64]",
        "LDG.E R3, [R4.64]",
        "STG.E [R6.64], R2",
        "@!P0 BRA 0x10",
        "EXIT",
    ]
    code = "\n".join(f"        /*{16 * i:04x}*/    {line} ;    /* 0x0 */" for i, line in enumerate(lines))
    assert today.output_loop(code) == (4, 2)


def test_floors_of_the_net() -> None:
    """2,629 MB: convolution, batch norm and ReLU in one kernel each, float16, batch 128 (as in the README)."""
    repeats = {"blocks 7-11": 5}
    total = sum(
        layer.floor_bytes(128, "f16") * repeats.get(layer.name, 1)
        for layer in layers()
        if layer.op != "separable_conv2d"
    )
    assert total / 1e6 == pytest.approx(2629, rel=0.01)
    # The sums of the layers' widths: 27 kernels, and the pool with the classifier.
    assert sum(repeats.get(layer.name, 1) for layer in layers() if layer.op != "separable_conv2d") == 28


def test_what_users_run_today() -> None:
    binary = Binary("k", "k", "sm_80", 1024, 32, 0, 0, 0, 200, {}, 28)
    native = {"f16": today.Native(binary, instructions=189, loads=19)}
    layer = Layer("block 1", "dwconv2d", 32, 112, 1, 32)
    works = today.launches(layer, 1, "f16", "nchw", native)
    assert [len(w) for w in works.values()] == [3, 2]
    convolution, norm, relu = works["eager"]
    outputs = 32 * 112 * 112
    assert convolution.instructions == 189 * outputs and convolution.ffma == 9 * outputs
    assert norm == relu and norm.dram_bytes == 4 * outputs
    assert today.launches(layer, 1, "f16", "nhwc", native)["eager"][0].dram_bytes == layer.floor_bytes(1, "f16")
    block = Layer("block 1", "separable_conv2d", 32, 112, 1, 64)
    assert [len(w) for w in today.launches(block, 1, "f16", "nchw", native).values()] == [6, 4]


def _access(**values: int) -> dict[str, int]:
    return {"requests": 1, "bytes": 0, "useful_bytes": 32, "sectors": 1, "wavefronts": 0, **values}


def _row(x_bytes: int, width: str, useful: int, unique: int) -> dict[str, Any]:
    """dw 3x3 of 64 channels of 8x8, float16: 8192 bytes in, as many out."""
    x = {
        "address": 1,
        "unique_load_bytes": unique,
        "unique_store_bytes": 0,
        "load": _access(bytes=x_bytes, useful_bytes=useful),
        "store": _access(),
        "load_widths": {width: x_bytes},
        "store_widths": {},
    }
    y = {
        "address": 2,
        "unique_load_bytes": 0,
        "unique_store_bytes": 8192,
        "load": _access(),
        "store": _access(bytes=8192),
        "load_widths": {},
        "store_widths": {"16": 8192},
    }
    layer = {"name": "l", "op": "dwconv2d", "channels": 64, "size": 8, "stride": 1, "out": 64}
    launch = {
        "kernel": "k<float>(int)",
        "grid": [1, 1, 1],
        "block": [128, 1, 1],
        "shared_bytes": 0,
        "buffers": [x, y],
        "async_bytes_in_flight": 0,
    }
    return {
        "layer": layer,
        "dtype": "f16",
        "layout": "nhwc",
        "batch": 1,
        "kernel": "k_f16",
        "launches": [launch],
        "x": 1,
        "y": 2,
    }


def _broken(row: dict[str, Any]) -> set[str]:
    return {f.limit for f in limits._traffic(row) if not f.kept}


def test_limits_on_traffic() -> None:
    good = {"x_bytes": 16384, "width": "16", "useful": 32, "unique": 9472}
    assert _broken(_row(**good)) == set()
    assert _broken(_row(**{**good, "x_bytes": 9 * 8192})) == {"requested bytes / floor"}
    assert _broken(_row(**{**good, "width": "4"})) == {"loads of x by 16 bytes"}
    assert _broken(_row(**{**good, "useful": 30})) == {"loads of x: use of sectors"}
    assert _broken(_row(**{**good, "unique": 12000})) == {"unique bytes / floor"}


@pytest.mark.parametrize(("spills", "stack", "kept"), [(0, 0, True), (2, 0, False), (0, 8, False)])
def test_limit_on_spills(spills: int, stack: int, kept: bool) -> None:
    assert limits._spills(Binary("k", "k", "sm_80", 128, 32, stack, spills, 0, 100, {}, 16)).kept is kept


def test_tables_have_a_column_for_each_title() -> None:
    text = tables.table(("name", "value"), [("a", 1.0), ("long name", 22.5)])
    assert [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()] == [
        ["name", "value"],
        ["a", "1.00"],
        ["long name", "22.50"],
    ]


def test_the_json_of_a_report_has_a_row_a_line() -> None:
    report = {"note": "n", "rows": [{"a": 1.23456789}, {"a": [2]}]}
    text = tables.as_json(report)
    assert json.loads(text) == {"note": "n", "rows": [{"a": 1.2346}, {"a": [2]}]}
    assert len(text.splitlines()) == 7
