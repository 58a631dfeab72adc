"""Open-world heads in detectron2's own models, beside the torchvision engine's parts and by themselves."""

import pytest
import torch
from support.processes import in_processes
from support.small_detectors import small_batch, small_detector

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from detection.engines.detectron2 import OpenWorldRCNN, OpenWorldStandardROIHeads, RememberRegions
from detection.engines.detectron2.labels import IGNORED, KNOWN_BEFORE, thing_classes, to_classes, to_labels
from detection.openworld.sampling import match
from detection.structures import BACKGROUND, UNKNOWN
from sslcore.errors import CheckpointError, ConfigError

KINDS = ["fpn", "c4"]


def inputs(count=2, *, labelled=True, **sizes):
    """A batch as detectron2's loaders give it: pixels from 0 to 255, and ground truth."""
    images, targets = small_batch(count, **sizes)
    batch = []
    for image, target in zip(images, targets):
        height, width = image.shape[1:]
        entry = {"image": (255 * image).round(), "height": height, "width": width}
        if labelled:
            classes = to_classes(target.labels, 3)
            entry["instances"] = Instances((height, width), gt_boxes=Boxes(target.boxes), gt_classes=classes)
        batch.append(entry)
    return batch


def steps(model, batch, count=3, *, start=0):
    """Training steps as detectron2's trainers take them; the losses of each."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    found = []
    model.train()
    with EventStorage(start) as storage:
        for _ in range(count):
            losses = model(batch)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            found.append({name: loss.item() for name, loss in losses.items()})
            storage.step()
    return found


# --- labels ----------------------------------------------------------------------------------------------------------


def test_background_is_last_there_and_first_here():
    labels = torch.tensor([BACKGROUND, UNKNOWN, 2, 3, 4, -1])
    assert to_classes(labels, 3).tolist() == [4, 3, 0, 1, 2, IGNORED]
    assert torch.equal(to_labels(to_classes(labels, 3), 3), labels)
    assert thing_classes(("background", "unknown", "cat", "dog")) == ["cat", "dog", "unknown"]


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_in_detectron2s_own_model(small_cfg, kind):
    model = build_model(small_cfg(kind))
    losses = steps(model, inputs())
    names = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_clustering"}
    assert all(set(each) == names for each in losses)
    assert losses[0]["loss_clustering"] == 0 < losses[-1]["loss_clustering"]
    heads = model.roi_heads
    assert heads.head.clustering.prototypes.seen.any() and heads.num_classes == 4
    before = heads.head.clustering.store.features.clone()
    heads.remember()  # the last step's
    assert not torch.equal(heads.head.clustering.store.features, before)
    kept = heads.head.clustering.store.features.clone()
    heads.remember()  # and no step's twice
    assert torch.equal(heads.head.clustering.store.features, kept)


def test_the_hook_remembers_after_the_step(small_cfg):
    model = build_model(small_cfg())
    steps(model, inputs(), 1)
    assert not model.roi_heads.head.clustering.prototypes.seen.any()
    hook = RememberRegions()
    hook.trainer = type("Trainer", (), {"model": model})()
    hook.after_step()
    assert model.roi_heads.head.clustering.prototypes.seen.any()


def test_rows_that_are_no_object_are_neither_learnt_nor_unknown(small_cfg, monkeypatch):
    """Ignored boxes and those known before, among detectron2's ground truth."""
    model = build_model(small_cfg(task=1, unknowns__per_image=30))
    model.roi_heads.first_task = False
    batch = inputs(1)
    truth = batch[0]["instances"]
    truth.gt_classes = torch.tensor([IGNORED, KNOWN_BEFORE])
    seen, targets = [], []
    forward, label = type(model.proposal_generator).__bases__[0].forward, model.roi_heads.head.label
    monkeypatch.setattr(
        type(model.proposal_generator).__bases__[0], "forward",
        lambda self, images, features, gt: (seen.append(gt), forward(self, images, features, gt))[1],
    )  # fmt: skip

    def watched(*args, **named):
        targets.append((args[2], named["previous"]))
        found = label(*args, **named)
        targets.append(found)
        return found

    monkeypatch.setattr(model.roi_heads.head, "label", watched)
    steps(model, batch, 1)
    assert len(seen[0][0]) == 0
    (target,), previous = targets[0]
    assert target.ignore.tolist() == [True] and torch.equal(target.boxes, truth.gt_boxes.tensor[:1])
    assert torch.equal(previous[0], truth.gt_boxes.tensor[1:])
    (sample,) = targets[1]
    assert not (sample.labels > UNKNOWN).any() and sample.pseudo.any()
    from torchvision.ops import box_iou

    assert (box_iou(sample.boxes[sample.pseudo], truth.gt_boxes.tensor) <= 0.1 + 1e-6).all()


