"""One depthwise-separable block at a time: both convolutions with bias + ReLU, against every peer.

    python -m benchmarks.separable [--quick] [--batch N …] [--dtype …] [--layout …] [--filter TEXT] [--json FILE]

Layers come from ``benchmarks/shapes/``; ``roof`` and ``peak`` are as in :mod:`benchmarks.dwconv`, for one kernel
between whose halves nothing goes through memory.
"""

from __future__ import annotations

import sys

from .op_suite import OpSuite
from .peers import SEPARABLE

#: The first block, stride 2, the block that the net has five times, the last one, and an inverted residual's end.
SUITE = OpSuite(
    SEPARABLE,
    __doc__.splitlines()[0],
    quick=("mbv1 block 1", "mbv1 block 4", "mbv1 block 7", "mbv1 block 13", "mbv2 96-24x112 k3s2"),
)
main = SUITE.main

if __name__ == "__main__":
    sys.exit(main())
