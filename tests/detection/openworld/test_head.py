from dataclasses import replace

import pytest
import torch
from support.processes import in_processes
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from detection.openworld.boxes import box_loss, decode
from detection.openworld.head import OpenWorldHead
from detection.openworld.region_predictor import MASKED, RegionPredictor
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.structures import BACKGROUND, FIRST_KNOWN, UNKNOWN, Detections, Regions, Target
from sslcore.errors import CheckpointError
from sslcore.storage import load_checkpoint, save_checkpoint

NAMES = ("cat", "dog", "cow")
DIM = 6


def made(names=NAMES, *, unknowns=None, clustering=None, decision=None, regions=16, seed=0, classes=None):
    return OpenWorldHead(
        names,
        DIM,
        unknowns=UnknownSettings(**{"start": 0.3, "min_side": 0, **(unknowns or {})}),
        clustering=ClusteringSettings(**{"start": 0.0, "refresh": 2, **(clustering or {})}),
        decision=DecisionSettings(**(decision or {})),
        regions=regions,
        positive=0.25,
        seed=seed,
        classes=classes,
    )


def boxes(n, generator=None, size=200.0):
    corner = torch.rand(n, 2, generator=generator) * size
    return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 40], dim=1)


def image(key, proposals=60):
    """Proposals, objectness and target of an image: a function of its key."""
    generator = torch.Generator().manual_seed(key)
    aim = Target(boxes(3, generator), torch.tensor([2, 3, 4]), torch.tensor([False, False, key % 2 == 0]), key)
    return boxes(proposals, generator), torch.randn(proposals, generator=generator), aim


def labelled(head, *images, step=4, progress=0.5, **more):
    return head.label(*(list(part) for part in zip(*images, strict=True)), step=step, progress=progress, **more)