def test_other_heads_and_unknown_settings_are_refused(small_cfg):
    for key in ("MASK_ON", "KEYPOINT_ON"):
        cfg = small_cfg()
        cfg.MODEL[key] = True
        with pytest.raises(ConfigError, match=f"MODEL.{key} is true, but open-world heads find boxes only"):
            build_model(cfg)
    with pytest.raises(ConfigError, match=r"MODEL\.OPENWORLD\.CLUSTERING\.LOSS: .* not 'hinges'"):
        build_model(small_cfg(clustering__loss="hinges"))
    with pytest.raises(ConfigError, match="names no classes"):
        build_model(small_cfg(known=[]))
    with pytest.raises(ConfigError, match="TASK is 5, but m_owodb has the tasks 1 to 4"):
        build_model(small_cfg(known=[], tasks="m_owodb", task=5))
    for name in ("StandardROIHeads", "Res5ROIHeads"):
        cfg = small_cfg()
        cfg.MODEL.ROI_HEADS.NAME = name
        with pytest.raises(ConfigError, match=f"NAME is {name}, which know nothing unknown: set it to OpenWorldSta"):
            build_model(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "OpenWorldRes5ROIHeads"
    with pytest.raises(ConfigError, match=r"has the levels of a pyramid \(p2, p3, p4, p5\): set it to OpenWorldSta"):
        build_model(cfg)
    cfg = small_cfg()
    del cfg.MODEL["OPENWORLD"]
    with pytest.raises(ConfigError, match="call add_openworld_config"):
        build_model(cfg)


# --- the same as the other engine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("previous", [None, [torch.tensor([[0.0, 0.0, 20.0, 20.0]])] * 3])
def test_losses_and_decisions_of_both_engines_agree_on_the_same_features_and_proposals(small_cfg, previous, per_class):
    """The second stage of both, on one network's features: to 1e-5, over steps with memory."""
    theirs = small_detector(network={"per_class_boxes": per_class}, clustering={"loss": "infonce"}).train()
    cfg = small_cfg()
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = not per_class
    cfg.SEED = 0
    heads = build_model(cfg).roi_heads.train()
    assert heads.head.seed == theirs.head.seed and heads.head.unknowns == theirs.head.unknowns
    images, targets = small_batch(3)
    batch = theirs.transform(images)
    maps = theirs.network(batch.tensors)
    proposals = theirs.proposer.propose(theirs.proposer(list(maps.values())), batch, 50)
    # Regions are embedded by the same network in both, so that all that differs is what the engines do around it.
    heads.embed = lambda features, boxes: theirs._embed(maps, list(boxes))
    listed = [
        Instances(size, proposal_boxes=Boxes(p.boxes), objectness_logits=p.objectness)
        for p, size in zip(proposals, batch.sizes)
    ]
    for step in range(3):
        torch.manual_seed(0)
        theirs.proposer.propose = lambda *_, **__: proposals
        expected = theirs.losses(images, targets, step=step, progress=0.5, previous=previous)
        samples, losses, to_remember = heads.learn({}, listed, targets, step=step, progress=0.5, previous=previous)
        for a, b in zip(samples, expected.samples):
            assert torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) and torch.equal(a.pseudo, b.pseudo)
        for name, loss in losses.items():
            assert loss.item() == pytest.approx(expected.losses[name].item(), abs=1e-5), name
        theirs.head.remember(*expected.to_remember)
        heads.head.remember(*to_remember)
    assert losses["clustering"] > 0 and any(sample.pseudo.any() for sample in samples)
    for name, value in theirs.head.state_dict().items():
        assert torch.allclose(heads.head.state_dict()[name].float(), value.float(), atol=1e-5), name

    theirs.eval(), heads.eval()
    heads.box_predictor.classify.weight.data.mul_(50)  # untrained logits decide nothing
    theirs.predictor.classify.weight.data.mul_(50)
    with torch.no_grad():
        maps = theirs.network(batch.tensors)
        ours = heads.head.decide(heads.regions({}, listed))
        from detection.openworld.second_stage import regions_of

        boxes, objectness = [p.boxes for p in proposals], [p.objectness for p in proposals]
        there = theirs.head.decide(
            regions_of(theirs.predictor, theirs._embed(maps, boxes), boxes, objectness, batch.sizes)
        )
    assert sum(map(len, ours)) > 10
    for a, b in zip(ours, there):
        assert torch.equal(a.labels, b.labels) and len(a.labels)
        for name in ("boxes", "scores", "energies", "posteriors", "embeddings"):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5), name


# --- inference -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_images_detections_do_not_depend_on_its_batch(small_cfg, kind):
    model = build_model(small_cfg(kind)).eval()
    fit(model)
    batch = inputs(3, labelled=False)
    with torch.no_grad():
        together = [found["instances"] for found in model(batch)]
        alone = [model([image])[0]["instances"] for image in batch]
    assert sum(map(len, together)) > 10
    for a, b in zip(together, alone):
        assert torch.equal(a.pred_classes, b.pred_classes)
        # Convolutions of other shapes round otherwise, and the posterior is steep.
        for name, near in (("scores", 1e-3), ("energies", 1e-3), ("posteriors", 1e-2)):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=near), name
        assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-2)
        assert {"pred_boxes", "pred_classes", "scores", "energies", "posteriors", "embeddings"} == set(a.get_fields())
        assert a.pred_classes.max() <= 3
    assert any((found.pred_classes == 3).any() for found in together)  # unknown


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_proposals_has_no_detections(small_cfg, kind):
    heads = build_model(small_cfg(kind)).roi_heads.eval()
    width = 16 if kind == "fpn" else 1024
    names = ("p2", "p3", "p4", "p5") if kind == "fpn" else ("res4",)
    features = {name: torch.rand(2, width, 16, 16) for name in names}
    none = Instances((64, 64), proposal_boxes=Boxes(torch.zeros(0, 4)), objectness_logits=torch.zeros(0))
    some = Instances(
        (64, 64), proposal_boxes=Boxes(torch.tensor([[4.0, 4.0, 40.0, 40.0]])), objectness_logits=torch.ones(1)
    )  # fmt: skip
    with torch.no_grad():
        for proposals in ([none, none], [none, some]):
            found, losses = heads(None, features, proposals)
            assert len(found[0]) == 0 and len(found[1]) <= 1 and losses == {}


