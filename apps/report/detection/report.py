"""The page about a detection run."""

from pathlib import Path

from apps.report.detection.curves import write_losses, write_precision_recall, write_purity
from apps.report.detection.decision import write_decision, write_map
from apps.report.detection.progress import write_progress
from apps.report.detection.published import write_published
from apps.report.detection.run import DetectionRun
from apps.report.detection.scenes import write_scenes
from apps.report.detection.tables import shown, write_tables, write_timing
from apps.report.page import Page
from detection.data.openworld import OpenWorldData

REPORT = "report.html"


def write_detection_report(run_dir: str | Path, *, data: OpenWorldData | None = None) -> Path:
    """Write `report.html` about the tasks of a run that have been evaluated; one file that needs nothing beside it.

    What a run has not kept is computed from its detectors. What cannot be shown is said in a sentence.

    Args:
        run_dir: of `surnia detect train`.
        data: the run's, if they are open already.

    Returns:
        The file.

    Raises:
        CheckpointError: no task has been evaluated, or a file of the run is damaged.
    """
    run = DetectionRun.open(Path(run_dir), data)
    task = run.last
    page = Page(f"Open-world detection: {run.tasks.name}", lead(run), footer(run))
    page.section("Task by task")
    if not run.results["complete"]:
        page.alert("The run is not finished: the tasks below are those that have been evaluated.")
    write_tables(page, run)
    write_published(page, run)
    page.section("What it sees")
    write_scenes(page, run, task)
    if len(run.done) > 1:
        page.section("From unknown to known")
        write_progress(page, run, task)
    page.section("Known or unknown: how it is decided")
    write_decision(page, run)
    page.section("Precision, recall, and whether the posterior can be trusted")
    write_precision_recall(page, run, task)
    page.section("Embeddings and prototypes")
    write_map(page, run, task)
    page.section("What was labelled unknown in training")
    write_purity(page, run)
    page.section("Training")
    write_losses(page, run)
    write_timing(page, run)
    page.section("Recipe")
    page.code(without_comments(run.recipe_text) or "recipe.yaml is not there.")
    if run.problems:
        page.section("What could not be read")
        for problem in dict.fromkeys(run.problems):
            page.alert(f"{problem}.".replace("..", "."))
    path = run.path / REPORT
    page.write(path)
    return path


def without_comments(recipe: str) -> str:
    """What is set, without what it means."""
    return "\n".join(line for line in recipe.splitlines() if not line.lstrip().startswith("#"))


def lead(run: DetectionRun) -> str:
    """The run in two sentences."""
    known, strict = run.tasks.known(run.last), run.done[-1]["strict"]
    network = run.recipe.network
    began = "begun with random weights" if network.weights is None else "begun with pretrained weights"
    return (
        f"A detector ({network.name}, {began}) has learnt {len(known)} classes in {len(run.done)} "
        f"task{'s' * (len(run.done) > 1)}. On the test images it finds them with a mean average precision of "
        f"{shown(strict['map_both'], 'share')}, and {shown(strict['u_recall_10'], 'share')} of the objects that nobody "
        "taught it among its ten best unknown detections of an image."
    )


def footer(run: DetectionRun) -> str:
    """Where it all came from."""
    versions = run.results.get("surroundings", {}).get("versions", {})
    with_what = ", ".join(f"{name} {versions[name]}" for name in ("surnia", "torch", "torchvision") if name in versions)
    return (
        f"Run directory {run.path}. Seed {run.results['seed']}. {with_what}. All numbers are in results.json, what was "
        "measured while training went on in metrics.jsonl, the detections of each task in tasks/N/detections.json."
    )
