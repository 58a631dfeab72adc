"""What is right and wrong about the detections in a test image."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from apps.report.detection.run import DetectionRun
from detection.evaluation.comparison import Comparison, rank_within
from detection.evaluation.matching import Pairs, overlapping
from detection.evaluation.strict import IOU, Judged, judge

KNOWN_SCORE = 0.3
UNKNOWN_BEST = 3
"""Known detections of at least this score are shown, and of unknown ones each image's best."""

Kind = Literal["known", "found", "open-set", "no object", "wrong"]
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """One detection: what it says, what it is, and what really lies there.

    Attributes:
        kind: "known" a known object named rightly, "found" an unknown object flagged, "open-set" an unknown object
            called something known, "no object" an unknown detection where there is none, "wrong" anything else.
        box: left, top, right, bottom.
        label: of the label space of the task.
        name, score, posterior: as detected.
        truth: what lies there, in a word or two.
    """

    kind: Kind
    box: tuple[float, ...]
    label: int
    name: str
    score: float
    posterior: float
    truth: str


@dataclass
class Judgement:
    """All of one image: its verdicts by falling score, and the objects that none of them is right about."""

    image: int
    verdicts: list[Verdict] = field(default_factory=list)
    missed: list[tuple[str, bool, tuple[float, ...]]] = field(default_factory=list)  # name, whether unknown, box

    def count(self, kind: Kind) -> int:
        return sum(verdict.kind == kind for verdict in self.verdicts)

    @property
    def missed_unknown(self) -> int:
        return sum(unknown for _, unknown, _ in self.missed)


def strongest(compared: Comparison) -> Comparison:
    """With those detections that a person would look at: known ones of a good score, each image's best unknown ones."""
    found = compared.found
    unknown = found.label == compared.unknown
    kept = ~unknown & (found.scores >= KNOWN_SCORE)
    rows = np.flatnonzero(unknown)
    kept[rows[rank_within(found.image[rows], found.scores[rows]) < UNKNOWN_BEST]] = True
    return replace(compared, found=found[kept])


def judge_images(run: DetectionRun, task: int) -> list[Judgement] | None:
    """Every test image after a task, with its strongest detections; None if data or detections are gone."""
    compared = run.comparison(task)
    if compared is None:
        return None
    compared = strongest(compared)
    assert run.data is not None
    test = run.data.test
    names = [run.tasks.canonical(test.categories[category]) for category in test.box_category.tolist()]
    judged = judge(compared)
    judgements = [Judgement(image) for image in range(compared.images)]
    for image, verdict in _verdicts(compared, judged, names):
        judgements[image].verdicts.append(verdict)
    for row in _missed(compared, judged):
        unknown = bool(compared.truths.label[row] == compared.unknown)
        box = tuple(compared.truths.boxes[row].tolist())
        judgements[compared.truths.image[row]].missed.append((names[row], unknown, box))
    return judgements


def _verdicts(compared: Comparison, judged: Judged, names: list[str]) -> Iterable[tuple[int, Verdict]]:
    found = judged.found
    under = _best(overlapping(found.image, found.boxes, compared.truths.image, compared.truths.boxes, above=IOU), found)
    pasted = overlapping(found.image, found.boxes, compared.distractor_image, compared.distractors, above=IOU)
    on_distractor = _best(pasted, found) >= 0
    for i in range(len(found)):
        unknown = bool(found.label[i] == compared.unknown)
        row = int(under[i])
        on_unknown = row >= 0 and compared.truths.label[row] == compared.unknown
        truth = names[row] if row >= 0 else "distractor" if on_distractor[i] else "background"
        kind: Kind
        if judged.right[i]:
            kind = "found" if unknown else "known"
        elif not unknown:
            kind = "open-set" if on_unknown else "wrong"
        else:
            kind = "no object" if row < 0 else "wrong"
        yield (
            int(found.image[i]),
            Verdict(
                kind=kind,
                box=tuple(found.boxes[i].tolist()),
                label=1 if unknown else 2 + int(found.label[i]),
                name=UNKNOWN if unknown else compared.names[found.label[i]],
                score=float(found.scores[i]),
                posterior=float(found.posteriors[i]) if found.posteriors is not None else float("nan"),
                truth=truth,
            ),
        )


def _best(pairs: Pairs, found: Any) -> np.ndarray:
    """The box that each detection overlaps most; -1 where there is none."""
    best = np.full(len(found), -1, dtype=np.int64)
    order = np.argsort(pairs.overlap, kind="stable")
    best[pairs.detection[order]] = pairs.truth[order]
    return best


def _missed(compared: Comparison, judged: Judged) -> list[int]:
    """Objects, without crowds and difficult ones, of whose label no right detection lies on them."""
    truths, found = compared.truths, judged.found
    pairs = overlapping(found.image, found.boxes, truths.image, truths.boxes, above=IOU)
    same = found.label[pairs.detection] == truths.label[pairs.truth]
    hit = np.zeros(len(truths.label), dtype=bool)
    hit[pairs.truth[same]] = True
    return np.flatnonzero(~hit & ~truths.crowd & ~truths.difficult).tolist()
