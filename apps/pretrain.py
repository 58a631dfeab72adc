"""`surnia pretrain`: a run from a recipe, its report, and what to type next."""

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from apps.measures import duration, memory, steps_to_go, time_for
from apps.report import Page
from apps.report.figures import curve
from apps.run_directory import open_run
from sslcore.pretrain.build import build
from sslcore.pretrain.history import History, read_history
from sslcore.pretrain.loop import Plan, Pretraining
from sslcore.pretrain.recipe import Recipe
from sslcore.pretrain.run import Outcome, fit, pretrain
from sslcore.storage import checkpoint_step, list_checkpoints
from sslcore.training.lightning import is_first_process

DRY_STEPS = 5
SHOWN = 10  # unreadable images that are named at the end
RUN_DIR = "SURNIA_RUN_DIR"  # tells processes that Lightning starts which directory the first one chose


def run(recipe: Recipe, *, run_dir: Path, recipe_text: str, command: list[str], resume: bool, dry_run: bool) -> int:
    """Train in `run_dir`; returns the process's exit code, 128 + n after signal n."""
    if dry_run:
        return rehearse(recipe, run_dir if resume else None)
    module = build(recipe)  # before the directory exists: a start that fails leaves nothing behind
    if not is_first_process():  # takes part, and leaves writing to the first
        return fit(module, Path(os.environ.get(RUN_DIR, run_dir)), resume=resume, quiet=True).exit_code
    os.environ[RUN_DIR] = str(run_dir)
    with open_run(run_dir, recipe=recipe_text, command=command, seed=recipe.seed, resume=resume) as directory:
        outcome = fit(module, directory, resume=resume)
        directory.set_status("stopped" if outcome.stopped else "finished")
        if outcome.steps:
            write_report(recipe, outcome, directory.path, recipe_text)
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
    for path, reason in outcome.bad_images[:SHOWN]:
        console.print(f"skipped {path}: {reason}", soft_wrap=True, highlight=False)
    if len(outcome.bad_images) > SHOWN:
        console.print(f"... and {len(outcome.bad_images) - SHOWN} more unreadable images")
    if outcome.knn:
        console.print(f"kNN accuracy {outcome.knn[-1][1]:.3f} after epoch {outcome.knn[-1][0]:.1f}", highlight=False)
    console.print(f"Report: {run_dir / 'report.html'}\nNext:", soft_wrap=True, highlight=False)
    data = recipe.data.path if outcome.module.images.labels is not None and recipe.data.path else "DIR"
    console.print(f"  surnia evaluate knn {run_dir} --data {data}", soft_wrap=True, highlight=False)
    if recipe.backbone.name.startswith("resnet"):  # the others have no counterpart elsewhere
        export = f"  surnia export {run_dir} --to torchvision --out backbone.safetensors"
        console.print(export, soft_wrap=True, highlight=False)


def write_report(recipe: Recipe, outcome: Outcome, run_dir: Path, recipe_text: str) -> None:
    """`report.html` of a run, finished or stopped: curves, diagnostics, skipped images, and the recipe behind them."""
    history = read_history(run_dir)
    page = Page(
        title=f"Pretraining: {recipe.method.name} on {recipe.data.path or recipe.data.kind}",
        lead=f"{history.steps:,} of {outcome.module.plan.updates:,} optimiser steps of "
        f"{recipe.batch_size * recipe.accumulate} images, {outcome.images_per_second:,.0f} images a second, "
        f"seed {recipe.seed}.",
        footer=f"Run directory {run_dir}. Everything measured is in metrics.jsonl beside this page.",
    )
    page.section("Training")
    training_section(page, outcome.module, history)
    if outcome.bad_images:
        page.section("Skipped images")
        page.table(["image", "reason"], [list(bad) for bad in outcome.bad_images])
    page.section("Recipe")
    page.code(recipe_text)
    page.write(run_dir / "report.html")


