"""What the open-world parts add to a training step and to inference of the same detector without them.

    python benchmarks/openworld_overhead.py --threads 1                       # tiny, 160 pixels, batch 8: a minute
    python benchmarks/openworld_overhead.py --network resnet18_fpn --size 320 --batch 2
    python benchmarks/openworld_overhead.py --threads 1 --runs PLAIN OURS --images FOLDER --task 4

The detector with all parts labels unknown proposals, leaves out those that the previous task's model calls known,
counts what the labelled ones really lie on, and takes the clustering loss; it remembers features and refreshes
prototypes; at inference its fitted decision is used. The plain one has none of these. Both are trained on the same
scenes with the same seed, alternating within one process, so that whatever else the machine does disturbs both alike;
the overhead is the median of each round's ratio. What the previous model costs that names the old classes is not part
of it: its detections are made once a task.

With `--runs`, predictions of two trained detectors on the images of a folder are compared instead, the first one
trained without these parts: on scenes that they were made for, both find objects, and suppression has its usual work.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from overhead import (
    CLASSES,
    INFER_GOAL,
    LABELLED,
    TRAIN_GOAL,
    UNLABELLED,
    Work,
    compare,
    drawn_scenes,
    fit_decision,
    options_of,
    parser_of,
)
from torch import Tensor

from detection.detector import OpenWorldDetector, as_tensor
from detection.engines.settings import NetworkSettings
from detection.engines.torchvision import OpenWorldFasterRCNN, build_detector
from detection.openworld.head import OpenWorldHead
from detection.openworld.purity import CURRENT, UNKNOWN_KIND
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.structures import FIRST_KNOWN, Target
from detection.training.batches import Batch
from detection.training.callbacks import PurityWatch
from sslcore.storage import list_images

FORMS = ("plain", "open world")
WARM = 150
"""Steps before anything is measured: prototypes and rings are filled, and the plain detector finds objects. After 30
it finds none, has nothing to suppress, and is faster than one that is of use."""


def network_settings(name: str, size: int) -> NetworkSettings:
    """The small benchmark's network, or the usual one at this size."""
    if name == "tiny":
        return NetworkSettings(
            name="tiny",
            pyramid=64,
            representation=512,
            min_size=size,
            max_size=size,
            anchors=[16, 32, 64],
            ratios=[1 / 3, 0.5, 1.0, 2.0, 3.0],
            proposals_train=200,
            proposals_test=100,
        )
    return NetworkSettings(name=name, norm="frozen", min_size=size, max_size=2 * size)  # type: ignore[arg-type]


def detector(options: argparse.Namespace, *, open_world: bool) -> OpenWorldFasterRCNN:
    """With all open-world parts, or the same network without them."""
    settings = network_settings(options.network, options.size)
    head = OpenWorldHead(
        [f"class {i}" for i in range(CLASSES)],
        settings.representation,
        unknowns=UnknownSettings(per_image=2 if open_world else 0),
        clustering=ClusteringSettings(loss=options.clustering if open_world else "none"),
        decision=DecisionSettings(fit="known" if open_world else "none"),
        regions=options.regions,
        positive=0.25,
        seed=0,
    )
    return build_detector(settings, head, seed=0).to(options.device)


@dataclass
class Complete:
    """The complete annotation of the scenes, as `detection.training.truth` has it of real images."""

    boxes: list[Tensor]
    kinds: Tensor = field(default_factory=lambda: torch.tensor([CURRENT] * LABELLED + [UNKNOWN_KIND] * UNLABELLED))

    def judges(self, index: int) -> bool:
        return True

    def of(self, index: int) -> tuple[Tensor, Tensor]:
        return self.boxes[index], self.kinds


