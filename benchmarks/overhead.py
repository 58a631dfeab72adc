"""What the benchmarks of the open-world parts' overhead share: options, scenes, a decision, and what is printed.

Detectors with and without these parts take their turns within one process, so that whatever else the machine does
disturbs both alike; the overhead is the median of each round's ratio.
"""

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from alternate import Forms, hardware, measure, table
from torch import Tensor

from detection.openworld.energy_scorer import EnergyScorer

CLASSES = 14
LABELLED, UNLABELLED = 4, 3
"""Objects in each image."""
TRAIN_GOAL, INFER_GOAL = 0.05, 0.03
"""Shares that the open-world parts may add to a training step and to a prediction, whichever the engine."""


def parser_of(about: str, networks: Sequence[str], meaning: str | None = None, *, rounds: int) -> ArgumentParser:
    """Takes the options that all these commands have; `about` is of the command, `meaning` of its networks."""
    parser = ArgumentParser(description=about, allow_abbrev=False)
    parser.add_argument("--network", choices=networks, default=networks[0], help=meaning)
    parser.add_argument("--size", type=int, default=160, help="side of the images")
    parser.add_argument("--batch", type=int, default=8, help="images a training step")
    parser.add_argument("--regions", type=int, default=64, help="regions an image in training")
    parser.add_argument("--clustering", choices=("hinge", "infonce"), default="infonce")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the numbers to this file")
    return parser


def options_of(parser: ArgumentParser, arguments: list[str] | None) -> Namespace:
    """What was given; the threads are set."""
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


class Scene(NamedTuple):
    """An image, (3, size, size) in [0, 1], the boxes of its objects, labelled ones first, and the former's classes."""

    image: Tensor
    boxes: Tensor
    classes: Tensor


def drawn_scenes(count: int, size: int) -> Iterator[Scene]:
    """Noise with bright boxes, the same ones each time."""
    generator, objects = torch.Generator().manual_seed(0), LABELLED + UNLABELLED
    for _ in range(count):
        image = 0.3 * torch.rand(3, size, size, generator=generator)
        corner = torch.rand(objects, 2, generator=generator) * 0.7 * size
        boxes = torch.cat([corner, corner + (0.1 + 0.2 * torch.rand(objects, 2, generator=generator)) * size], dim=1)
        for (x1, y1, x2, y2), colour in zip(boxes.int().tolist(), torch.rand(objects, 3, generator=generator)):
            image[:, y1:y2, x1:x2] = colour[:, None, None]
        yield Scene(image, boxes, torch.randint(CLASSES, (LABELLED,), generator=generator))


def fit_decision(scorer: EnergyScorer, logits: Tensor) -> None:
    """A decision to be used; what it says does not matter for the time that it takes."""
    order = scorer.evidence(logits).sort().values
    report = scorer.fit(order[: len(order) // 2], order[len(order) // 2 :], source="the benchmark")
    if not scorer.fitted:
        raise SystemExit(f"the decision could not be fitted, so that there is nothing to measure: {report}")


@dataclass(frozen=True)
class Work:
    """What both detectors do.

    Attributes:
        name: in words, without an article.
        forms: without the open-world parts, and with them.
        items: images each time.
        calls: times in a round.
        goal: the share that the open-world parts may add; None: there is none.
        of: which detectors, and what they look at; empty: as the options say.
    """

    name: str
    forms: Forms
    items: int
    calls: int = 1
    goal: float | None = None
    of: str = ""


def compare(
    works: Sequence[Work],
    options: Namespace,
    *,
    detector: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measures and prints what the open-world parts add, and writes it where the options say.

    Args:
        works: what is measured.
        options: of `options_of`.
        detector: whose work it is, as sentences call it.
        clock: see `measure`.

    Returns:
        The numbers.
    """
    device = torch.device(options.device)
    print(hardware(device), end="\n\n")
    result: dict[str, Any] = {"hardware": hardware(device), **vars(options)}
    for work in works:
        rows = measure(
            work.forms, rounds=options.rounds, device=device, calls=work.calls, items=work.items, clock=clock
        )
        overhead = rows[1]["times_ours"] - 1
        of = f" of {detector}" if detector else ""
        goal = f" (goal: at most {work.goal:.0%})" if work.goal is not None else ""
        print(table(f"{work.name}, {work.of or f'{options.network}, {work.items} x {options.size} pixels'}", rows))
        print(f"open-world parts add {overhead:+.1%} to a {work.name}{of}{goal}\n")
        result[work.name] = {"rows": rows, "overhead": overhead, "goal": work.goal}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return result
