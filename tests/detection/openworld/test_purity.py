import pytest
import torch

from detection.openworld.purity import Purity, purity
from detection.openworld.sampling import RegionSample
from detection.structures import BACKGROUND, UNKNOWN

UNKNOWN_KIND, OLD, CURRENT, DISTRACTOR = range(4)


def squares(*corners):
    return torch.tensor([[x, 0.0, x + 10, 10] for x in corners]).view(-1, 4)


def sample_of(pseudo, background, random):
    boxes = torch.cat([pseudo, background])
    chosen = torch.arange(len(boxes)) < len(pseudo)
    labels = torch.where(chosen, UNKNOWN, BACKGROUND)
    return RegionSample(boxes, labels, boxes, torch.zeros_like(chosen), chosen, torch.arange(len(boxes)), random)


def test_counts_what_regions_lie_on():
    truth, kinds = squares(0, 100, 200, 300), torch.tensor([UNKNOWN_KIND, OLD, CURRENT, DISTRACTOR])
    # IoUs 7/13, 3/7, 1, 1, 1.
    drawn = sample_of(squares(3, 104, 200, 300, 100), squares(0, 100), squares(0, 500, 300, 2, 600))
    found = purity(drawn, truth, kinds)
    assert found.chosen == (1, 1, 1, 1, 1)
    assert found.random == (2, 0, 0, 1, 2)
    values = found.to_dict()
    assert values["chosen"] == {"unknown": 1, "old": 1, "current": 1, "distractor": 1, "background": 1}
    assert values["random_share"]["unknown"] == pytest.approx(0.4)
    assert values["times_random"] == pytest.approx(0.5)


def test_a_region_lies_on_the_box_it_overlaps_best():
    drawn = sample_of(squares(2), squares(), squares(2))
    assert purity(drawn, squares(0, 2), torch.tensor([OLD, UNKNOWN_KIND])).chosen == (1, 0, 0, 0, 0)


def test_as_many_random_regions_as_were_chosen():
    nothing = torch.zeros(1, 4)
    drawn = sample_of(squares(0), squares(), torch.cat([squares(500), nothing]))
    assert purity(drawn, squares(0), torch.tensor([UNKNOWN_KIND])).random == (0, 0, 0, 0, 1)
    drawn = sample_of(squares(0), squares(), squares(0, 0))
    assert purity(drawn, squares(0), torch.tensor([UNKNOWN_KIND])).random == (1, 0, 0, 0, 0)


def test_counts_add_up_and_nothing_divides_by_zero():
    one = Purity((1, 0, 0, 0, 3), (0, 0, 0, 0, 4))
    assert (one + one).chosen == (2, 0, 0, 0, 6)
    assert one.to_dict()["times_random"] is None
    assert Purity().to_dict()["chosen_share"]["unknown"] is None
    empty = purity(sample_of(squares(), squares(5), squares()), squares(), torch.zeros(0, dtype=torch.int64))
    assert empty == Purity()
    with pytest.raises(ValueError, match=r"kinds must be one per box, \(1,\)"):
        purity(sample_of(squares(), squares(5), squares()), squares(0), torch.zeros(2, dtype=torch.int64))
