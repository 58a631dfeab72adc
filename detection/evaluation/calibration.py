"""Whether a probability can be taken at its word: of what is given .8, does 8 in 10 come true?

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detection.data.annotations import Mask
from detection.evaluation.arrays import Floats
from detection.evaluation.comparison import Comparison

BINS = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """Probabilities in equally wide bins against what came true.

    Attributes:
        error: the expected calibration error: mean over all of |probability - share| of their bins; None without any.
        count: (B,) how many fall into each bin.
        probability, share: (B,) mean probability of a bin, and the share that came true; NaN in empty ones.
    """

    error: float | None
    count: npt.NDArray[np.int64]
    probability: Floats
    share: Floats


def calibration(probability: Floats, true: Mask, *, bins: int = BINS) -> Calibration:
    """Compare probabilities with what came true.

    Args:
        probability: (n,) in [0, 1].
        true: (n,) whether it came true.
        bins: how many, of equal width.

    Raises:
        ValueError: a probability is none, or the lengths differ.
    """
    if probability.shape != true.shape or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(f"calibration needs {len(true)} probabilities in [0, 1], one for each outcome")
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    sums = (np.bincount(which, weights=values, minlength=bins) for values in (probability, true.astype(np.float64)))
    mean, share = (np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums)
    error = float(np.abs(mean - share)[count > 0] @ count[count > 0] / len(true)) if len(true) else None
    return Calibration(error, count, mean, share)


def posterior_calibration(comparison: Comparison) -> Calibration | None:
    """Of the posterior of being unknown, on detected objects; None where detections carry no posterior.

    Each object counts once, with the best-scored detection on it (IoU >= .5, whatever its label), as for the AUROC of
    `separation`. What lies on no object is left out: the posterior chooses between known and unknown, and background is
    neither.
    """
    found, unknown = comparison.on_objects
    return None if found.posteriors is None else calibration(np.clip(found.posteriors, 0, 1), unknown)
