import pytest
import torch

from sslcore.errors import SurniaError
from sslcore.training.finite import all_finite, check_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_weight_is_enough(value):
    weights = [torch.ones(3), torch.ones(2, 2), torch.tensor(7)]  # a counter is no weight
    assert all_finite(weights)
    weights[1][0, 1] = value
    assert not all_finite(weights)


def test_the_first_that_is_not_finite_is_named_with_what_to_do():
    check_finite({"a": 1.0}, "at step 3", remedy="lower it")
    said = r"^b is nan at step 3: lower it \(what is not finite is never saved as a checkpoint\)$"
    with pytest.raises(SurniaError, match=said):
        check_finite({"a": 1.0, "b": float("nan"), "c": float("inf")}, "at step 3", remedy="lower it")
