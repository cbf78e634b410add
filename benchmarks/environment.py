"""What a measurement depends on besides the code: device, versions, commit, threads. Also a command:
``python -m benchmarks.environment`` prints it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent

#: Variables that change what is measured, by prefix.
_VARIABLES = ("OMP_", "MKL_", "KMP_", "GOMP_", "CUDA_", "TORCH", "TRITON_", "ONEDNN_", "MBV1_", "LD_PRELOAD")

#: The extras "peers" and "peers-cuda": what the other libraries are called as packages.
_PEERS = ("onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "MNN", "ai-edge-litert", "executorch")
_PEERS_CUDA = ("nvidia-cudnn-frontend", "tensorrt")

_CACHE_SIZES = "/sys/devices/system/cpu/cpu0/cache"


def pick_device(name: str | None = None) -> torch.device:
    """``name``, or else the first GPU, or else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def default_threads() -> int:
    """All the cores that torch would use, unless this process is pinned to fewer."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(torch.get_num_threads(), allowed)


def allows_tf32(device: torch.device) -> bool:
    """Whether float32 convolutions may round their factors to TF32 there."""
    cudnn = torch.backends.cudnn
    return device.type == "cuda" and cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def load_average() -> float | None:
    """How many processes wanted a core in the last minute; None where the system doesn't count them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def environment(device: torch.device) -> dict[str, object]:
    """Everything that a row of results should carry, JSON-ready. Nothing in it can fail: what can't be found
    is None."""
    found: dict[str, object] = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": device_name(device),
        "device_type": device.type,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "peers": {name: version for name in (*_PEERS, *_PEERS_CUDA) if (version := _version(name))},
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _version("triton"),
        "mbv1_kernels": _package_version(),
        "load_average": load_average(),
        "cudnn": None,
        "variables": {
            # Settings, not places: a path of this machine tells a reader nothing.
            k: Path(v).name if k == "LD_PRELOAD" else v
            for k, v in sorted(os.environ.items())
            if k.startswith(_VARIABLES) and not k.endswith(("_DIR", "_PATH", "_HOME"))
        },
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found.update(
            cudnn=torch.backends.cudnn.version(),
            driver=_ask_driver("driver_version"),
            gpu_now=_ask_driver("clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,power.limit"),
            capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            memory_bytes=properties.total_memory,
            tf32_convolutions=allows_tf32(device),
        )
    else:
        found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def last_level_cache(device: torch.device) -> int | None:
    """Bytes of the last cache before memory: a GPU's L2, a CPU's L3 (as one core sees it)."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = {}
    for index in Path(_CACHE_SIZES).glob("index*"):
        try:
            size = (index / "size").read_text().strip()
            sizes[int((index / "level").read_text())] = (
                int(size.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}[size[-1]]
            )
        except (OSError, ValueError, KeyError):
            continue
    return sizes[max(sizes)] if sizes else None


def _ask_driver(fields: str) -> str | None:
    return _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")


def _commit() -> str | None:
    commit = _output("git", "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("-dirty" if _output("git", "status", "--porcelain", "--untracked-files=no") else "")


def commit_time(commit: str | None) -> str | None:
    """When ``commit`` was made, in ISO 8601; None for one that this checkout doesn't know, or with changes on top."""
    if commit is None or commit.endswith("-dirty"):
        return None
    return _output("git", "show", "--no-patch", "--format=%cI", "--end-of-options", commit)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package_version() -> str | None:
    """The version of the package that gets imported, installed or not."""
    try:
        import mbv1_kernels
    except ImportError:
        return None
    return mbv1_kernels.__version__


def _output(*command: str) -> str | None:
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


if __name__ == "__main__":
    print(json.dumps(environment(pick_device()), indent=2))
