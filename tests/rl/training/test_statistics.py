import itertools

import numpy as np
import pytest
from scipy import stats

from rl.training.statistics import (
    difference,
    interquartile_mean,
    iqm,
    probability_of_improvement,
)
from sslcore.errors import DataError


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end():
    assert iqm(np.array([0.0, 4, 1, 100])) == 2.5
    assert iqm(np.array([5.0, 1, 2, 3, 1000])) == pytest.approx((2 + 3 + 5) / 3)  # a quarter of 5 is 1, rounded down
    assert iqm(np.array([[0.0, 4, 1, 100], [1, 1, 3, 9]])).tolist() == [2.5, 2.0]


def test_tasks_are_pooled_for_the_value_and_apart_for_the_draws():
    scores = {"a": [1.0, 2.0], "b": [100.0, 101.0, 102.0]}
    found = interquartile_mean(scores)
    assert found.value == pytest.approx(np.mean([2, 100, 101])) and found.runs == 5
    # Were runs drawn from the pool, there would be draws of task b alone, above 100.
    assert interquartile_mean(scores, level=1.0).high < 102 * 2 / 3 + 2


def test_the_interval_is_that_of_all_possible_draws():
    scores = [3.0, 7.0, 8.0, 20.0]
    every = np.array([iqm(np.array(drawn)) for drawn in itertools.product(scores, repeat=4)])
    found = interquartile_mean(scores, resamples=200_000)
    # Of 256 equally likely draws the ends are quantiles; between two values sampling may fall on either side.
    assert np.quantile(every, 0.02) <= found.low <= np.quantile(every, 0.03)
    assert np.quantile(every, 0.97) <= found.high <= np.quantile(every, 0.98)
    assert found == interquartile_mean(scores, resamples=200_000)


def test_one_run_gives_a_point():
    found = interquartile_mean([5.0])
    assert (found.value, found.low, found.high) == (5, 5, 5)


def test_a_difference_is_claimed_if_the_interval_excludes_zero():
    draw = np.random.default_rng(0)
    a, b = draw.normal(10, 1, 5), draw.normal(0, 1, 7)
    found = difference(a, b)
    assert found.value == pytest.approx(float(iqm(a) - iqm(b))) and found.excludes_zero and found.low > 5
    assert not difference(a, a + 0.1).excludes_zero
    assert difference(b, a).high < 0 and difference(b, a).excludes_zero


def test_probability_of_improvement_is_mann_and_whitneys():
    x, y = [1.0, 5, 5, 9], [5.0, 2, 0]
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y).value == pytest.approx(u / 12)
    both = probability_of_improvement({"a": x, "b": [1.0]}, {"b": [2.0], "a": y})
    assert both.value == pytest.approx((u / 12 + 0) / 2)
    surely = probability_of_improvement([3.0, 4.0], [1.0, 2.0])
    assert (surely.value, surely.low, surely.high) == (1, 1, 1)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [([], "every task needs"), ({}, "every task needs"), ({"a": [1.0], "b": [np.nan]}, "a score of b is not finite")],
)
def test_scores_that_say_nothing(scores, sentence):
    with pytest.raises(DataError, match=sentence):
        interquartile_mean(scores)
    with pytest.raises(DataError, match="only one of the two has scores of b"):
        probability_of_improvement({"a": [1.0]}, {"a": [1.0], "b": [2.0]})
