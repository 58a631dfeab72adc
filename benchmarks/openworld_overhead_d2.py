"""What the open-world parts add to a training step and to inference of detectron2's own Faster R-CNN.

    python benchmarks/openworld_overhead_d2.py --threads 1                          # R18-FPN, 160 pixels, batch 8
    python benchmarks/openworld_overhead_d2.py --network c4 --size 160 --batch 2 --regions 128 --threads 1

Both are detectron2's `GeneralizedRCNN` of one configuration, the one with its own region heads and the other with
`OpenWorldROIHeads`, which label unknown proposals, leave out those that the previous task's model calls known, take the
clustering loss, remember features and refresh prototypes at every step; at inference a fitted decision is used. Both
train on the same scenes, alternating within one process; the overhead is the median of each round's ratio.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from overhead import (
    CLASSES,
    INFER_GOAL,
    LABELLED,
    TRAIN_GOAL,
    Work,
    compare,
    drawn_scenes,
    fit_decision,
    options_of,
    parser_of,
)

from detection.engines.detectron2 import OpenWorldRCNN, add_openworld_config
from detection.engines.detectron2.labels import KNOWN_BEFORE

WARM = 10
"""Steps before anything is measured: prototypes and rings are filled, and proposals look for objects."""


def configuration(options: argparse.Namespace, *, open_world: bool) -> Any:
    """detectron2's own, at the size asked for; with open-world heads or as it is."""
    c4 = options.network == "c4"
    cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_R_50_{'C4' if c4 else 'FPN'}_1x.yaml")
    add_openworld_config(cfg)
    model = cfg.MODEL
    model.DEVICE, model.WEIGHTS, cfg.SEED = options.device, "", 0
    # Random weights behind a frozen norm would diverge.
    model.RESNETS.NORM, model.BACKBONE.FREEZE_AT, model.PIXEL_STD = "BN", 0, [58.0, 57.0, 57.0]
    if options.network == "r18":
        model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    sizes = [size * options.size / 800 for size in (32, 64, 128, 256, 512)]
    model.ANCHOR_GENERATOR.SIZES = [sizes] if c4 else [[size] for size in sizes]
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = options.proposals
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = options.regions
    # Unknown is a class like others to detectron2's own heads.
    model.ROI_HEADS.NUM_CLASSES = CLASSES + 1
    model.OPENWORLD.KNOWN, model.OPENWORLD.TASK = [f"class {i}" for i in range(CLASSES)], 1
    model.OPENWORLD.UNKNOWNS.START = model.OPENWORLD.CLUSTERING.START = 0.0
    model.OPENWORLD.CLUSTERING.LOSS, model.OPENWORLD.CLUSTERING.REFRESH = options.clustering, 1
    if open_world:
        model.ROI_HEADS.NAME = "OpenWorldRes5ROIHeads" if c4 else "OpenWorldStandardROIHeads"
    else:
        model.PROPOSAL_GENERATOR.NAME = "RPN"
    return cfg


def scenes(options: argparse.Namespace, *, open_world: bool) -> list[dict[str, Any]]:
    """Images as detectron2 takes them; to the open-world heads, one of the labelled objects was known before."""
    batch = []
    for scene in drawn_scenes(options.batch, options.size):
        boxes, classes = scene.boxes[:LABELLED], scene.classes
        if open_world:
            boxes, classes = torch.cat([boxes, boxes[:1] + 3.0]), torch.cat([classes, torch.tensor([KNOWN_BEFORE])])
        truth = Instances((options.size, options.size), gt_boxes=Boxes(boxes), gt_classes=classes)
        batch.append({"image": 255 * scene.image, "instances": truth, "height": options.size, "width": options.size})
    return batch


def training(model: Any, batch: list[dict[str, Any]], storage: EventStorage) -> Callable[[], None]:
    """A function that takes one step each time, as detectron2's trainer does: losses, gradients, optimiser."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001, momentum=0.9)

    def step() -> None:
        model.train()
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        storage.step()

    return step


def predicting(model: Any, batch: list[dict[str, Any]]) -> Callable[[], None]:
    shown = [{key: value for key, value in image.items() if key != "instances"} for image in batch[:1]]

    @torch.no_grad()
    def look() -> None:
        model.eval()
        model(shown)

    return look


def fit(model: Any, batch: list[dict[str, Any]], size: int) -> None:
    """A decision for the heads of a model."""
    engine = OpenWorldRCNN.around(model, min_size=size, max_size=2 * size)
    regions = engine.regions([image["image"] / 255 for image in batch])
    fit_decision(engine.head.scorer, torch.cat([each.logits for each in regions]))


def works_of(options: argparse.Namespace, storage: EventStorage) -> list[Work]:
    """Training steps and predictions, each without and with the open-world parts."""
    train: dict[str, Callable[[], object]] = {}
    infer: dict[str, Callable[[], object]] = {}
    for name in ("detectron2's own", "open world"):
        open_world = name == "open world"
        torch.manual_seed(0)
        model = build_model(configuration(options, open_world=open_world))
        if open_world:
            model.roi_heads.first_task = False  # so that what was known before is looked at
        batch = scenes(options, open_world=open_world)
        train[name] = training(model, batch, storage)
        for _ in range(WARM):
            train[name]()
        watched = build_model(configuration(options, open_world=open_world))
        if open_world:
            fit(watched, batch, options.size)
        infer[name] = predicting(watched, batch)
    return [
        Work("training step", train, options.batch, goal=TRAIN_GOAL),
        Work("prediction", infer, 1, goal=INFER_GOAL),
    ]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    about, networks = __doc__.splitlines()[0], ("r18", "fpn", "c4")
    parser = parser_of(about, networks, "R18-FPN, R50-FPN or R50-C4", rounds=20)
    parser.add_argument("--proposals", type=int, default=300, help="proposals an image")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the processor's time: for busy machines, one thread"
    )
    options = options_of(parser, arguments)
    clock = time.process_time if options.cpu_time else time.perf_counter
    with EventStorage() as storage:
        works = works_of(options, storage)
        return compare(works, options, detector="detectron2's own Faster R-CNN", clock=clock)


if __name__ == "__main__":
    main()
