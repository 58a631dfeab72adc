import pytest
import torch

from detection.openworld.purity import CURRENT, DISTRACTOR, OLD, UNKNOWN_KIND, purity, purity_counts
from detection.openworld.sampling import RegionSample
from detection.structures import BACKGROUND, UNKNOWN


def squares(*corners):
    return torch.tensor([[x, 0.0, x + 10, 10] for x in corners]).view(-1, 4)


def sample_of(pseudo, background, random):
    boxes = torch.cat([pseudo, background])
    rows = torch.arange(len(boxes))
    chosen = rows < len(pseudo)
    labels = torch.where(chosen, UNKNOWN, BACKGROUND)
    return RegionSample(boxes, labels, boxes, torch.zeros_like(chosen), chosen, rows, lambda: random)


def counts_of(drawn, truth, kinds):
    return purity_counts([drawn], truth[None], kinds[None])


def test_counts_what_regions_lie_on():
    truth, kinds = squares(0, 100, 200, 300), torch.tensor([UNKNOWN_KIND, OLD, CURRENT, DISTRACTOR])
    # IoUs 7/13, 3/7, 1, 1, 1.
    drawn = sample_of(squares(3, 104, 200, 300, 100), squares(0, 100), squares(0, 500, 300, 2, 600))
    counts = counts_of(drawn, truth, kinds)
    assert counts.tolist() == [[1, 1, 1, 1, 1], [2, 0, 0, 1, 2]]
    values = purity(counts)
    assert values["chosen"] == {
        "count": 5, "unknown": 0.2, "old": 0.2, "current": 0.2, "distractor": 0.2, "background": 0.2,
    }  # fmt: skip
    assert values["random"]["unknown"] == pytest.approx(0.4)
    assert values["times_random"] == pytest.approx(0.5)


def test_a_region_lies_on_the_box_it_overlaps_best_if_by_half():
    drawn = sample_of(squares(2), squares(), squares(2))
    assert counts_of(drawn, squares(0, 2), torch.tensor([OLD, UNKNOWN_KIND]))[0].tolist() == [1, 0, 0, 0, 0]
    half, less = torch.tensor([[0.0, 0, 10, 5]]), torch.tensor([[0.0, 0, 10, 4.9]])
    drawn = sample_of(torch.cat([half, less]), squares(), squares())
    assert counts_of(drawn, squares(0), torch.tensor([DISTRACTOR]))[0].tolist() == [0, 0, 0, 1, 1]


def test_as_many_random_regions_as_were_chosen():
    nothing, unknown = torch.zeros(1, 4), torch.tensor([UNKNOWN_KIND])
    drawn = sample_of(squares(0), squares(), torch.cat([squares(500), nothing]))
    assert counts_of(drawn, squares(0), unknown)[1].tolist() == [0, 0, 0, 0, 1]
    drawn = sample_of(squares(0), squares(), squares(0, 0))
    assert counts_of(drawn, squares(0), unknown)[1].tolist() == [1, 0, 0, 0, 0]
    drawn = sample_of(squares(0, 500), squares(), torch.cat([squares(500), nothing]))
    assert counts_of(drawn, squares(0), unknown)[1].tolist() == [0, 0, 0, 0, 1]


def test_nothing_divides_by_zero():
    assert purity(torch.tensor([[1, 0, 0, 0, 3], [0, 0, 0, 0, 4]]))["times_random"] is None
    none = torch.zeros(0, dtype=torch.int64)
    empty = counts_of(sample_of(squares(), squares(5), squares()), squares(), none)
    assert empty.tolist() == [[0] * 5, [0] * 5]
    assert purity(empty)["chosen"]["unknown"] is None and purity(empty)["chosen"]["count"] == 0
    drawn = sample_of(squares(5), squares(), squares(5))
    assert counts_of(drawn, squares(), none).tolist() == [[0, 0, 0, 0, 1]] * 2
    with pytest.raises(ValueError, match=r"kinds must be one per box, \(1, 1\)"):
        counts_of(drawn, squares(0), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="boxes must be one row per image, 2"):
        purity_counts([drawn] * 2, squares(0)[None], torch.zeros(1, 1, dtype=torch.int64))
