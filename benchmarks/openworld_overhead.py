"""What the open-world parts add to a training step and to inference of the same detector without them.

    python benchmarks/openworld_overhead.py --threads 1                       # tiny, 160 pixels, batch 8: a minute
    python benchmarks/openworld_overhead.py --network resnet18_fpn --size 320 --batch 2

The detector with all parts labels unknown proposals, leaves out those that the previous task's model calls known,
counts what the labelled ones really lie on, and takes the clustering loss; it remembers features and refreshes
prototypes; at inference its fitted decision is used. The plain one has none of these. Both are trained on the same
scenes with the same seed, alternating within one process, so that whatever else the machine does disturbs both alike;
the overhead is the median of each round's ratio. What the previous model costs that names the old classes is not part
of it: its detections are made once a task.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from alternate import Forms, hardware, measure, table
from torch import Tensor

from detection.engines.settings import NetworkSettings
from detection.engines.torchvision import OpenWorldFasterRCNN, build_detector
from detection.openworld.head import OpenWorldHead
from detection.openworld.purity import CURRENT, UNKNOWN_KIND
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.structures import FIRST_KNOWN, Target
from detection.training.batches import Batch
from detection.training.callbacks import PurityWatch

CLASSES = 14
TRAIN_GOAL, INFER_GOAL = 0.05, 0.03
WARM = 30
"""Steps before anything is measured: prototypes and rings are filled, and proposals look for objects."""


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
    kinds: Tensor = field(default_factory=lambda: torch.tensor([CURRENT] * 4 + [UNKNOWN_KIND] * 3))

    def of(self, index: int) -> tuple[Tensor, Tensor]:
        return self.boxes[index], self.kinds


def scenes(options: argparse.Namespace) -> tuple[list[Tensor], list[Target], Complete]:
    """Noise with bright boxes: four labelled and three unlabelled objects an image."""
    generator = torch.Generator().manual_seed(0)
    images, targets, complete = [], [], []
    for key in range(options.batch):
        image = 0.3 * torch.rand(3, options.size, options.size, generator=generator)
        corner = torch.rand(7, 2, generator=generator) * 0.7 * options.size
        boxes = torch.cat([corner, corner + (0.1 + 0.2 * torch.rand(7, 2, generator=generator)) * options.size], dim=1)
        for (x1, y1, x2, y2), colour in zip(boxes.int().tolist(), torch.rand(7, 3, generator=generator)):
            image[:, y1:y2, x1:x2] = colour[:, None, None]
        labels = torch.randint(FIRST_KNOWN, FIRST_KNOWN + CLASSES, (4,), generator=generator)
        images.append(image.to(options.device))
        complete.append(boxes)
        targets.append(Target(boxes[:4], labels, torch.zeros(4, dtype=torch.bool), key).to(options.device))
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


def fit(model: OpenWorldFasterRCNN, images: list[Tensor]) -> None:
    """A decision to be used; what it says does not matter for the time that it takes."""
    scorer = model.head.scorer
    evidence = scorer.evidence(torch.cat([region.logits for region in model.regions(images)]))
    order = evidence.sort().values
    report = scorer.fit(order[: len(order) // 2], order[len(order) // 2 :], source="the benchmark")
    if not scorer.fitted:
        raise SystemExit(f"the decision could not be fitted, so that there is nothing to measure: {report}")


def forms_of(options: argparse.Namespace) -> tuple[Forms, Forms]:
    """Training steps and predictions, each with and without the open-world parts."""
    images, targets, complete = scenes(options)
    train: dict[str, Callable[[], object]] = {}
    infer: dict[str, Callable[[], object]] = {}
    shown = images[: options.shown]
    weights: dict[str, Tensor] = {}
    for name in ("plain", "open world"):
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
            fit(watched, images)
        infer[name] = partial(watched.predict, shown)
    return train, infer


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--network", choices=("tiny", "resnet18_fpn", "resnet50_fpn"), default="tiny")
    parser.add_argument("--size", type=int, default=160, help="side of the images")
    parser.add_argument("--batch", type=int, default=8, help="images a training step")
    parser.add_argument("--shown", type=int, default=1, help="images a prediction, at most the batch")
    parser.add_argument("--regions", type=int, default=64, help="regions an image in training")
    parser.add_argument("--clustering", choices=("hinge", "infonce"), default="infonce")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    train, infer = forms_of(options)
    print(hardware(device), end="\n\n")
    result: dict = {"hardware": hardware(device), **vars(options)}
    for name, forms, items, goal in (
        ("training step", train, options.batch, TRAIN_GOAL),
        ("prediction", infer, options.shown, INFER_GOAL),
    ):
        rows = measure(
            forms, rounds=options.rounds, device=device, calls=1 if name == "training step" else 4, items=items
        )
        overhead = rows[1]["times_ours"] - 1
        print(table(f"{name}, {options.network}, {items} x {options.size} pixels", rows))
        print(f"open-world parts add {overhead:+.1%} to a {name} (goal: at most {goal:.0%})\n")
        result[name] = {"rows": rows, "overhead": overhead, "goal": goal}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return result


if __name__ == "__main__":
    main()
