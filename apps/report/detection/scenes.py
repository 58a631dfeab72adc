"""Pictures of test scenes with what was found in them, what was missed and what was wrong; drawn by lot."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from apps.report.detection.run import DetectionRun
from apps.report.detection.verdicts import KNOWN_SCORE, UNKNOWN, UNKNOWN_BEST, Judgement, Kind, Verdict, judge_images
from apps.report.page import Page
from detection.data.annotations import AnnotationSet
from detection.structures import Detections
from detection.visualize import draw
from sslcore.errors import SurniaError
from sslcore.storage import read_image

EACH = 3
"""Pictures of each kind."""
SIDE = 320
"""Longer side of a picture, in its own pixels and on the page: three stand side by side, with readable letters."""
_MISS = "#ff2d55"

Is = Callable[[Judgement], bool]
KINDS: tuple[tuple[str, Is], ...] = (
    ("Unknown objects found", lambda j: j.count("found") > 0),
    ("Unknown objects there, and none found", lambda j: not j.count("found") and j.missed_unknown > 0),
    ("Unknown objects called something known (open-set errors)", lambda j: j.count("open-set") > 0),
    ("Called unknown where there is no object", lambda j: j.count("no object") > 0),
)  # fmt: skip


def write_scenes(
    page: Page, run: DetectionRun, task: int, *, each: int = EACH, kinds: Sequence[tuple[str, Is]] = KINDS
) -> None:
    """Some pictures of each kind, and how frequent the kind is."""
    judgements = judge_images(run, task)
    if judgements is None or run.data is None:
        page.text("No pictures: the test images or the detections in them are not there any more.")
        return
    page.text(
        f"After task {task}, drawn by lot among the test images of each kind; no picture was picked by hand. Shown are "
        f"known detections of a score of at least {KNOWN_SCORE:g}, in the colour of their class, and of each image the "
        f"{UNKNOWN_BEST} best unknown ones, dashed in black and white with the probability of being unknown. Dotted "
        "red: objects that no right detection lies on (IoU below .5)."
    )
    lot = np.random.default_rng(run.results["seed"]).permutation(len(judgements)).tolist()
    used: set[int] = set()
    for name, is_one in kinds:
        of_kind = [judgements[i] for i in lot if is_one(judgements[i])]
        fresh = [judgement for judgement in of_kind if judgement.image not in used][:each]
        used |= {judgement.image for judgement in fresh}
        page.subheading(f"{name}: {len(of_kind)} of {len(judgements)} images")
        if not fresh:
            page.text("None." if not of_kind else "All of them are shown already.")
            continue
        pictures = [(picture(run.data.test, j, run.tasks.label_names(task)), caption(j)) for j in fresh]
        page.pictures(*pictures)


def picture(images: AnnotationSet, judgement: Judgement, names: Sequence[str]) -> Image.Image:
    """A test image with its detections, and with the missed objects dotted; without the image a grey one."""
    record = images.images[judgement.image]
    try:
        source = read_image(images.path(judgement.image))
    except SurniaError:
        source = Image.new("RGB", (record.width, record.height), "#c8ced6")
    scale = SIDE / max(source.size)
    size = (round(source.width * scale), round(source.height * scale))
    source = source.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(source)
    for _, _, box in judgement.missed:
        _dotted(pen, [round(side * scale) for side in box])
    return draw(source, as_detections(judgement.verdicts, scale), names, enlarge=False)


def as_detections(verdicts: Sequence[Verdict], scale: float = 1.0) -> Detections:
    """The same as tensors, their boxes enlarged."""
    boxes = torch.tensor([verdict.box for verdict in verdicts], dtype=torch.float32).reshape(-1, 4) * scale
    scores = torch.tensor([verdict.score for verdict in verdicts])
    return Detections(
        boxes=boxes,
        labels=torch.tensor([verdict.label for verdict in verdicts], dtype=torch.int64),
        scores=scores,
        energies=torch.zeros(len(verdicts)),
        posteriors=torch.tensor([verdict.posterior for verdict in verdicts]),
        embeddings=torch.zeros(len(verdicts), 0),
    )


def _dotted(pen: ImageDraw.ImageDraw, box: Sequence[int], *, gap: int = 7) -> None:
    left, top, right, bottom = (box[0], box[1], box[2] - 3, box[3] - 3)
    along_x = [(x, y) for y in (top, bottom) for x in range(left, right, gap)]
    along_y = [(x, y) for x in (left, right) for y in range(top, bottom, gap)]
    for x, y in along_x + along_y:
        pen.rectangle([x, y, x + 2, y + 2], fill=_MISS)


def caption(judgement: Judgement) -> str:
    """What is what, in words."""

    def of(kind: Kind) -> list[Verdict]:
        return [verdict for verdict in judgement.verdicts if verdict.kind == kind]

    sentences = [
        _listed("Named rightly", Counter(v.name for v in of("known"))),
        _listed("Unknown found", [f"{_said(v)} is {_a(v.truth)}" for v in of("found")]),
        _listed("Open-set error", [f"{_said(v)} is an unknown {v.truth}" for v in of("open-set")]),
        _listed("No object", Counter(f"unknown on {v.truth}" for v in of("no object"))),
        _listed("Wrong", Counter(_wrong(v) for v in of("wrong"))),
        _listed("Missed", Counter(f"{name} (unknown)" if unknown else name for name, unknown, _ in judgement.missed)),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _wrong(verdict: Verdict) -> str:
    if verdict.name == verdict.truth:
        return f"{verdict.name} found once more"
    place = _a(verdict.truth) if verdict.truth not in ("background", "distractor") else verdict.truth
    return f"{verdict.name} on {place}"


def _a(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _said(verdict: Verdict) -> str:
    value = verdict.posterior if verdict.name == UNKNOWN else verdict.score
    return f"{verdict.name} {value:.2f}" if np.isfinite(value) else verdict.name


def _listed(what: str, parts: Sequence[str] | Counter[str]) -> str:
    counts = parts if isinstance(parts, Counter) else Counter(dict.fromkeys(parts, 1))
    words = [part if count == 1 else f"{part} ({count} times)" for part, count in counts.items()]
    return f"{what}: {', '.join(words)}." if words else ""
