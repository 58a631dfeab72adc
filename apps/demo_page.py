"""The report of `surnia demo`: what the backbone has learned, then what the detector on it makes of the unknown."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import nn

from apps.demo_detection import DETECTION, UNKNOWNS, Found, FoundGroups
from apps.demo_features import NEIGHBOURS, Scores
from apps.pretrain import training_section
from apps.report import Page
from apps.report.detection.progress import write_progress
from apps.report.detection.run import DetectionRun
from apps.report.detection.scenes import KINDS, write_scenes
from apps.report.detection.tables import how_measured, shown
from apps.report.figures import bars, contact_sheet, embedding_map, neighbours
from detection.data.scenes import CropSet
from detection.discovery.grouping import REST, Group
from detection.discovery.sheets import crop
from sslcore.pretrain.history import read_history
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import Outcome
from sslcore.storage import read_image

NEIGHBOURS_SHOWN = 8  # in a row
CROPS_SHOWN, CROP_SIDE = 12, 96
ROWS = (
    ("mAP of the known classes", "map_both", "share"),
    ("mAP of those of task 1", "of task 1", "share"),
    ("unknown objects among the 10 best unknown detections of an image", "u_recall_10", "share"),
    ("average precision of unknown", "u_ap", "share"),
    ("unknown objects called something known", "a_ose_objects", "count"),
)


# --- the backbone ----------------------------------------------------------------------------------------------------


def pretraining_page(
    run_dir: Path,
    recipe: Recipe,
    outcome: Outcome,
    scores: list[Scores],
    train: CropSet,
    test: CropSet,
    command: list[str],
) -> Page:
    """The page with everything about the backbone; the detector's sections are added to it later."""
    pretrained = scores[-1]
    rate = f" {outcome.images_per_second:,.0f} images a second." if outcome.images_per_second else ""
    page = Page(
        title="Surnia demo: from unlabelled pictures to an open world, and to acting in one",
        lead=f"A network of {sum(p.numel() for p in outcome.module.method.encoder.parameters()):,} weights looked at "
        f"{len(train.images):,} unlabelled crops for {outcome.module.plan.updates:,} steps, then had to tell "
        f"{len(test.classes)} kinds of things apart in drawings and photographs that it had never seen.",
        footer=f"Seed {recipe.seed}.{rate} Run directory: {run_dir}. Command: {' '.join(command)}. Drawings: Kenney "
        "(kenney.nl), CC0, and Luis Zuno (the car). Photographs: scikit-image and scikit-learn.",
    )
    page.section("Does it know more than before?")
    page.table(
        ["features", "kNN accuracy", "linear accuracy"],
        [[s.name, f"{s.knn:.3f}", f"{s.linear:.3f}"] for s in scores],
        best=max(range(len(scores)), key=lambda i: scores[i].knn),
        note=f"Share of {len(test.images):,} held-out crops whose class is named rightly. kNN: {NEIGHBOURS} weighted "
        "neighbours among the training crops. Linear: logistic regression on the frozen features. Labels serve only "
        "this.",
    )
    page.text(answer(scores))
    kinds = {s.name: [s.knn, s.linear] for s in scores}
    page.figures((bars(["kNN", "linear"], kinds, y="accuracy"), "Held-out accuracy of the three kinds of features."))

    page.section("What it looked at")
    rng = np.random.default_rng(recipe.seed)
    drawn = rng.choice(len(train.images), 64, replace=False)
    page.figures((contact_sheet(train.images[drawn], 16), "Training crops: pasted drawings on photographs, no labels."))

    page.section("How training went")
    training_section(page, outcome.module, read_history(run_dir))

    page.section("Nearest neighbours")
    page.text(
        "Left, a held-out crop; right, the training crops nearest to it, framed in green where they are of its class. "
        "The crops were drawn by lot, one from each of ten classes."
    )
    queries = one_per_class(test, rng, count=10)
    page.figures(*(neighbour_figure(s, train, test, queries) for s in scores[1:]))

    page.section("A map of the held-out crops")
    chosen = rng.choice(len(test.images), min(1500, len(test.images)), replace=False)
    points = TSNE(init="pca", random_state=recipe.seed, perplexity=30).fit_transform(
        nn.functional.normalize(pretrained.test[chosen], dim=1).numpy()
    )
    caption = (
        "t-SNE of the pretrained features: each crop among those that the network finds alike. It has seen no label."
    )
    page.figures((embedding_map(points, test.images[chosen]), caption))
    return page