def training_section(page: Page, module: Pretraining, history: History) -> None:
    """Loss, probe and diagnostics, and what they can tell and what not."""
    chance = module.method.chance(module.recipe.batch_size)
    figures = []
    for name, values in history.terms.items():
        level = (chance[name], f"chance {chance[name]:.2f}") if name in chance else None
        caption = f"Mean training loss{'' if name == 'loss' else f', {name} term'}."
        if level:
            caption += " The dashed line is its value when embeddings carry no information."
        figures.append((curve(values, x="step", y=name, level=level), caption))
    if history.knn:
        drawn = curve(history.knn, x="epoch", y="kNN accuracy", marked=True)
        figures.append((drawn, "Weighted kNN on held-out images."))
    page.figures(*figures)
    if not history.health:
        return

    page.text(
        "The four diagnostics below tell whether embeddings have collapsed, not how good they are: that only an "
        "evaluation with labels tells."
    )
    health = history.health
    (_, std), (_, spread) = health["embedding_std"][-1], health["embedding_spread"][-1]
    ideal = std / spread if spread else 0.0
    page.figures(
        (
            curve(
                health["embedding_std"], x="epoch", y="std", level=(ideal, f"1/sqrt(d) = {ideal:.3f}"), marked=True,
                bottom=0,
            ),
            "Standard deviation of the normalised embeddings: near 1/sqrt(d) when spread out, near 0 when collapsed.",
        ),
        (
            curve(health["rank_me"], x="epoch", y="RankMe", marked=True, bottom=0),
            "Effective rank of the backbone's features.",
        ),
        (
            curve(health["alignment"], x="epoch", y="alignment", marked=True),
            "Mean squared distance of two views of an image.",
        ),
        (
            curve(health["uniformity"], x="epoch", y="uniformity", marked=True),
            "Log of the mean Gaussian potential; lower is more even.",
        ),
    )  # fmt: skip


def rehearse(recipe: Recipe, begun: Path | None) -> int:
    """`--dry-run`: build everything, run a few steps, say what the whole run would take, or the rest of `begun`. Writes
    nothing."""
    short = recipe.model_copy(update={"max_steps": DRY_STEPS, "diagnostics": False, "probe": _no_probe(recipe)})
    outcome = pretrain(short, None, quiet=True)
    if not is_first_process():
        return 0
    module, rate = outcome.module, outcome.images_per_second
    plan = Plan(recipe, len(module.images))
    done = _steps_done(begun) if begun else 0

    table = Table(title="Dry run: nothing was written", show_header=False, title_justify="left")
    table.add_row("images", f"{len(module.images):,}")
    table.add_row("parameters of the backbone", f"{sum(p.numel() for p in module.method.encoder.parameters()):,}")
    table.add_row("trained parameters", f"{sum(p.numel() for p in module.method.parameters() if p.requires_grad):,}")
    table.add_row("steps", f"{steps_to_go(plan.updates, done)} ({plan.steps_per_epoch:,} batches an epoch)")
    table.add_row("learning rate", f"{recipe.learning_rate:g}")
    table.add_row(f"loss of the first {DRY_STEPS} steps", f"{outcome.losses[-1][1]:.3f}")
    table.add_row("memory", memory())
    if rate:
        table.add_row("rate", f"about {rate:,.0f} images/s, the first step left out")
        seconds = (plan.updates - done) * recipe.accumulate * recipe.batch_size / rate
        table.add_row(time_for(done), f"about {duration(seconds)}, evaluations not counted")
    else:
        table.add_row("rate", "not known: the whole run is one batch")
    Console().print(table)
    return 0


def _steps_done(run_dir: Path) -> int:
    kept = list_checkpoints(run_dir / "checkpoints")
    return (checkpoint_step(kept[-1]) or 0) if kept else 0


def _no_probe(recipe: Recipe) -> object:
    return recipe.probe.model_copy(update={"every_epochs": 0})
