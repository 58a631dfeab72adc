import pytest
import torch
from support.processes import in_processes
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.ops import box_iou

from detection.openworld.boxes import box_loss, clipped, common_area, decode, encode, highest_iou, iou, share_within
from detection.openworld.region_predictor import MASKED, RegionPredictor
from detection.structures import BACKGROUND, UNKNOWN


def boxes(n):
    corner = torch.rand(n, 2) * 50
    return torch.cat([corner, corner + 5 + torch.rand(n, 2) * 40], dim=1)


def test_areas_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 5]])  # the second has no area
    b = torch.tensor([[5.0, 0, 50, 50], [0, 0, 1, 1], [5, 5, 5, 5]])
    assert common_area(a, b).tolist() == [[50, 1, 0], [0, 0, 0]]
    assert share_within(a, b).tolist() == [[0.5, pytest.approx(0.01), 0], [0, 0, 0]]
    assert iou(a, b).tolist() == [[pytest.approx(50 / 2300), pytest.approx(0.01), 0], [0, 0, 0]]


def test_overlaps_are_torchvisions(monkeypatch):
    monkeypatch.setattr("detection.openworld.boxes.CHUNK", 7)
    a, b = boxes(30), boxes(40)
    torch.testing.assert_close(iou(a, b), box_iou(a, b))
    torch.testing.assert_close(highest_iou(a, b), box_iou(a, b).amax(dim=1))
    assert highest_iou(a, b[:0]).tolist() == [0.0] * 30
    assert highest_iou(a[:0], b).shape == (0,)


def test_decoding_undoes_encoding_for_every_column():
    proposals, a, b = boxes(20), boxes(20), boxes(20)
    deltas = torch.stack([encode(a, proposals), encode(b, proposals)], dim=1)
    torch.testing.assert_close(decode(deltas, proposals), torch.stack([a, b], dim=1), atol=1e-3, rtol=0)
    assert decode(torch.zeros(0, 2, 4), torch.zeros(0, 4)).shape == (0, 2, 4)


def test_deltas_by_hand():
    # Centre from 10 to 12 of a width of 20; twice as wide: 10 * 2 / 20 and 5 * ln 2.
    found = encode(torch.tensor([[-8.0, 0, 32, 10]]), torch.tensor([[0.0, 0, 20, 10]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 5 * 0.693147, 0]]))


def test_boxes_are_clipped_to_the_image():
    assert clipped(torch.tensor([[-5.0, -5, 30, 40]]), height=20, width=25).tolist() == [[0, 0, 25, 20]]


def loss_by_rows(deltas, proposals, matched, labels, regress):
    total, count = 0.0, 0
    for i, label in enumerate(labels.tolist()):
        count += label >= 0
        if regress[i]:
            aim = encode(matched[i : i + 1], proposals[i : i + 1])[0]
            columns = [0] if deltas.shape[1] == 1 or label < 2 else [0, label - 1]
            total += sum(smooth_l1_loss(deltas[i, c], aim, beta=1 / 9, reduction="sum") for c in columns)
    return total / count


@pytest.mark.parametrize("columns", [1, 4])
def test_box_loss_equals_loops(columns):
    labels = torch.tensor([2, 4, UNKNOWN, UNKNOWN, BACKGROUND, -1, 3])
    regress = torch.tensor([True, True, True, False, False, False, True])  # an oracle's unknown, a pseudo-unknown
    deltas, proposals, matched = torch.randn(7, columns, 4), boxes(7), boxes(7)
    found = box_loss(deltas, proposals, matched, labels, regress)
    torch.testing.assert_close(found, loss_by_rows(deltas, proposals, matched, labels, regress))


def test_rows_without_a_box_give_no_gradient_even_without_area():
    deltas = torch.randn(3, 4, 4, requires_grad=True)
    proposals = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 9]])
    labels, regress = torch.tensor([2, BACKGROUND, UNKNOWN]), torch.tensor([True, False, False])
    box_loss(deltas, proposals, proposals, labels, regress).backward()
    assert deltas.grad.isfinite().all()
    assert (deltas.grad.abs().sum(dim=2) > 0).tolist() == [[True, True, False, False], [False] * 4, [False] * 4]


