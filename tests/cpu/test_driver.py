"""The CPU kernels without torch: under AddressSanitizer and UBSan here, and on an emulated aarch64 processor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

from tests.cases import DTYPES, Case, build, expectation
from tests.cpu import cases_file
from tests.instruction_sets import INSTRUCTION_SETS, processor_has

ROOT = Path(__file__).parent.parent.parent
SHARED = [ROOT / "csrc/cpu/dispatch.cpp", ROOT / "csrc/cpu/scratch.cpp"]
KERNELS = sorted((ROOT / "csrc/cpu").glob("isa_*.cpp"))
#: As setup.py has them.
FLAGS = ["-std=c++20", "-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi", "-Wno-unknown-pragmas"]
#: AddressSanitizer's checks as calls: in line they take GCC twice the time and more, as the loops are unrolled.
SANITIZE = [
    "-O1",
    "-g1",
    "-fsanitize=address,undefined",
    *("--param", "asan-instrumentation-with-call-threshold=0"),
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]

CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
_missing = [tool for tool in (CROSS_COMPILER, EMULATOR) if shutil.which(tool) is None]
needs_aarch64_tools = pytest.mark.skipif(
    bool(_missing), reason=f"needs the aarch64 tools {' and '.join(_missing)}, so no aarch64 kernel is executed"
)


def compile_driver(
    folder: Path, compiler: str, *flags: str, kernels: Sequence[Path] = KERNELS, link: Sequence[str] = ()
) -> Path:
    """Compiles the driver with the kernels, the files side by side."""
    sources = [*kernels, *SHARED, Path(__file__).with_name("driver.cpp")]
    objects = [str(folder / f"{source.stem}.o") for source in sources]

    def compile_one(source: Path, output: str) -> None:
        run([compiler, *FLAGS, *flags, "-c", str(source), "-o", output])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(compile_one, sources, objects))
    driver = folder / "driver"
    run([compiler, *flags, *link, *objects, "-pthread", "-o", str(driver)])
    return driver


def run(command: list[str], code: int = 0, **variables: str) -> str:
    """What ``command`` prints; it has to exit with ``code``."""
    process = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    output = process.stdout[-8000:] + process.stderr[-8000:]
    assert process.returncode == code, f"{' '.join(command)} exited with {process.returncode}:\n{output}"
    return output


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cases") / "cases.bin"
    with path.open("wb") as file:
        assert cases_file.write(file) > 1000
    return path


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the instruction sets that can run here: the others' files would take half of the time of all tests."""
    missing = [isa for isa in INSTRUCTION_SETS if not processor_has(isa)]
    kernels = [file for file in KERNELS if file.stem.removeprefix("isa_") not in missing]
    # Nothing calls their tables.
    link = [f"-Wl,--defsym={table(file)}=0" for file in KERNELS if file not in kernels]
    compiler = os.environ.get("CXX", "c++")
    return compile_driver(tmp_path_factory.mktemp("sanitized"), compiler, *SANITIZE, kernels=kernels, link=link)


def table(file: Path) -> str:
    """The symbol of ``mbv1::cpu::kernels_<isa>()``."""
    name = file.stem.replace("isa", "kernels", 1)
    return f"_ZN4mbv13cpu{len(name)}{name}Ev"


def instruction_sets(driver: Path, cases: Path) -> list[str]:
    """Those that this processor has, from the error that names them."""
    error = run([str(driver), str(cases)], code=2, MBV1_CPU_ISA="none")
    found = re.search(r"expected one of (.+) on this processor", error)
    assert found is not None, error
    return found[1].split(", ")


def test_sanitizers_find_nothing(sanitized: Path, cases: Path) -> None:
    sets = instruction_sets(sanitized, cases)
    assert sorted(sets) == sorted(filter(processor_has, INSTRUCTION_SETS))
    for isa in sets:
        assert ", 0 failures" in run([str(sanitized), str(cases)], MBV1_CPU_ISA=isa)


ONE = build(Case("dwconv2d", (1, 24, 9, 9), (3, 3), options={"padding": 1}), DTYPES["f32"], "nhwc")


@pytest.mark.parametrize("item, name", [(0, "x"), (1, "weight"), (2, "bias")])
def test_a_read_beyond_a_tensor_is_found(sanitized: Path, tmp_path: Path, item: int, name: str) -> None:
    path = tmp_path / "cases.bin"
    with path.open("wb") as file:
        cases_file.write_case(file, "whole", ONE, *expectation(ONE))
        cases_file.write_case(file, f"cut {name}", ONE, *expectation(ONE), missing={item: 1})
    assert "AddressSanitizer" in run([str(sanitized), str(path)], code=1)


def test_a_wrong_result_and_a_broken_file_are_found(sanitized: Path, tmp_path: Path) -> None:
    path = tmp_path / "cases.bin"
    exact, allowed = expectation(ONE)
    wrong = exact.clone()
    wrong[0, 5, 4, 3] += 1e-3
    with path.open("wb") as file:
        cases_file.write_case(file, "right", ONE, exact, allowed)
        cases_file.write_case(file, "one element off", ONE, wrong, allowed)
    output = run([str(sanitized), str(path)], code=1)
    assert "FAILED one element off: dwconv2d_nhwc" in output and "FAILED right" not in output
    assert "no case reached pool_linear" in output
    path.write_bytes(path.read_bytes()[:-8])
    assert "the file ends within a case" in run([str(sanitized), str(path)], code=2)


@needs_aarch64_tools
def test_aarch64_kernels_are_right(cases: Path, tmp_path: Path) -> None:
    driver = compile_driver(tmp_path, CROSS_COMPILER, "-O2", "-Wall", "-Werror", link=("-static",))
    assert ", 0 failures" in run([EMULATOR, str(driver), str(cases)])


@needs_aarch64_tools
def test_the_whole_library_compiles_for_aarch64(tmp_path: Path) -> None:
    """Its bindings too, against the headers of the torch that is here: they are the same for every processor."""
    folders = [f"-I{folder}" for folder in (*include_paths(), sysconfig.get_paths()["include"])]
    defines = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030A0000", '-DMBV1_VERSION="0"']
    command = [CROSS_COMPILER, *FLAGS, *defines, *folders, "-fPIC", "-fsyntax-only", "-Wno-attributes"]
    for source in [ROOT / "csrc/ops.cpp", *sorted((ROOT / "csrc/cpu").glob("*.cpp"))]:
        if source not in [*KERNELS, *SHARED]:
            run([*command, str(source)])