def scenes(options: argparse.Namespace) -> tuple[list[Tensor], list[Target], Complete]:
    """Images with labelled and unlabelled objects, as the detector takes them."""
    images, targets, complete = [], [], []
    for key, scene in enumerate(drawn_scenes(options.batch, options.size)):
        images.append(scene.image.to(options.device))
        complete.append(scene.boxes)
        crowd = torch.zeros(LABELLED, dtype=torch.bool)
        target = Target(scene.boxes[:LABELLED], FIRST_KNOWN + scene.classes, crowd, key)
        targets.append(target.to(options.device))
    return images, targets, Complete(complete)


def training(
    model: OpenWorldFasterRCNN,
    images: list[Tensor],
    targets: list[Target],
    previous: list[Tensor] | None,
    watch: PurityWatch | None,
) -> Callable[[], None]:
    """A function that takes one whole step each time: losses, gradients, optimiser, memory, and what is counted."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    count = 0

    def step() -> None:
        nonlocal count
        model.train()
        out = model.losses(images, targets, step=count, progress=1.0, previous=previous)
        if watch is not None:
            watch.count(Batch(images, targets, count, [False] * len(images)), out)
        optimizer.zero_grad()
        sum(out.losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        model.head.remember(*out.to_remember)
        count += 1

    return step


def works_of(options: argparse.Namespace) -> list[Work]:
    """Training steps and predictions, each without and with the open-world parts."""
    images, targets, complete = scenes(options)
    train: dict[str, Callable[[], object]] = {}
    infer: dict[str, Callable[[], object]] = {}
    shown = images[: options.shown]
    weights: dict[str, Tensor] = {}
    for name in FORMS:
        open_world = name == "open world"
        model = detector(options, open_world=open_world)
        previous = [target.boxes[:1] + 3.0 for target in targets] if open_world else None
        train[name] = training(model, images, targets, previous, PurityWatch(complete, 0.0) if open_world else None)
        for _ in range(WARM):
            train[name]()
        # Another model for looking, because steps go on changing this one; both look with the same weights.
        watched = detector(options, open_world=open_world)
        weights = weights or {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
        watched.load_state_dict(weights, strict=False)
        if open_world:
            fit_decision(watched.head.scorer, torch.cat([region.logits for region in watched.regions(images)]))
        infer[name] = partial(watched.predict, shown)
    return [
        Work("training step", train, options.batch, goal=TRAIN_GOAL),
        Work("prediction", infer, options.shown, calls=4, goal=INFER_GOAL),
    ]


def trained(options: argparse.Namespace) -> list[Work]:
    """Predictions of the runs' detectors on the folder's first images, all of them each time, one by one."""
    paths = list_images(options.images)[: options.count]
    if not paths:
        raise SystemExit(f"{options.images} holds no image")
    images = [as_tensor(path) for path in paths]
    forms: dict[str, Callable[[], object]] = {}
    for name, run in zip(FORMS, options.runs, strict=True):
        detector = OpenWorldDetector.load(run, task=options.task, device=options.device)
        found = [len(detections.labels) for detections in detector.predict(images)]
        print(f"{name}: {run}, {sum(found) / len(found):.1f} boxes an image. {detector.status}")
        forms[name] = partial(detector.predict, images, batch_size=1)
    return [Work("prediction", forms, len(images), goal=INFER_GOAL, of=f"trained detectors, {len(images)} images")]


def main(arguments: list[str] | None = None) -> dict:
    parser = parser_of(__doc__.splitlines()[0], ("tiny", "resnet18_fpn", "resnet50_fpn"), rounds=40)
    parser.add_argument("--shown", type=int, default=1, help="images a prediction, at most the batch")
    parser.add_argument("--runs", nargs=2, metavar=("PLAIN", "OURS"), help="compare these trained detectors")
    parser.add_argument("--images", help="folder of the images that the runs' detectors look at")
    parser.add_argument("--count", type=int, default=40, help="images of it")
    parser.add_argument("--task", type=int, help="the runs' detectors after this task; left out: after the last")
    options = options_of(parser, arguments)
    if bool(options.runs) != bool(options.images):
        parser.error("--runs and --images belong together")
    return compare(trained(options) if options.runs else works_of(options), options)


if __name__ == "__main__":
    main()