def regions(n, head, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    proposals, features = boxes(n, generator), torch.randn(n, DIM, generator=generator)
    logits = torch.randn(n, head.outputs, generator=generator) * spread
    deltas = torch.randn(n, 1 + len(head.known), 4, generator=generator)
    return Regions(proposals, torch.randn(n, generator=generator), decode(deltas, proposals), logits, features)


def fit(head):
    return head.scorer.fit(torch.randn(300) - 5, torch.randn(200) - 1, source="a test")


def same(a, b):
    for name, value in vars(a).items():
        other = vars(b)[name]
        assert torch.equal(value(), other()) if callable(value) else torch.equal(value, other), name


# --- training -------------------------------------------------------------------------------------------------------


def test_an_images_sample_does_not_depend_on_its_batch():
    head = made()
    images = [image(key) for key in (3, 8, 5, 4)]
    together = labelled(head, *images)
    for sample, alone in zip(together, images, strict=True):
        same(sample, labelled(head, alone)[0])
    for sample, again in zip(together, labelled(head, *images[::-1])[::-1], strict=True):
        same(sample, again)
    assert not torch.equal(together[0].boxes, labelled(head, images[0], step=5)[0].boxes)
    assert not torch.equal(together[0].boxes, labelled(made(seed=1), images[0])[0].boxes)


def test_pseudo_unknowns_begin_at_their_share_of_the_first_task():
    head = made()
    assert [int(labelled(head, image(3), progress=p)[0].pseudo.sum()) for p in (0.0, 0.29, 0.3, 1.0)] == [0, 0, 2, 2]
    assert not labelled(made(unknowns={"per_image": 0}), image(3))[0].pseudo.any()


def test_later_tasks_label_from_their_first_step():
    head, given = made(), image(3)
    assert not labelled(head, given, progress=0.0)[0].pseudo.any()
    assert labelled(head, given, progress=0.0, previous=[torch.zeros(0, 4)])[0].pseudo.sum() == 2


def test_what_the_previous_model_calls_known_is_not_unknown():
    head, given = made(), image(3)
    first = labelled(head, given)[0]
    second = labelled(head, given, previous=[first.boxes[first.pseudo]])[0]
    chosen, again = (set(map(tuple, s.boxes[s.pseudo].tolist())) for s in (first, second))
    assert len(again) == 2
    assert not chosen & again


def test_images_without_labels_or_proposals():
    head = made()
    none, objectness = torch.zeros(0, 4), torch.zeros(0)
    empty = labelled(head, (none, objectness, Target.empty(1)), (none, objectness, image(2)[2]))
    assert [len(sample.labels) for sample in empty] == [0, 3]
    assert head.label([], [], [], step=0, progress=0.5) == []
    nothing = head.losses(torch.zeros(0, DIM), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert [loss.item() for loss in nothing.values()] == [0, 0]
    head.remember(torch.zeros(0, DIM), torch.zeros(0, dtype=torch.int64))


def test_the_originals_choice_is_made_among_what_was_sampled():
    head = made(unknowns={"compat": "ore", "per_image": 1}, regions=8)
    proposals, objectness, target = image(3)
    sample = labelled(head, (proposals, objectness, target))[0]
    background = (sample.labels == 0) | sample.pseudo
    logits = torch.cat([torch.full((3,), 23.0), objectness])[sample.rows]
    assert logits[sample.pseudo].item() == logits[background].max().item()
    assert sample.regress[sample.pseudo].all()


def test_the_classification_loss_is_the_mean_over_rows_that_count():
    logits = torch.tensor([[2.0, 0, 0, 0, 0], [0, 0, 3, 0, 0], [9, 9, 9, 9, 0]])
    labels = torch.tensor([0, 3, -1])
    found = made().losses(torch.randn(3, DIM), logits, labels)["classification"]
    expected = -(logits[0].log_softmax(0)[0] + logits[1].log_softmax(0)[3]) / 2
    torch.testing.assert_close(found, expected)


def test_the_clustering_loss_is_weighted():
    heads = [made(clustering={"weight": weight}) for weight in (0.1, 0.3)]
    x, labels = torch.randn(40, DIM), torch.arange(40) % 5
    values = []
    for head in heads:
        labelled(head, image(3))
        head.remember(x, labels)
        values.append(head.losses(x, torch.zeros(40, 5), labels)["clustering"].item())
    assert values[0] > 0
    assert values[1] == pytest.approx(3 * values[0])


def train(head, predictor, keys, steps, rank=0, world=1):
    """Some steps of gradient descent on the predictor's weights and on a layer below it."""
    torch.manual_seed(0)
    below = torch.nn.Linear(4, DIM)
    parameters = [*below.parameters(), *predictor.parameters()]
    losses = []
    for step in range(steps):
        share = len(keys) // world
        samples = labelled(head, *(image(k) for k in keys[rank * share : (rank + 1) * share]), step=step, progress=0.5)
        labels = torch.cat([sample.labels for sample in samples])
        features = below(torch.cat([sample.boxes for sample in samples]) / 100)
        loss = sum(head.losses(features, predictor(features)[0], labels).values())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                if world > 1:
                    torch.distributed.all_reduce(gradient)
                parameter.data -= 0.1 * gradient / world
        head.remember(features, labels)
        losses.append(loss.item())
    return losses, below.weight.detach(), head.clustering.prototypes.vectors


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
def test_two_processes_train_as_one(loss, tmp_path):
    settings = {"loss": loss, "weight": 0.5, "margin": 2.0}

    def run(rank, world):
        return train(made(clustering=settings), RegionPredictor(DIM, 3), [3, 8, 5, 4], 5, rank, world)

    losses, weight, prototypes = run(0, 1)
    both = in_processes(lambda rank: run(rank, 2), tmp_path)
    assert [(a + b) / 2 for a, b in zip(both[0][0], both[1][0], strict=True)] == pytest.approx(losses, rel=1e-4)
    for _, other_weight, other_prototypes in both:
        torch.testing.assert_close(other_weight, weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other_prototypes, prototypes, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", ["hinge", "infonce"])
@pytest.mark.parametrize("compat", [None, "ore"])
def test_a_training_step_reads_no_value_back_from_the_device(loss, compat):
    # Tensors without values, which say that they lie on a GPU: whatever waits for a number raises.
    with FakeTensorMode():
        head = made(clustering={"loss": loss}, unknowns={"compat": compat}).to("cuda")
        aim = Target(
            torch.empty(3, 4, device="cuda"),
            torch.empty(3, dtype=torch.int64, device="cuda"),
            torch.empty(3, dtype=torch.bool, device="cuda"),
            7,
        )
        given = torch.empty(60, 4, device="cuda"), torch.empty(60, device="cuda"), aim
        for step in range(4):
            sample = labelled(head, given, step=step, previous=[torch.empty(5, 4, device="cuda")])[0]
            n = len(sample.labels)
            features = torch.empty(n, DIM, device="cuda", requires_grad=True)
            logits = torch.empty(n, 5, device="cuda", requires_grad=True)
            head.losses(features, logits, sample.labels)
            deltas = torch.empty(n, 4, 4, device="cuda")
            box_loss(deltas, sample.boxes, sample.matched, sample.labels, sample.regress)
            head.remember(features, sample.labels)
        with pytest.raises(DataDependentOutputException):
            bool(features.sum() > 0)


# --- inference ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_fitted", [False, True])
def test_detections_are_consistent_and_do_not_depend_on_the_batch(is_fitted):
    head = made(decision={"per_image": 50})
    if is_fitted:
        fit(head)
    images = [regions(n, head, seed=n) for n in (200, 0, 1, 700)]
    together = head.decide(images)
    assert [len(found) > 0 for found in together] == [True, False, len(together[2]) > 0, True]
    for found, alone in zip(together, images, strict=True):
        same(found, head.decide([alone])[0])
        assert isinstance(found, Detections)
        assert len(found) <= 50
        assert (found.scores.diff() <= 0).all()
        assert ((found.scores >= 0.05) & (found.scores <= 1)).all()
        assert found.embeddings.shape == (len(found), DIM)
    assert (together[3].labels == UNKNOWN).sum() >= 5
    if is_fitted:
        found = together[3]
        expected = head.scorer.log_odds(found.energies).sigmoid()  # nothing was labelled unknown
        torch.testing.assert_close(found.posteriors, expected)
        assert (found.posteriors[found.labels != UNKNOWN] <= 0.5).all()


def test_ten_thousand_regions():
    head = made()
    fit(head)
    assert len(head.decide([regions(10_000, head)])[0]) == 100


@pytest.mark.parametrize("name", ["logits", "objectness", "boxes"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(name, value):
    head = made()
    images = [regions(5, head), regions(5, head)]
    getattr(images[1], name).view(-1)[3] = value
    with pytest.raises(ValueError, match=f"{name} of image 1 of the batch hold NaN or infinity"):
        head.decide(images)


def test_what_does_not_fit_is_refused():
    head = made()
    with pytest.raises(ValueError, match=r"5 proposals need logits \(5, 5\)"):
        head.decide([regions(5, made(("cat",)))])
    short = replace(regions(5, head), objectness=torch.zeros(1))
    with pytest.raises(ValueError, match=r"5 proposals need objectness \(5,\), not \(1,\), for image 0"):
        head.decide([short])
    with pytest.raises(FloatingPointError, match="logits hold NaN or infinity: training diverged"):
        head.losses(torch.zeros(1, DIM), torch.full((1, 5), torch.nan), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"need logits \(n, 5\)"):
        head.losses(torch.zeros(2, DIM), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    proposals, objectness, target = image(3)
    target.labels[0] = 5
    with pytest.raises(ValueError, match="image 3 has an object labelled 5, but there are 5 labels: grow"):
        labelled(head, (proposals, objectness, target))
    proposals, objectness, target = image(3)
    target.boxes[0, 1] = torch.nan
    with pytest.raises(ValueError, match="image 3 has a labelled box that is not finite"):
        labelled(head, (proposals, objectness, target))
    with pytest.raises(ValueError, match="must be one per image"):
        head.label([proposals], [objectness], [], step=0, progress=0.5)
    for names in ((), ("cat", "cat")):
        with pytest.raises(ValueError, match="class"):
            made(names)


# --- between tasks --------------------------------------------------------------------------------------------------


def test_growing_makes_room_and_asks_for_a_new_fit():
    head = made()
    labelled(head, image(3))
    head.remember(torch.randn(20, DIM), torch.arange(20) % 5)
    fit(head)
    old = head.clustering.prototypes.vectors.clone()
    head.grow(["hen", "fox"])
    assert head.known == (*NAMES, "hen", "fox")
    assert torch.equal(head.clustering.prototypes.vectors[:4], old)
    assert "was not fitted" in head.status()
    assert head.losses(torch.randn(4, DIM), torch.randn(4, 7), torch.tensor([6, 5, 2, 0]))["clustering"] > 0
    assert isinstance(head.decide([regions(50, head)])[0], Detections)
    with pytest.raises(ValueError, match="only once, not cat"):
        head.grow(["cat"])


def test_masked_logits_of_classes_to_come_change_nothing():
    fixed, growing = made(classes=80), made()
    assert (fixed.outputs, growing.outputs) == (82, 5)
    x, labels = torch.randn(20, DIM), torch.arange(20) % 5
    for head in (fixed, growing):
        labelled(head, image(3))
        head.remember(x, labels)
    fit(growing)
    image_regions = regions(300, growing)
    masked = torch.full((300, 77), MASKED)
    wide = Regions(**{**vars(image_regions), "logits": torch.cat([image_regions.logits, masked], dim=1)})
    wide.boxes = torch.cat([wide.boxes, torch.zeros(300, 77, 4)], dim=1)
    fixed.load_state_dict(growing.state_dict())
    for score in ("energy", "max_probability", "foreground"):
        fixed.scorer.score = growing.scorer.score = score
        torch.testing.assert_close(*(h.scorer.evidence(r.logits) for h, r in ((fixed, wide), (growing, image_regions))))
    same(fixed.decide([wide])[0], growing.decide([image_regions])[0])
    assert torch.equal(fixed.clustering.prototypes.vectors, growing.clustering.prototypes.vectors)
    losses = [head.losses(x, each.logits[:20], labels) for head, each in ((fixed, wide), (growing, image_regions))]
    torch.testing.assert_close(*losses)
    with pytest.raises(ValueError, match=r"need logits \(n, 82\)"):
        fixed.losses(x, image_regions.logits[:20], labels)
    proposals, objectness, target = image(3)
    target.labels[0] = 5  # there is an output for it, but it is not introduced
    with pytest.raises(ValueError, match="labelled 5, but there are 5 labels: grow"):
        labelled(fixed, (proposals, objectness, target))
    fixed.grow([f"class {number}" for number in range(78)])  # one more than there is room for
    assert fixed.outputs == 83


def test_the_state_survives_a_checkpoint_folder(tmp_path):
    head, other = made(), made()
    train(head, RegionPredictor(DIM, 3), [3, 8], 4)
    fit(head)
    save_checkpoint(tmp_path / "step-1", model=head.state_dict(), train={}, info={})
    other.load_state_dict(load_checkpoint(tmp_path / "step-1").model)
    image_regions = regions(300, head)
    same(head.decide([image_regions])[0], other.decide([image_regions])[0])
    assert other.status() == head.status()
    x, labels = torch.randn(30, DIM), torch.arange(30) % 5
    for each in (head, other):
        labelled(each, image(9), step=4, progress=0.6)
    assert (
        head.losses(x, torch.zeros(30, 5), labels)["clustering"]
        == (other.losses(x, torch.zeros(30, 5), labels)["clustering"])
    )


def test_a_checkpoint_of_another_label_space_is_refused():
    for names in (("cat", "dog"), ("dog", "cat", "cow")):
        with pytest.raises(CheckpointError, match="the checkpoint knows the classes cat, dog, cow, the model"):
            made(names).load_state_dict(made().state_dict())


def test_the_status_says_what_the_decision_rests_on():
    head = made()
    assert "the classifier's own unknown logit stands in" in head.status()
    fit(head)
    assert head.status() == (
        "Unknown objects are told by densities of the energy of 300 known and 200 unknown regions (a test), "
        "with a prior of 0.5."
    )


def test_a_head_knows_whether_a_region_was_ever_labelled_unknown():
    head = made(clustering={"loss": "none"})
    head.remember(torch.zeros(3, DIM), torch.tensor([BACKGROUND, FIRST_KNOWN, -1]))
    assert not head.taught
    head.remember(torch.zeros(2, DIM), torch.tensor([BACKGROUND, UNKNOWN]))
    head.remember(torch.zeros(1, DIM), torch.tensor([BACKGROUND]))
    assert head.taught and head.state_dict()["taught"]
