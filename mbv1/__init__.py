"""MobileNetV1 on fused depthwise separable convolutions, its checkpoints, and ``python -m mbv1``."""

from mbv1_kernels import __version__

from .checkpoints import CheckpointError
from .folding import fold_conv_bn
from .frozen import Frozen, frozen
from .graphed import Graphed, graphed
from .model import MobileNetV1
from .summary import Summary, summarize

__all__ = [
    "CheckpointError",
    "Frozen",
    "Graphed",
    "MobileNetV1",
    "Summary",
    "__version__",
    "fold_conv_bn",
    "frozen",
    "graphed",
    "summarize",
]
