"""Fused depthwise-separable convolution for PyTorch, on CUDA, Triton and the CPU.

The ops are also ``torch.ops.mbv1.*``; importing this package registers them.
"""

from . import _extension  # noqa: F401  (first: it defines the ops that the others attach to)
from ._version import __version__
from .backends import BACKENDS, Candidate, Explanation, explain
from .chain import Chain, Plan, Window
from .ops import dwconv2d, pool_linear, pwconv2d, separable_conv2d, stem_conv2d
from .reference import ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Candidate",
    "Chain",
    "Explanation",
    "Plan",
    "Window",
    "__version__",
    "dwconv2d",
    "explain",
    "pool_linear",
    "pwconv2d",
    "separable_conv2d",
    "stem_conv2d",
]
