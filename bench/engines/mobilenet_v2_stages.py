"""The sizes of MobileNetV2 (arXiv 1801.04381, table 2), for what makes the net and who runs it."""

# Expansion, output channels, repeats, first stride.
STAGES = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


def channels(count, width):
    """So many times `width`, to the nearest multiple of 8 that is not a tenth less."""
    rounded = max(8, int(count * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * width else rounded
