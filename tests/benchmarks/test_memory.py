import platform
import subprocess
import sys

import pytest

# Page faults of a tensor of 32 MB that is made again and again, once the allocator has settled.
FAULTS = """
import resource
import torch
from benchmarks.memory import keep_freed_memory

kept = keep_freed_memory()
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(32 << 20, dtype=torch.uint8).fill_(1)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_freed_memory_is_kept():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, faults = map(int, done.stdout.split())
    assert kept == (platform.libc_ver()[0] == "glibc")
    assert not kept or faults < 100, f"{faults} page faults"