def test_the_box_loss_of_two_processes_is_that_of_one(tmp_path):
    deltas, proposals, matched = torch.randn(8, 4, 4), boxes(8), boxes(8)
    labels = torch.tensor([2, 3, 4, BACKGROUND, BACKGROUND, -1, -1, 2])
    regress = labels > 0

    def loss(rank):
        mine = slice(rank * 4, rank * 4 + 4)
        return box_loss(*(x[mine] for x in (deltas, proposals, matched, labels, regress)))

    both = in_processes(loss, tmp_path)
    torch.testing.assert_close((both[0] + both[1]) / 2, box_loss(deltas, proposals, matched, labels, regress))


@pytest.mark.parametrize("per_class", [False, True])
def test_growing_keeps_old_weights_and_equals_starting_large(per_class):
    predictor = RegionPredictor(16, 3, per_class_boxes=per_class, seed=5)
    x = torch.randn(4, 16)
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    logits, deltas = predictor(x)
    predictor.grow(2)
    more, more_deltas = predictor(x)
    assert more.shape == (4, 7)
    assert more_deltas.shape == (4, 6 if per_class else 1, 4)
    torch.testing.assert_close(more[:, :5], logits)
    torch.testing.assert_close(more_deltas[:, : deltas.shape[1]], deltas)
    large = RegionPredictor(16, 5, per_class_boxes=per_class, seed=5).state_dict()
    for name, value in predictor.state_dict().items():
        assert torch.equal(value[: len(before[name])], before[name])
        assert torch.equal(value, large[name])
    assert not torch.equal(RegionPredictor(16, 3, seed=6).classify.weight, before["classify.weight"])


@pytest.mark.parametrize("per_class", [False, True])
def test_fixed_outputs_are_masked_until_their_classes_come(per_class):
    fixed = RegionPredictor(16, 3, classes=5, per_class_boxes=per_class, seed=5)
    growing = RegionPredictor(16, 3, per_class_boxes=per_class, seed=5)
    x = torch.randn(4, 16)
    logits, deltas = fixed(x)
    assert logits.shape == (4, 7) and deltas.shape == (4, 6 if per_class else 1, 4)
    torch.testing.assert_close(logits[:, :5], growing(x)[0])
    assert (logits[:, 5:] == MASKED).all() and (logits.softmax(dim=1)[:, 5:] == 0).all()
    before, layers = (
        {name: value.clone() for name, value in fixed.state_dict().items()},
        (fixed.classify, fixed.regress),
    )
    fixed.grow(1)
    assert fixed.known == 4 and (fixed(x)[0][:, 6] == MASKED).all() and (fixed(x)[0][:, 5].abs() < 1).all()
    fixed.grow(1)
    growing.grow(2)
    assert (fixed.classify, fixed.regress) == layers  # an optimiser's parameters stay what they are
    assert all(torch.equal(value, before[name]) for name, value in fixed.state_dict().items())
    torch.testing.assert_close(fixed(x)[0], growing(x)[0])
    fixed.grow(1)  # a class that the task set did not have
    assert fixed(x)[0].shape == (4, 8) and torch.equal(fixed.classify.weight[:7], before["classify.weight"])
    again = RegionPredictor(16, 3, classes=5, per_class_boxes=per_class, seed=6)
    again.load_state_dict(before)
    assert torch.equal(again(x)[0], logits)


def test_a_loss_moves_no_weight_of_a_masked_output():
    predictor = RegionPredictor(16, 3, classes=5, per_class_boxes=True, seed=5)
    labels = torch.tensor([0, UNKNOWN, 2, 3, 4])
    logits, deltas = predictor(torch.randn(5, 16))
    loss = cross_entropy(logits, labels) + box_loss(deltas, boxes(5), boxes(5), labels, labels > UNKNOWN)
    loss.backward()
    assert (predictor.classify.weight.grad[:5].abs().sum(dim=1) > 0).all()
    assert (predictor.regress.weight.grad[:16].abs().sum(dim=1) > 0).all()
    for row, layer in ((5, predictor.classify), (16, predictor.regress)):
        assert not layer.weight.grad[row:].any() and not layer.bias.grad[row:].any()


def test_initial_spread_is_that_of_fast_rcnn():
    predictor = RegionPredictor(2000, 30, per_class_boxes=True)
    assert predictor.classify.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert predictor.regress.weight.std().item() == pytest.approx(0.001, rel=0.02)
    with pytest.raises(ValueError, match="at least one known class"):
        RegionPredictor(16, 0)
