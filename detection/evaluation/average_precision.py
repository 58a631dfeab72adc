"""Average precision from a curve, and means over classes that may be undefined."""

import math
from collections.abc import Iterable

import numpy as np

from detection.evaluation.arrays import Floats

TENTHS = np.arange(11) / 10


def area(recall: Floats, precision: Floats) -> float:
    """Area under the curve with precision made falling, as VOC has it since 2010. NaN where recall is."""
    if not len(recall):
        return 0.0
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))


def eleven_point(recall: Floats, precision: Floats, levels: Floats = TENTHS) -> float:
    """Mean of the highest precision at a recall of at least 0, .1 .. 1, as VOC had it until 2009."""
    reached = [precision[recall >= level] for level in levels]
    return float(sum(float(found.max()) / len(levels) for found in reached if len(found)))


def mean(values: Iterable[float | None]) -> float | None:
    """Over those that are defined; None if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def harmonic(first: float | None, second: float | None) -> float | None:
    """Harmonic mean of two fractions; None if one is undefined."""
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def defined(value: float) -> float | None:
    """A plain number, or None for NaN."""
    return None if math.isnan(value) else float(value)
