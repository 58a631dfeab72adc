"""`surnia demo`: pretrain on pictures made of real drawings and photographs, and show what the backbone has learned."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.manifold import TSNE
from torch import Tensor, nn

from apps.pretrain import training_section
from apps.recipes import load_recipe
from apps.report import Page
from apps.report.figures import bars, contact_sheet, embedding_map, neighbours
from detection.data.scenes import CropSet, cache_folder, make_crops
from sslcore.nn import build_backbone
from sslcore.pretrain.data import ImageArray, iterate_eval
from sslcore.pretrain.history import read_history
from sslcore.pretrain.probes.features import embed
from sslcore.pretrain.probes.knn import knn_accuracy
from sslcore.pretrain.probes.linear import linear_probe
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import Outcome, pretrain
from sslcore.storage import RunDirectory

TRAIN, TEST = 12_000, 2_500
NEIGHBOURS = 20
SHOWN = 8  # neighbours in a row of the report
PENALTIES = (1.0, 0.1, 0.01, 1e-3)  # the full search would take longer than the demo has


@dataclass
class Scores:
    """What one kind of features is worth on crops of drawings and photographs that were never trained on."""

    name: str
    knn: float
    linear: float
    train: Tensor
    test: Tensor


def run(
    run_dir: Path, *, command: list[str], seed: int = 0, steps: int | None = None, threads: int | None = None
) -> int:
    """The demo from beginning to end; returns the process's exit code."""
    console = Console()
    began = time.perf_counter()
    console.print(
        f"[bold]1/4[/] composing pictures: drawings on photographs (kept in {cache_folder()})", soft_wrap=True
    )
    train, test = make_crops("train", TRAIN, seed=seed), make_crops("test", TEST, seed=seed)

    threads = threads or idle_cores()
    changes = [f"--seed={seed}", f"--threads={threads}", *([f"--max_steps={steps}"] if steps else [])]
    recipe, text = load_recipe("demo", Recipe, changes)
    console.print(
        f"[bold]2/4[/] pretraining a small backbone on {len(train.images):,} crops, without their labels, "
        f"on {threads} CPU thread{'s' * (threads > 1)}"
    )
    images, held_out = as_array(train), as_array(test)
    with RunDirectory.create(run_dir, recipe=text, command=command, seed=seed) as directory:
        outcome = pretrain(recipe, directory, images=images, probe_images=held_out)
        directory.set_status("stopped" if outcome.stopped else "finished")
        if outcome.stopped:
            console.print(f"Stopped. What was trained so far is in {run_dir}; `surnia demo` starts anew.")
            return outcome.exit_code

        console.print("[bold]3/4[/] evaluating: raw pixels, the random network, the pretrained network")
        scores = evaluate(outcome, images, held_out, recipe)
        console.print("[bold]4/4[/] writing the report")
        write_report(directory.path, recipe, outcome, scores, train, test, command)
    show(console, scores, run_dir, time.perf_counter() - began)
    return 0


def idle_cores(seconds: float = 0.5) -> int:
    """Cores that nothing else uses just now: threads that have to wait for each other take ten times as long."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not Path("/proc/stat").exists():
        return cores
    before = _idle_time()
    time.sleep(seconds)
    idle = (_idle_time() - before) / os.sysconf("SC_CLK_TCK") / seconds
    return min(cores, max(1, round(idle)))


def _idle_time() -> int:
    """Of all cores together, in ticks of the kernel's clock."""
    return int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[4])


def as_array(crops: CropSet) -> ImageArray:
    return ImageArray(
        images=torch.from_numpy(crops.images),
        labels=torch.from_numpy(crops.labels),
        classes=crops.classes,
        name="crops",
    )


