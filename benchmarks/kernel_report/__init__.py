"""What can be told about the CUDA kernels without a GPU: ``python -m benchmarks.kernel_report``.

Registers, spills, shared memory and machine code from the compiled kernels (``binaries.py``); memory traffic, counted
where tools/cudacpu runs them (``counting.py``); lower bounds on times, which the library's own cost model predicts
from them; the same for what users run today (``today.py``); and the limits that a kernel must keep (``limits.py``).
Nothing of it is a measured time.
"""