def one_per_class(crops: CropSet, rng: np.random.Generator, count: int) -> np.ndarray:
    """Indices of one crop each of `count` classes."""
    classes = rng.choice(np.unique(crops.labels), count, replace=False)
    return np.array([rng.choice(np.flatnonzero(crops.labels == c)) for c in classes])


def neighbour_figure(scores: Scores, train: CropSet, test: CropSet, queries: np.ndarray) -> tuple[Figure, str]:
    """The nearest training crops of each query, and how often such neighbours are of the query's class."""
    bank = nn.functional.normalize(scores.train, dim=1)
    nearest = (nn.functional.normalize(scores.test, dim=1) @ bank.t()).topk(NEIGHBOURS_SHOWN).indices.numpy()
    right = train.labels[nearest] == test.labels[:, None]
    figure = neighbours(test.images[queries], train.images[nearest[queries]], right[queries], scores.name)
    return figure, f"{scores.name}: of all held-out crops' neighbours {right.mean():.0%} are of the crop's class."


def answer(scores: list[Scores]) -> str:
    """Whether pretraining helped, in a sentence that follows from the numbers."""
    pixels, random, pretrained = scores
    better = [s.name for s in (pixels, random) if pretrained.knn > s.knn and pretrained.linear > s.linear]
    if len(better) == 2:
        return (
            f"Yes: without a label it names {pretrained.knn:.0%} of the crops rightly by their neighbours, where raw "
            f"pixels name {pixels.knn:.0%} and the network before training {random.knn:.0%}; a linear layer on its "
            f"features reaches {pretrained.linear:.0%}, {pixels.linear:.0%} and {random.linear:.0%}."
        )
    if better:
        return f"Partly: it is ahead of the {better[0]} in both measures, but not of the other. Give it more steps."
    return "Not yet: it is not ahead in both measures of anything it is compared with. Give it more steps."


# --- the detector ----------------------------------------------------------------------------------------------------


def add_detection(page: Page, found: Found) -> None:
    """Task 1, its unknown objects, their groups, task 2."""
    run = DetectionRun.open(found.run_dir, found.data)
    later = run.tasks.current(2)
    page.lead += " " + lead(run)
    page.section("A detector on it, and what it does not know")
    page.text(
        "The pretrained network became the backbone of a Faster R-CNN, which was taught to find "
        f"{_words(run.tasks.current(1))} in scenes of OpenScenes. Objects of later tasks ({_words(later)} are those of "
        "the next) are in its training scenes too, but without a label. What looks like an object and like nothing it "
        "was taught it calls unknown. All scenes also hold things that no task ever labels, half of their kinds in the "
        "test only."
    )
    write_scenes(page, run, 1, kinds=KINDS[:1] + KINDS[2:])
    page.section("What it called unknown, in groups")
    add_groups(page, found.groups)
    page.section("More kinds of things")
    page.text(
        "Somebody tells it what some of them are. In real life that is a person, who types names into "
        f"{UNKNOWNS}/names.yaml beside this page, one for each group worth learning; `surnia detect learn` then makes "
        "the next task of them. In the demo nobody sits there, so that task 2 is OpenScenes' own: complete labels of "
        f"{_words(later)}. While it learns them it is shown a few exemplars of task 1 again."
    )
    add_numbers(page, run)
    if run.last > 1:
        write_progress(page, run, run.last)
    page.link("Everything about the detector: energies, curves, purity, map, training", f"{DETECTION}/report.html")