def evaluate(outcome: Outcome, train: ImageArray, test: ImageArray, recipe: Recipe) -> list[Scores]:
    """kNN and linear accuracy of three kinds of features; the random network is the one that training started from."""
    torch.manual_seed(recipe.seed)
    untrained = build_backbone(
        recipe.backbone.name, stem=recipe.backbone.stem, width=recipe.backbone.width, in_channels=train.channels
    )
    networks = {
        "raw pixels": nn.Flatten(),
        "random network": untrained,
        f"pretrained ({recipe.method.name})": outcome.module.method.encoder,
    }
    scores = []
    for name, network in networks.items():
        train_features, train_labels = features_of(network, train, outcome)
        test_features, test_labels = features_of(network, test, outcome)
        split = (train_features, train_labels, test_features, test_labels)
        knn = knn_accuracy(*split, k=NEIGHBOURS, temperature=0.07, classes=len(train.classes))
        linear = linear_probe(*split, classes=len(train.classes), seed=recipe.seed, penalties=PENALTIES, iterations=100)
        scores.append(Scores(name, knn, linear.top1, train_features, test_features))
    return scores


def features_of(network: nn.Module, images: ImageArray, outcome: Outcome) -> tuple[Tensor, Tensor]:
    view, device = outcome.module.eval_view, next(outcome.module.parameters()).device
    features, labels, _ = embed(network.to(device), iterate_eval(images, view, batch_size=500, device=device), device)
    assert labels is not None  # crops have them
    return features, labels


def write_report(
    run_dir: Path,
    recipe: Recipe,
    outcome: Outcome,
    scores: list[Scores],
    train: CropSet,
    test: CropSet,
    command: list[str],
) -> None:
    pretrained = scores[-1]
    page = Page(
        title="Surnia demo: a backbone from unlabelled pictures",
        lead=f"A network of {sum(p.numel() for p in outcome.module.method.encoder.parameters()):,} weights looked at "
        f"{len(train.images):,} unlabelled crops for {outcome.steps:,} steps, then had to tell {len(test.classes)} "
        "kinds of things apart in drawings and photographs that it had never seen.",
        footer=f"Seed {recipe.seed}. {outcome.images_per_second:,.0f} images a second. Run directory: {run_dir}. "
        f"Command: {' '.join(command)}. Drawings: Kenney (kenney.nl), CC0, and Luis Zuno (the car). "
        "Photographs: scikit-image and scikit-learn.",
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
    shown = rng.choice(len(train.images), 64, replace=False)
    page.figures((contact_sheet(train.images[shown], 16), "Training crops: pasted drawings on photographs, no labels."))

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

    page.section("With your own pictures")
    page.code(next_commands(run_dir))
    page.write(run_dir / "report.html")


def one_per_class(crops: CropSet, rng: np.random.Generator, count: int) -> np.ndarray:
    """Indices of one crop each of `count` classes."""
    classes = rng.choice(np.unique(crops.labels), count, replace=False)
    return np.array([rng.choice(np.flatnonzero(crops.labels == c)) for c in classes])


def neighbour_figure(scores: Scores, train: CropSet, test: CropSet, queries: np.ndarray) -> tuple[Figure, str]:
    """The nearest training crops of each query, and how often such neighbours are of the query's class."""
    bank = nn.functional.normalize(scores.train, dim=1)
    nearest = (nn.functional.normalize(scores.test, dim=1) @ bank.t()).topk(SHOWN).indices.numpy()
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


def next_commands(run_dir: Path) -> str:
    return (
        "surnia doctor --data DIR --write-recipe mine.yaml  # looks at a folder of images, writes a recipe for it\n"
        "surnia pretrain mine.yaml --run runs/mine          # trains on it\n"
        "surnia evaluate linear runs/mine --data DIR        # asks it, if some images have labels (class folders)\n"
        f"surnia embed {run_dir} --data DIR --out features.npz"
    )


def show(console: Console, scores: list[Scores], run_dir: Path, seconds: float) -> None:
    table = Table(title="Accuracy on held-out crops", title_justify="left")
    table.add_column("features")
    table.add_column("kNN", justify="right")
    table.add_column("linear", justify="right")
    for s in scores:
        table.add_row(s.name, f"{s.knn:.3f}", f"{s.linear:.3f}")
    console.print(table)
    console.print(f"Report: {run_dir / 'report.html'}   ({seconds / 60:.1f} minutes)", soft_wrap=True, highlight=False)
    console.print("\nWith your own pictures:", highlight=False)
    console.print(next_commands(run_dir), soft_wrap=True, highlight=False)
