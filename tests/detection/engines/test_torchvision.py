import pytest
import torch
from support.small_detectors import CLASSES, small_batch, small_detector
from torch import nn

from detection.engines.settings import NetworkSettings
from detection.engines.torchvision import build_detector
from detection.structures import FIRST_KNOWN, UNKNOWN, Target
from detection.training.recipe import DetectionRecipe
from sslcore.errors import CheckpointError, ConfigError
from sslcore.nn import build_backbone
from sslcore.storage import write_weights

LOSSES = {"objectness", "proposal_boxes", "classification", "boxes", "clustering"}


def step(detector, images, targets, number=0, **options):
    return detector.losses(images, targets, step=number, progress=options.pop("progress", 0.5), **options)


def stirred(detector, seed=0):
    """Last layers with weights that matter: their initial ones are so small that all scores are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (detector.predictor.classify, detector.predictor.regress, detector.proposer.head.cls_logits):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.3)
    return detector


def same(found, wanted, atol=1e-4):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert torch.equal(a.labels, b.labels)
        for name in ("boxes", "scores", "energies", "embeddings"):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=atol), name


# --- training --------------------------------------------------------------------------------------------------------


def test_losses_are_scalars_and_everything_learns():
    detector = small_detector(network={"per_class_boxes": True}).train()
    images, targets = small_batch(3)
    out = step(detector, images, targets)
    assert set(out.losses) == LOSSES
    assert all(loss.shape == () and loss.dtype == torch.float32 and loss.isfinite() for loss in out.losses.values())
    sum(out.losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    features, labels = out.to_remember
    assert features.shape == (len(labels), 32) and not features.requires_grad and features.dtype == torch.float32
    assert len(out.samples) == 3 and out.scales == [(1.0, 1.0)] * 3
    detector.head.remember(features, labels)
    assert step(detector, images, targets, 1).losses["clustering"] > 0


def test_two_images_are_learnt_by_heart():
    detector = small_detector(unknowns={"per_image": 0}, clustering={"loss": "none"}).train()
    images, targets = small_batch(2)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    totals = []
    for number in range(80):
        loss = sum(step(detector, images, targets, number).losses.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        totals.append(loss.item())
    assert sum(totals[-10:]) < 0.4 * sum(totals[:10])
    for found, target in zip(detector.predict(images), targets):
        for box, label in zip(target.boxes, target.labels):
            ious = iou(found.boxes, box)
            assert ((ious > 0.5) & (found.labels == label)).any()


def iou(boxes, box):
    low, high = torch.maximum(boxes[:, :2], box[:2]), torch.minimum(boxes[:, 2:], box[2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod() - common)


def test_frozen_stages_get_no_gradient_and_keep_their_statistics():
    detector = small_detector(network={"frozen_stages": 2}).train()
    before = {k: v.clone() for k, v in detector.network.backbone.state_dict().items()}
    images, targets = small_batch(2)
    sum(step(detector, images, targets).losses.values()).backward()
    for name, parameter in detector.network.backbone.named_parameters():
        frozen = name.startswith(("stages.0", "stages.1"))
        assert (parameter.grad is None) == frozen
    changed = {k for k, v in detector.network.backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith(("stages.2", "stages.3")) for k in changed)


def test_images_without_objects_and_with_thousands():
    detector = small_detector().train()
    images, targets = small_batch(2)
    count = 10_000
    many = torch.rand(count, 2) * 60
    crowd = Target(
        torch.cat([many, many + 3], dim=1), torch.full((count,), FIRST_KNOWN), torch.zeros(count, dtype=torch.bool), 5
    )
    for chosen in ([Target.empty(1), Target.empty(2)], [targets[0], Target.empty(2)], [crowd, targets[1]]):
        losses = step(detector, images, chosen).losses
        assert all(loss.isfinite() for loss in losses.values())
        detector.zero_grad()
        sum(losses.values()).backward()
        # DDP waits for every parameter's gradient, also where there is nothing to learn.
        assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_the_same_step_gives_the_same_losses_whatever_was_drawn_before():
    detector = small_detector().train()
    images, targets = small_batch(2)
    first = step(detector, images, targets, 3).losses
    torch.rand(17)
    again, other = step(detector, images, targets, 3).losses, step(detector, images, targets, 4).losses
    assert all(torch.equal(first[name], again[name]) for name in LOSSES)
    assert first["objectness"] != other["objectness"]


def test_boxes_of_resized_images_are_resized():
    """An image of half the size with boxes of half the size is the same training example."""
    detector = small_detector().eval()
    images, targets = small_batch(2)
    half = [torch.nn.functional.avg_pool2d(image[None], 2)[0] for image in images]
    halved = [Target(t.boxes / 2, t.labels, t.ignore, t.key) for t in targets]
    out = step(detector, half, halved, previous=[t.boxes / 2 for t in targets])
    assert out.scales == [(2.0, 2.0)] * 2
    for sample, target in zip(out.samples, targets):
        objects = sample.matched[sample.regress]
        assert len(objects) and all((objects == box).all(dim=1).any() for box in target.boxes)


def test_what_the_previous_model_knows_is_not_called_unknown():
    detector = small_detector(unknowns={"per_image": 3, "guard": 0.0}).eval()
    images, _ = small_batch(1, boxes=0)
    nothing = [Target.empty(1)]
    (sample,) = step(detector, images, nothing).samples
    pseudo = sample.boxes[sample.pseudo]
    assert len(pseudo) == 3
    (sample,) = step(detector, images, nothing, previous=[pseudo]).samples
    again = sample.boxes[sample.pseudo]
    assert not any((again == box).all(dim=1).any() for box in pseudo)


def test_mixed_precision_has_losses_in_single_precision():
    detector = small_detector().train()
    images, targets = small_batch(2)
    with torch.autocast("cpu", torch.bfloat16):
        out = step(detector, images, targets)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in out.losses.values())
    assert out.to_remember[0].dtype == torch.float32
    sum(out.losses.values()).backward()
    plain = step(detector, images, targets).losses
    for name in ("objectness", "classification"):
        assert out.losses[name].item() == pytest.approx(plain[name].item(), rel=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        for found in detector.predict(images):
            assert found.embeddings.dtype == found.boxes.dtype == torch.float32


# --- inference -------------------------------------------------------------------------------------------------------


def test_predictions_do_not_depend_on_the_batch():
    """70 x 90 is resized and padded on both sides."""
    detector = stirred(small_detector())
    images, targets = small_batch(4, height=70, width=90)
    step(detector.train(), images, targets)  # statistics that are not the initial ones
    together = detector.predict(images)
    assert all(len(found) for found in together)
    same(together, [detector.predict([image])[0] for image in images])
    same(together[:2], detector.predict(images[:2]))


def test_looking_changes_nothing():
    detector = small_detector().train()
    detector.network.pyramid.eval()
    images, _ = small_batch(2)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    modes = {name: part.training for name, part in detector.named_modules()}
    detector.predict(images), detector.regions(images), detector.proposals(images)
    assert modes == {name: part.training for name, part in detector.named_modules()}
    after = detector.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_detections_are_in_pixels_of_the_image_given():
    detector = stirred(small_detector())
    double = small_batch(1, height=128, width=128)[0][0]
    image = torch.nn.functional.interpolate(double[None], size=(64, 64), mode="bilinear", antialias=True)[0]
    (small,), (large,) = detector.predict([image]), detector.predict([double])
    assert len(small) and small.boxes.max() <= 64
    assert torch.allclose(large.boxes, small.boxes * 2, atol=1e-3)
    (proposals,), (doubled,) = detector.proposals([image]), detector.proposals([double])
    assert torch.allclose(doubled.boxes, proposals.boxes * 2, atol=1e-3)
    assert (proposals.objectness.diff() <= 0).all() and len(proposals.boxes) <= 30
    assert detector.scales([image, double]) == [(1.0, 1.0), (0.5, 0.5)]


def test_regions_have_all_that_a_decision_needs():
    detector = stirred(small_detector(network={"per_class_boxes": True}))
    images, _ = small_batch(2)
    for region in detector.regions(images):
        p = len(region.proposals)
        assert region.boxes.shape == (p, 1 + len(CLASSES), 4) and region.logits.shape == (p, 2 + len(CLASSES))
        assert region.features.shape == (p, 32) and region.objectness.shape == (p,)
        assert region.boxes.min() >= 0 and region.boxes.max() <= 64
        assert not region.logits.requires_grad


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (4000, 5000)])
def test_images_of_any_size(size):
    detector = stirred(small_detector())
    (found,) = detector.predict([torch.rand(3, *size)])
    assert found.boxes.isfinite().all() and found.scores.isfinite().all()
    assert (found.boxes[:, 0::2] <= size[1]).all() and (found.boxes[:, 1::2] <= size[0]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    # A very thin image first must not decide how later ones are pooled.
    images = small_batch(2)[0]
    same(detector.predict(images), stirred(small_detector()).predict(images))


def test_training_on_images_of_any_size():
    detector = small_detector().train()
    images, targets = small_batch(1)
    for key, (height, width) in enumerate([(1, 1), (1, 900), (4000, 5000)]):
        images.append(torch.rand(3, height, width))
        whole = torch.tensor([[0.0, 0, width, height]])
        targets.append(Target(whole, torch.tensor([FIRST_KNOWN]), torch.tensor([False]), key))
    out = step(detector, images, targets)
    sum(out.losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())
    assert all(sample.boxes.isfinite().all() and (sample.labels == FIRST_KNOWN).any() for sample in out.samples[1:])


def test_no_image_is_no_detection_and_no_training():
    detector = small_detector()
    assert detector.predict([]) == [] and detector.regions([]) == [] and detector.proposals([]) == []
    with pytest.raises(ValueError, match="no image in the batch"):
        step(detector, [], [])


@pytest.mark.parametrize("call", ["predict", "regions", "proposals", "losses"])
def test_pixels_that_are_no_numbers_are_refused(call):
    detector = small_detector()
    images, targets = small_batch(2)
    images[1][0, 3, 5] = float("nan")
    with pytest.raises(ValueError, match="image 1 has pixels that are nan"):
        step(detector, images, targets) if call == "losses" else getattr(detector, call)(images)


# --- growing and state -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class_boxes", [False, True])
def test_growing_keeps_what_was_said_of_the_old_classes(per_class_boxes):
    detector = stirred(small_detector(network={"per_class_boxes": per_class_boxes}))
    images, _ = small_batch(2)
    before = detector.regions(images)
    detector.grow(["moon", "sun"])
    assert detector.head.known == (*CLASSES, "moon", "sun")
    for old, new in zip(before, detector.regions(images)):
        assert torch.allclose(new.logits[:, : 2 + len(CLASSES)], old.logits, atol=1e-6)
        assert torch.equal(new.boxes[:, : old.boxes.shape[1]], old.boxes)
        assert new.logits.shape[1] == 2 + len(CLASSES) + 2
    _, targets = small_batch(2)
    targets[0].labels[0] = FIRST_KNOWN + 4
    assert all(loss.isfinite() for loss in step(detector.train(), images, targets).losses.values())


def test_the_state_says_all():
    detector = stirred(small_detector())
    images, targets = small_batch(4)
    step(detector.train(), images, targets)
    other = small_detector(seed=9)
    other.load_state_dict(detector.state_dict())
    same(other.predict(images), detector.predict(images), atol=0)


def test_a_state_of_another_label_space_is_refused():
    detector = small_detector()
    with pytest.raises((CheckpointError, RuntimeError)):
        small_detector(known=("circle", "square", "moon")).load_state_dict(detector.state_dict())


def test_a_pretrained_backbone_brings_its_preprocessing(tmp_path):
    source = build_backbone("tiny", width=8)
    values = {
        "method": "moco", "backbone": {"name": "tiny", "width": 8}, "in_channels": 3, "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1], "size": 32,
    }  # fmt: skip
    write_weights(tmp_path / "b.safetensors", source.state_dict(), values)
    network = {"weights": str(tmp_path / "b.safetensors")}
    detector = small_detector(network=network)
    assert torch.equal(detector.network.backbone.stages[3][0].weight, source.stages[3][0].weight)
    assert detector.transform.mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert "moco uses no labels" in detector.report.because
    # Whoever loads a checkpoint does not need that file any more: weights and preprocessing are in the state.
    (tmp_path / "b.safetensors").unlink()
    restored = small_detector(network=network, load_weights=False)
    restored.load_state_dict(detector.state_dict())
    assert restored.transform.std.tolist() == pytest.approx([0.2, 0.2, 0.1])


def test_building_is_a_function_of_the_seed_and_moves_no_random_state():
    before = torch.get_rng_state()
    one, two, other = small_detector(seed=1), small_detector(seed=1), small_detector(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    first = one.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in two.state_dict().items())
    assert not torch.equal(one.box_head.fc6.weight, other.box_head.fc6.weight)


def test_a_head_of_another_width_is_refused():
    head = small_detector().head
    settings = NetworkSettings(name="tiny", anchors=[12, 24, 48], representation=16)
    with pytest.raises(
        ConfigError, match="representation is 16, but the open-world head was made for embeddings of 32"
    ):
        build_detector(settings, head, seed=0)


def test_unknown_objects_that_are_labelled_are_trained_on():
    detector = small_detector().train()
    images, targets = small_batch(2)
    for target in targets:
        target.labels.fill_(UNKNOWN)
    out = step(detector, images, targets)
    assert all(((s.labels == UNKNOWN) & s.regress).any() for s in out.samples)
    assert out.losses["boxes"] > 0


def test_the_recipe_says_how_anchors_are_sampled():
    proposer = small_detector(network={"anchors_sampled": 12, "anchor_iou": (0.2, 0.4)}).proposer
    assert (proposer.sampled, proposer.below, proposer.above) == (12, 0.2, 0.4)
    with pytest.raises(ValueError, match=r"anchor_iou must not begin above its end \(0.6 > 0.4\)"):
        DetectionRecipe(network=NetworkSettings(anchor_iou=(0.6, 0.4)))