def lead(run: DetectionRun) -> str:
    """What came of the detector, in a sentence."""
    first, last = run.done[0]["strict"], run.done[-1]["strict"]
    kinds = [len(run.tasks.known(task)) for task in (1, run.last)]
    return (
        f"A detector on it learned {kinds[0]} kinds (mAP {shown(first['map_both'], 'share')}), flagged "
        f"{shown(first['u_recall_10'], 'share')} of the objects that it was never taught among its ten best unknown "
        f"detections of an image, and then knew {kinds[1]} kinds (mAP {shown(last['map_both'], 'share')})."
    )


def add_groups(page: Page, groups: FoundGroups | None) -> None:
    """A strip of crops for each of the largest groups, with what they really are."""
    if groups is None:
        page.text("Too few unknown objects were found to group them: the detector was trained for too few steps.")
        return
    named = [group for group in groups.grouping.groups if group.number != REST]
    real = sum(truth != "no object" for truth in groups.truths)
    page.text(
        f"In {groups.images:,} scenes it found {len(groups.unknowns):,} unknown objects "
        f"(at most three in each); {real / len(groups.unknowns):.0%} of them are objects (IoU at least .5), the others "
        f"distractors, parts of things or background. By their embeddings they were put into {len(named)} groups "
        "(k-means): below all of them, those nearest to a group's centre first, with what most of a group are "
        "according to the annotation, which the detector has never seen."
    )
    for group in named:
        page.figures(group_figure(groups, group))
    page.link("All groups, with everything in them", f"{UNKNOWNS}/index.html")


def group_figure(groups: FoundGroups, group: Group) -> tuple[Figure, str]:
    """The first crops of a group side by side."""
    tiles = []
    for thing in group.members[:CROPS_SHOWN].tolist():
        picture = read_image(groups.unknowns.path(int(groups.unknowns.box_image[thing]))).convert("RGB")
        tile = crop(picture, groups.unknowns.boxes[thing].tolist(), side=CROP_SIDE)
        tiles.append(np.asarray(tile).transpose(2, 0, 1))
    figure = contact_sheet(np.stack(tiles), CROPS_SHOWN, zoom=9.6 / CROPS_SHOWN)
    parts = ", ".join(f"{share:.0%} {name}" for name, share in groups.mostly(group))
    return figure, f"Group {group.number}: {len(group)} objects; {parts}."


def add_numbers(page: Page, run: DetectionRun) -> None:
    """The few figures that tell the story."""
    by_task = run.results["forgetting"]["strict"]["map_by_task"]
    measured = [{**task["strict"], "of task 1": of[0]} for task, of in zip(run.done, by_task, strict=True)]
    rows = [[name, *(shown(task.get(key), form) for task in measured)] for name, key, form in ROWS]
    header = ["on test scenes", *(f"after task {task['task']}" for task in run.done)]
    page.table(header, rows, note=how_measured(run))


def _words(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


# --- what next -------------------------------------------------------------------------------------------------------


def add_commands(page: Page, run_dir: Path) -> None:
    page.section("With your own pictures")
    page.code(next_commands(run_dir))


def next_commands(run_dir: Path) -> str:
    """What to type for one's own pictures."""
    detector = run_dir / DETECTION
    return (
        "# a folder of images: looks at it, writes a recipe for it, trains a backbone without labels\n"
        "surnia doctor --data DIR --write-recipe mine.yaml\n"
        "surnia pretrain mine.yaml --run runs/mine\n"
        "# annotated images and a task file: a recipe for a detector, and the detector\n"
        "surnia doctor --data DIR --tasks TASKS.yaml --write-recipe detection.yaml\n"
        "surnia detect train detection.yaml --run runs/my-detector\n"
        "# what this demo's detector does not know in other pictures, in groups for you to name; then it learns them\n"
        f"surnia detect unknowns {detector} DIR --out unknowns\n"
        f"surnia detect learn {detector} unknowns/names.yaml\n"
        "# an agent for an environment that you name in a recipe like this one\n"
        "surnia recipes pixelreach > mine.yaml; surnia control train mine.yaml"
    )
