"""The ops, one file each: the public wrapper, and right under it checks, fake, gradient and registration."""

from .dwconv2d import dwconv2d
from .pool_linear import pool_linear
from .pwconv2d import pwconv2d
from .separable_conv2d import separable_conv2d
from .stem_conv2d import stem_conv2d

__all__ = ["dwconv2d", "pool_linear", "pwconv2d", "separable_conv2d", "stem_conv2d"]
