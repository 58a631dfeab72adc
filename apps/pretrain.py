"""`surnia pretrain`: a run from a recipe, its report, and what to type next."""

import math
import os
import resource
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from apps.report import Page
from apps.report.figures import curve
from sslcore.pretrain.loop import Plan, Pretraining
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import Outcome, is_first_process, pretrain
from sslcore.storage import RunDirectory

DRY_STEPS = 5
RUN_DIR = "SURNIA_RUN_DIR"  # tells processes that Lightning starts which directory the first one chose


def run(recipe: Recipe, *, run_dir: Path, recipe_text: str, command: list[str], resume: bool, dry_run: bool) -> int:
    """Train in `run_dir`; returns the process's exit code, 128 + n after signal n."""
    if dry_run:
        return rehearse(recipe)
    if not is_first_process():  # takes part, and leaves writing to the first
        return pretrain(recipe, Path(os.environ.get(RUN_DIR, run_dir)), resume=resume, quiet=True).exit_code
    os.environ[RUN_DIR] = str(run_dir)

    opened = (
        RunDirectory.open(run_dir)
        if resume
        else RunDirectory.create(run_dir, recipe=recipe_text, command=command, seed=recipe.seed)
    )
    with opened as directory:
        outcome = pretrain(recipe, directory, resume=resume)
        directory.set_status("stopped" if outcome.stopped else "finished")
        if outcome.steps and not outcome.stopped:
            write_report(recipe, outcome, directory.path)
    summarise(recipe, outcome, run_dir)
    return outcome.exit_code


def summarise(recipe: Recipe, outcome: Outcome, run_dir: Path) -> None:
    console = Console()
    if outcome.stopped:
        console.print(f"Stopped with a checkpoint at {outcome.checkpoint}. Go on with:", soft_wrap=True)
        console.print(f"  surnia pretrain --resume {run_dir}", soft_wrap=True, highlight=False)
        return
    if outcome.steps:
        console.print(f"{outcome.steps} steps at {outcome.images_per_second:,.0f} images/s.", highlight=False)
    else:
        console.print("The run was finished already; nothing was left to train.")
    if outcome.bad_images:
        console.print(f"{len(outcome.bad_images)} unreadable images were skipped; they are named above.")
    if outcome.knn:
        console.print(f"kNN accuracy {outcome.knn[-1][1]:.3f} after epoch {outcome.knn[-1][0]:.1f}", highlight=False)
    console.print(f"Report: {run_dir / 'report.html'}\nNext:", soft_wrap=True, highlight=False)
    console.print(f"  surnia evaluate knn {run_dir} --data DIR", soft_wrap=True, highlight=False)
    if recipe.backbone.name.startswith("resnet"):  # the others have no counterpart elsewhere
        export = f"  surnia export {run_dir} --to torchvision --out backbone.safetensors"
        console.print(export, soft_wrap=True, highlight=False)


def write_report(recipe: Recipe, outcome: Outcome, run_dir: Path) -> None:
    """`report.html` of a run: curves, diagnostics, and the recipe that made them."""
    page = Page(
        title=f"Pretraining: {recipe.method.name} on {recipe.data.path or recipe.data.kind}",
        lead=f"{outcome.steps} optimiser steps of {recipe.batch_size * recipe.accumulate} images, "
        f"{outcome.images_per_second:,.0f} images a second, seed {recipe.seed}.",
        footer=f"Run directory {run_dir}. The resolved recipe is recipe.yaml beside this page.",
    )
    page.section("Loss")
    loss_section(page, outcome.module, outcome)
    if outcome.knn:
        page.section("Nearest neighbours' accuracy")
        page.figures((curve(outcome.knn, x="epoch", y="kNN accuracy", marked=True), "Weighted kNN on held-out images."))
    if outcome.health:
        page.section("Diagnostics")
        diagnostics_section(page, outcome)
    page.write(run_dir / "report.html")


def loss_section(page: Page, module: Pretraining, outcome: Outcome) -> None:
    chance = module.method.chance(module.recipe.batch_size)
    figures = []
    for name, values in outcome.terms.items():
        level = (chance[name], f"chance {chance[name]:.2f}") if name in chance else None
        caption = f"Mean training loss{'' if name == 'loss' else f', {name} term'}."
        if level:
            caption += " The dashed line is its value when embeddings carry no information."
        figures.append((curve(values, x="step", y=name, level=level), caption))
    page.figures(*figures)


def diagnostics_section(page: Page, outcome: Outcome) -> None:
    """Std, RankMe, alignment and uniformity over the epochs; what they can tell and what not."""
    health = outcome.health
    dim = health[-1].dim
    std = [(i + 1, h.std) for i, h in enumerate(health)]
    rank = [(i + 1, h.rank_me) for i, h in enumerate(health)]
    alignment = [(i + 1, h.alignment) for i, h in enumerate(health)]
    uniformity = [(i + 1, h.uniformity) for i, h in enumerate(health)]
    ideal = 1 / math.sqrt(dim)
    page.text(
        "They show whether embeddings have collapsed, not how good they are: only an evaluation with labels tells that."
    )
    page.figures(
        (
            curve(std, x="epoch", y="std", level=(ideal, f"1/sqrt(d) = {ideal:.3f}"), marked=True, bottom=0),
            "Standard deviation of the normalised embeddings: near 1/sqrt(d) when spread out, near 0 when collapsed.",
        ),
        (curve(rank, x="epoch", y="RankMe", marked=True, bottom=0), "Effective rank of the backbone's features."),
        (curve(alignment, x="epoch", y="alignment", marked=True), "Mean squared distance of two views of an image."),
        (
            curve(uniformity, x="epoch", y="uniformity", marked=True),
            "Log of the mean Gaussian potential; lower is more even.",
        ),
    )


def rehearse(recipe: Recipe) -> int:
    """`--dry-run`: build everything, run a few steps, say what the whole run would take. Writes nothing."""
    short = recipe.model_copy(update={"max_steps": DRY_STEPS, "diagnostics": False, "probe": _no_probe(recipe)})
    outcome = pretrain(short, None, quiet=True)
    if not is_first_process():
        return 0
    module, rate = outcome.module, outcome.images_per_second
    plan = Plan(recipe, len(module.images))

    table = Table(title="Dry run: nothing was written", show_header=False, title_justify="left")
    table.add_row("images", f"{len(module.images):,}")
    table.add_row("parameters of the backbone", f"{sum(p.numel() for p in module.method.encoder.parameters()):,}")
    table.add_row("trained parameters", f"{sum(p.numel() for p in module.method.parameters() if p.requires_grad):,}")
    table.add_row("steps", f"{plan.updates:,} ({plan.steps_per_epoch:,} batches an epoch)")
    table.add_row("learning rate", f"{recipe.learning_rate:g}")
    table.add_row(f"loss of the first {DRY_STEPS} steps", f"{outcome.losses[-1][1]:.3f}")
    table.add_row("memory", memory())
    if rate:
        table.add_row("rate", f"about {rate:,.0f} images/s, the first step left out")
        seconds = plan.batches * recipe.batch_size / rate
        table.add_row("time for the run", f"about {duration(seconds)}, evaluations not counted")
    else:
        table.add_row("rate", "not known: the whole run is one batch")
    Console().print(table)
    return 0


def _no_probe(recipe: Recipe) -> object:
    return recipe.probe.model_copy(update={"every_epochs": 0})


def memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU at the peak"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 2**30:.2f} GiB at the peak"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
