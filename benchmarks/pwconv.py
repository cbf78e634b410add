"""One pointwise layer at a time: 1x1 convolution + bias + ReLU, against every peer.

    python -m benchmarks.pwconv [--quick] [--batch N …] [--dtype …] [--layout …] [--filter TEXT] [--json FILE]

Layers come from ``benchmarks/shapes/``; ``roof`` and ``peak`` are as in :mod:`benchmarks.dwconv`.
"""

from __future__ import annotations

import sys

from .op_suite import OpSuite
from .peers import PWCONV

#: The largest and the smallest images of the net, the layer that it has five times, and an expansion.
SUITE = OpSuite(
    PWCONV,
    __doc__.splitlines()[0],
    quick=("mbv1 block 1", "mbv1 block 7", "mbv1 block 13", "mbv2 24-144x56", "convnext 384-1536x14"),
)
main = SUITE.main

if __name__ == "__main__":
    sys.exit(main())
