"""How many classes a wilderness impact is of, wherever it is shown."""

import pytest

from apps.wilderness import impact, impact_lines


@pytest.fixture
def measured():
    """What `evaluate` returns: two of three known classes in the test images reach a recall of .8."""
    recalls = {"cat": 0.9, "dog": 0.8, "fox": 0.1, "cow": None, "unknown": 0.5}
    return {"mode": "strict", "wi": 0.0219, "wi_classes": 2, "recall_per_class": recalls}


def test_beside_the_number(measured):
    assert impact(measured, ".4f") == "0.0219 (2 of 3 classes)"
    assert impact({**measured, "wi": None, "wi_classes": 0}, ".4f") == "–"
    assert impact({**measured, "mode": "ore", "wi_classes": 3}, ".4f") == "0.0219"


def test_beneath_a_table_only_where_classes_are_missing(measured):
    done = [
        {"task": 1, "strict": {**measured, "wi_classes": 3}},
        {"task": 2, "strict": {**measured, "wi": None, "wi_classes": 0}},
        {"task": 3, "strict": measured},
    ]
    assert impact_lines(done) == [
        "WI after task 3: only 2 of 3 known classes reach the recall of .8 that it is taken at."
    ]