def fit(model):
    """A decision by which about half of all regions are unknown, on logits that say something."""
    engine, images = OpenWorldRCNN.around(model, min_size=64, max_size=96), small_batch(3)[0]
    logits = torch.cat([each.logits for each in engine.regions(images)])
    engine.predictor.classify.weight.data.mul_(3 / logits.std())
    engine.predictor.classify.bias.data[BACKGROUND] -= 3
    regions = engine.regions(images)
    scorer = engine.head.scorer
    order = scorer.evidence(torch.cat([each.logits for each in regions])).sort().values
    scorer.fit(order[: len(order) // 2], order[len(order) // 2 :], source="a test")
    assert scorer.fitted


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_detectron2s_checkpoint_holds_prototypes_energies_and_label_space(small_cfg, tmp_path):
    model = build_model(small_cfg())
    steps(model, inputs(), 2)
    model.roi_heads.remember()
    fit(model.eval())
    DetectionCheckpointer(model, str(tmp_path)).save("model_0001")
    again = build_model(small_cfg()).eval()
    assert not again.roi_heads.head.scorer.fitted
    DetectionCheckpointer(again).load(str(tmp_path / "model_0001.pth"))
    head, saved = again.roi_heads.head, model.roi_heads.head
    assert head.scorer.fitted and head.status() == saved.status()
    assert torch.equal(head.clustering.prototypes.vectors, saved.clustering.prototypes.vectors)
    assert torch.equal(head.clustering.store.features, saved.clustering.store.features)
    assert head.clustering.prototypes.seen.any()
    image = inputs(1, labelled=False)
    with torch.no_grad():
        assert torch.equal(again(image)[0]["instances"].scores, model(image)[0]["instances"].scores)

    other = build_model(small_cfg(known=["circle", "square", "moon"]))
    with pytest.raises(CheckpointError, match="knows the classes circle, square, star"):
        DetectionCheckpointer(other).load(str(tmp_path / "model_0001.pth"))


# --- several processes -----------------------------------------------------------------------------------------------


def test_two_processes_keep_the_prototypes_of_one(small_cfg, tmp_path):
    _, targets = small_batch(4)
    generator = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(4, 30, 2, generator=generator)
    boxes = torch.cat([corner, corner + 4 + 20 * torch.rand(4, 30, 2, generator=generator)], dim=2)
    objectness = torch.randn(4, 30, generator=generator)
    listed = [Instances((64, 64), proposal_boxes=Boxes(b), objectness_logits=o) for b, o in zip(boxes, objectness)]
    features = {name: torch.rand(4, 16, 16 >> i, 16 >> i, generator=generator) for i, name in enumerate(
        ("p2", "p3", "p4", "p5"))}  # fmt: skip

    def learnt(numbers):
        torch.manual_seed(0)
        heads = build_model(small_cfg()).roi_heads.train()
        assert isinstance(heads, OpenWorldStandardROIHeads)
        mine = {name: maps[list(numbers)] for name, maps in features.items()}
        losses = {}
        for step in range(2):
            _, losses, to_remember = heads.learn(
                mine, [listed[i] for i in numbers], [targets[i] for i in numbers], step=step, progress=0.5,
                previous=[torch.zeros(0, 4)] * len(numbers),
            )  # fmt: skip
            heads.head.remember(*to_remember)
        return {name: loss.detach() for name, loss in losses.items()}, heads.head.clustering.prototypes.vectors

    losses, vectors = learnt(range(4))
    shares = in_processes(lambda rank: learnt([2 * rank, 2 * rank + 1]), tmp_path)
    assert vectors.abs().sum() > 0
    for _, theirs in shares:
        assert torch.allclose(theirs, vectors, atol=1e-5)
    for name, loss in losses.items():
        assert sum(found[0][name] for found in shares) / 2 == pytest.approx(loss.item(), abs=1e-5), name


def test_candidates_are_the_same_whoever_lists_them():
    """Ignored rows keep no label of their own: whatever label stands there, matching gives the same."""
    _, (target, *_) = small_batch(1)
    target.ignore[0] = True
    proposals = [target.boxes + 1.0]
    first = match(proposals, [target])
    target.labels[0] = UNKNOWN
    assert torch.equal(match(proposals, [target]).labels, first.labels)
