import torch

from sslcore.augment.select import _change_all_, change_some_


def test_both_forms_change_the_chosen_and_nothing_else():
    """The second is for devices that must not be waited for."""
    images, chosen, factors = torch.rand(5, 3, 4, 4), torch.tensor([True, False, True, False, False]), torch.arange(5.0)
    expected = images.clone()
    expected[0] *= 0
    expected[2] *= 2

    def change(some, rows):
        return some * factors[rows][:, None, None, None]

    for form in (change_some_, _change_all_):
        changed = images.clone()
        assert form(changed, chosen, change) is changed
        assert torch.equal(changed, expected)


def test_none_chosen_calls_nothing():
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(change_some_(images.clone(), torch.zeros(2, dtype=torch.bool), lambda some, _: 1 / 0), images)
