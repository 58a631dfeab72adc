"""What is kept of earlier tasks."""

import pytest

from detection.evaluation import forgetting
from sslcore.errors import ConfigError


def result(task, **aps):
    settings = {"mode": "strict", "score_floor": None, "per_image": 100}
    return {"task": task, **settings, "ap_per_class": {"a": None, "b": None, **aps}}


def test_best_ever_less_now(tasks):
    after = [result(1, a=0.6, b=0.4), result(2, a=0.7, b=0.5, c=0.5), result(3, a=0.2, b=0.4, c=0.6, d=0.9)]
    kept = forgetting(after, tasks)
    assert kept["map_by_task"] == [
        [pytest.approx(0.5)],
        [pytest.approx(0.6), 0.5],
        [pytest.approx(0.3), 0.6, 0.9],
    ]
    # task 1: gained .1, then lost .3 of the .6 it had come to; task 2 gained .1
    assert kept["forgetting"] == [[], [pytest.approx(-0.1)], [pytest.approx(0.3), pytest.approx(-0.1)]]
    assert kept["forgetting_mean"] == pytest.approx(0.1)


def test_undefined_stays_undefined(tasks):
    kept = forgetting([result(1, a=0.6), result(2, c=0.5)], tasks)
    assert kept["map_by_task"] == [[0.6], [None, 0.5]]
    assert kept["forgetting"] == [[], [None]]
    assert kept["forgetting_mean"] is None
    assert forgetting([], tasks) == {"map_by_task": [], "forgetting": [], "forgetting_mean": None}
    assert forgetting([result(1, a=0.6)], tasks)["forgetting_mean"] is None


def test_results_that_do_not_belong_together(tasks):
    with pytest.raises(ConfigError, match="in order, not after 2"):
        forgetting([result(2)], tasks)
    with pytest.raises(ConfigError, match="same per_image"):
        forgetting([result(1), result(2) | {"per_image": 50}], tasks)
