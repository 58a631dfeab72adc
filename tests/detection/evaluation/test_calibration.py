import numpy as np
import pytest

from detection.evaluation.calibration import calibration, posterior_calibration
from detection.evaluation.comparison import Comparison, Found, Truths


def test_the_error_by_hand():
    # Bins of a half: {.2, .4} of which one is true, {.6, .8, 1} of which two are.
    found = calibration(np.array([0.2, 0.4, 0.6, 0.8, 1.0]), np.array([False, True, True, False, True]), bins=2)
    assert found.count.tolist() == [2, 3]
    assert found.probability == pytest.approx([0.3, 0.8])
    assert found.share == pytest.approx([0.5, 2 / 3])
    assert found.error == pytest.approx(2 / 5 * 0.2 + 3 / 5 * (0.8 - 2 / 3))


def test_empty_bins_and_nothing_at_all():
    found = calibration(np.array([0.05]), np.array([False]))
    assert found.error == pytest.approx(0.05)
    assert np.isnan(found.share[1:]).all()
    assert calibration(np.zeros(0), np.zeros(0, dtype=bool)).error is None


@pytest.mark.parametrize("bad", [[1.2], [-0.1], [np.nan], [0.5, 0.5]])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match="probabilities"):
        calibration(np.array(bad), np.array([True]))


def compared(posteriors):
    """Two objects, known and unknown; the first is found twice, and one detection lies on nothing."""
    boxes = np.array([[0.0, 0, 10, 10], [20.0, 20, 30, 30]])
    truths = Truths(np.zeros(2, np.int64), boxes, np.array([0, 2]), np.zeros(2, bool), np.zeros(2, bool))
    found = Found(
        np.zeros(4, np.int64), boxes[[0, 0, 1, 1]] + np.array([[0], [0], [0], [50]]), np.array([0, 2, 2, 2]),
        np.array([0.9, 0.8, 0.7, 0.6]), None, posteriors,
    )  # fmt: skip
    return Comparison(
        ("a", "b"), 0, 1, 1, np.zeros(1, np.int64), truths, found, np.zeros(0, np.int64), np.zeros((0, 4))
    )


def test_each_object_counts_once_and_background_not():
    found = posterior_calibration(compared(np.array([0.15, 0.95, 0.75, 0.99])))
    assert found.count.sum() == 2
    assert found.error == pytest.approx((0.15 + 0.25) / 2)
    assert posterior_calibration(compared(None)) is None
