"""One depthwise layer at a time: convolution + bias + ReLU, against every peer.

    python -m benchmarks.dwconv [--quick] [--batch N …] [--dtype …] [--layout …] [--filter TEXT] [--json FILE]

Layers come from ``benchmarks/shapes/``. ``roof`` is the share of what the device's measured memory bandwidth
and multiply-add rate allow; small layers stay in caches and can pass 100%. ``peak`` is the share of the
multiply-add rate alone.
"""

from __future__ import annotations

import sys

from .op_suite import OpSuite
from .peers import DWCONV

#: A large and a small layer of the net, stride 2, and each of the harder kinds.
SUITE = OpSuite(
    DWCONV,
    __doc__.splitlines()[0],
    quick=(
        "mbv1 block 1",
        "mbv1 block 4",
        "mbv1 block 7",
        "mbv3l 960x7 k5s1",
        "convnext 384x14 k7s1",
        "dilated mbv1 os16",
    ),
)
main = SUITE.main

if __name__ == "__main__":
    sys.exit(main())
