"""The shape of MobileNetV1 (arXiv:1704.04861, table 1): its blocks, channel counts and padding rules."""

from __future__ import annotations

from collections.abc import Sequence

#: Output channels of the first convolution at width 1; its stride is 2.
STEM = 32

#: (output channels at width 1, stride) of the 13 depthwise separable blocks.
BLOCKS: tuple[tuple[int, int], ...] = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)

#: The paper's shallow variant (its table 5): without the five 14x14x512 blocks.
SHALLOW_BLOCKS: tuple[tuple[int, int], ...] = BLOCKS[:6] + BLOCKS[11:]

#: The padding rules of 3x3 convolutions; see :func:`pads`.
PADDINGS: tuple[str, ...] = ("symmetric", "same", "keras")


def blocks(shallow: bool) -> tuple[tuple[int, int], ...]:
    """(output channels at width 1, stride) of each block after the stem."""
    return SHALLOW_BLOCKS if shallow else BLOCKS


def scaled(channels: int, width_mult: float, min_depth: int) -> int:
    """``channels`` at a width multiplier: ``max(int(channels * width_mult), min_depth)``.

    The paper truncates; TF-slim's lower bound of 8 channels first matters below a width of 0.25.
    """
    return max(int(channels * width_mult), min_depth)


def width_from(channels: int, base: int, min_depth: int) -> float:
    """The width multiplier that turns ``base`` (the widest layer) into ``channels``, with few decimals.

    ``channels / base`` gives every layer's count exactly, as each base count divides ``base`` and truncation
    nests. A rounder number is returned where it gives the same counts.
    """
    exact = channels / base
    counts = sorted({STEM, *(c for c, _ in BLOCKS)})
    for digits in (2, 3, 4):
        width = round(exact, digits)
        if all(scaled(c, width, min_depth) == scaled(c, exact, min_depth) for c in counts):
            return width
    return exact


def pads(rule: str, kernel: int, stride: int, size: Sequence[int], *, dense: bool) -> list[int]:
    """Padding [top, bottom, left, right] of a convolution over ``size`` = (H, W).

    - ``"symmetric"``: ``kernel // 2`` on every side, as the published PyTorch code and timm.
    - ``"same"``: TensorFlow's SAME. The output has ``ceil(size / stride)`` pixels and an odd pixel of padding
      goes to the bottom and the right, so that stride 2 pads an even size by (0, 1) and an odd one by (1, 1).
    - ``"keras"``: as keras.applications, which pads depthwise convolutions of stride 2 by (0, 1) whatever the
      size and uses SAME elsewhere: the same as ``"same"`` while every strided layer sees an even size.
    """
    if rule == "symmetric" or stride == 1:
        return [kernel // 2] * 4
    if rule == "keras" and not dense:
        return [0, 1, 0, 1]
    sides = []
    for length in size:
        total = ((length + stride - 1) // stride - 1) * stride + kernel - length
        sides += [total // 2, total - total // 2]
    return sides
