"""`surnia doctor`: what this machine offers, what a folder of images holds, and what to type next."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from apps.folder_check import Finding, inspect
from apps.suggest import FEWEST, Machine, suggest, write
from apps.suggest_detection import suggest_detection
from detection.engines.libraries import INSTALL_DETECTRON2
from detection.tasks import TaskSet
from rl.envs.doctor import doctor_lines
from sslcore.errors import DataError

REQUIRED = (
    "torch", "torchvision", "pytorch-lightning", "numpy", "scipy", "scikit-learn", "pycocotools", "pillow",
    "safetensors",
)  # fmt: skip
OPTIONAL = {
    "scikit-image": ("the demo's photographs", "pip install scikit-image"),
    "detectron2": (
        "surnia detect train --engine detectron2, and checking `surnia export --to detectron2` there",
        INSTALL_DETECTRON2,
    ),
    "faiss-cpu": ("searching embeddings outside of Surnia", "pip install faiss-cpu"),
}
SHOWN = 10


def run(args: argparse.Namespace) -> int:
    """The command: exit code 0 when all is well, 1 when something is broken."""
    console = Console(soft_wrap=True, highlight=False)
    if args.data is None:
        return report_machine(console)
    return report_folder(console, args.data, args.check, args.write_recipe, args.tasks)


# --- the machine -----------------------------------------------------------------------------------------------------


def report_machine(console: Console) -> int:
    """Versions, devices, optional parts."""
    table = Table(title="This machine", show_header=False, title_justify="left")
    table.add_row("Python", f"{platform.python_version()} ({platform.system()} {platform.machine()})")
    missing = [name for name in REQUIRED if _version(name) is None]
    for name in ("surnia", *REQUIRED):
        table.add_row(name, _version(name) or "missing")
    if "torch" not in missing:
        for row in _devices():
            table.add_row(*row)
    console.print(table)

    parts = Table(title="Optional parts", title_justify="left")
    for column in ("part", "version", "for"):
        parts.add_column(column, overflow="fold")
    absent = []
    for name, (purpose, line) in OPTIONAL.items():
        version = _version(name)
        parts.add_row(name, version or "not installed", purpose)
        absent += [] if version else [line]
    console.print(parts)
    # Not in the table: a line to copy must not be broken.
    if absent:
        console.print("To install them:", *(escape(f"  {line}") for line in dict.fromkeys(absent)), sep="\n")
    console.print("[italic]Control from pixels[/]", *(escape(f"  {line}") for line in doctor_lines()), sep="\n")
    if missing:
        console.print(f"Missing: {', '.join(missing)}. Install with: pip install {' '.join(missing)}")
        return 1
    console.print(
        "Next: surnia demo, surnia doctor --data DIR for your own images, or surnia control train pixelreach."
    )
    return 0


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[tuple[str, str]]:
    import torch

    cores, threads = _cores(), torch.get_num_threads()
    counted = f"{cores} core{'s' * (cores != 1)}, torch uses {threads} thread{'s' * (threads != 1)}"
    rows = [("CPU", f"{counted}, bf16 {_cpu_bf16()}")]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        bf16 = "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
        rows.append((f"GPU {i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, bf16 {bf16}"))
    if torch.cuda.device_count() == 0:
        why = (
            "this torch is built without CUDA" if torch.version.cuda is None else f"torch has CUDA {torch.version.cuda}"
        )
        rows.append(("GPU", f"none ({why})"))
    return rows


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_bf16() -> str:
    import torch

    probes = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    if not any(probes):
        return "unknown"
    # Without either it is computed in float32 with conversions, which takes longer than float32 alone.
    return "native" if any(probe() for probe in probes if probe) else "emulated, slower than 32"


def this_machine() -> Machine:
    """What a suggested recipe depends on."""
    import torch

    gpus = torch.cuda.device_count()
    return Machine(gpus, bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False), _cores())


# --- a folder --------------------------------------------------------------------------------------------------------


def report_folder(
    console: Console, folder: Path, limit: int | None, recipe_file: Path | None, tasks_file: str | None = None
) -> int:
    """What the folder holds, what is broken, and the commands that use it."""
    tasks = None if tasks_file is None else TaskSet.from_file(tasks_file)

    def progress(items: Iterable[Path], count: int) -> Iterable[Path]:
        if not sys.stderr.isatty():
            return items
        return track(items, "opening images", count, console=Console(stderr=True), transient=True)

    finding = inspect(folder, limit=limit, progress=progress, tasks=tasks)
    if tasks_file is not None and finding.annotated is None:
        raise DataError(
            f"{folder} holds no annotations that --tasks could be for: no COCO json beside the images or in "
            "annotations/, and no Annotations/ as Pascal VOC has"
        )
    console.print(_table(finding))
    _say_classes(console, finding)
    _say_broken(console, finding)
    if finding.annotated is not None and finding.annotated.tasks is not None:
        return _report_detection(console, finding, folder, recipe_file, tasks_file)
    if finding.images < FEWEST:
        console.print(f"Too few images to pretrain on: {finding.images} can be used, and thousands are worth it.")
        return 1
    text = suggest(finding, this_machine())
    if recipe_file is not None:
        write(text, recipe_file)
        console.print(f"Wrote {escape(str(recipe_file))}.")
    _say_next(console, finding, folder, recipe_file)
    return 0 if finding.sound else 1


def _report_detection(
    console: Console, finding: Finding, folder: Path, recipe_file: Path | None, tasks_file: str | None
) -> int:
    """What follows for annotations whose class lists are known."""
    data = shlex.quote(str(folder))
    if not finding.sound:
        console.print("Correct what is broken: training refuses this data as it is.")
        return 1
    text = suggest_detection(finding, tasks_file, this_machine())
    if recipe_file is not None:
        write(text, recipe_file)
        console.print(f"Wrote {escape(str(recipe_file))}.")
    console.print("Next:")
    file = recipe_file or Path("surnia.yaml")
    if recipe_file is None:
        given = "" if tasks_file is None else f" --tasks {shlex.quote(tasks_file)}"
        console.print(escape(f"  surnia doctor --data {data}{given} --write-recipe {file}"))
    name = shlex.quote(str(file))
    console.print(escape(f"  surnia detect train {name} --dry-run"))
    console.print(escape(f"  surnia detect train {name} --run {shlex.quote(str(Path('runs') / file.stem))}"))
    return 0


def _table(finding: Finding) -> Table:
    table = Table(title=escape(f"{finding.path}"), show_header=False, title_justify="left")
    table.add_row("holds", escape(finding.title))
    if finding.annotated is None:
        table.add_row("images", ", ".join(f"{count:,} {escape(split)}" for split, count in finding.splits.items()))
    else:  # in the one folder, for whatever they are
        table.add_row("images", f"{sum(finding.splits.values()):,} in the folder")
    if finding.classes:
        counts = finding.classes.values()
        table.add_row("classes", f"{len(counts)}, of {min(counts):,} to {max(counts):,} training images")
    for role, ours in {} if finding.annotated is None else finding.annotated.sets.items():
        classes = len(set(ours.box_category.tolist()))
        held = f"{len(ours.images):,} images, {len(ours.boxes):,} boxes of {classes} classes"
        table.add_row(role.replace("train_", "task "), escape(f"{held} ({ours.source})"))
    if finding.types:
        table.add_row("files", ", ".join(f"{count:,} {kind}" for kind, count in finding.types.most_common()))
    if finding.sizes:
        widths, heights = zip(*finding.sizes, strict=True)
        spread = f"{min(widths)} x {min(heights)} to {max(widths)} x {max(heights)}"
        same = len(set(finding.sizes)) == 1
        table.add_row("size", f"{widths[0]} x {heights[0]} pixels" if same else f"{spread}, middle side {finding.side}")
    total = finding.splits.get("train", 0)
    opened = "all" if finding.opened == total else f"{finding.opened:,} of {total:,} (--check all for the rest)"
    opened += " of train" if len(finding.splits) > 1 else ""
    table.add_row("opened", f"{opened}, {len(finding.broken)} broken")
    return table


def _say_classes(console: Console, finding: Finding) -> None:
    few = sorted(finding.nearly_empty.items(), key=lambda item: item[1])
    if few:
        names = ", ".join(f"{escape(name)} ({count})" for name, count in few[:SHOWN])
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        console.print(f"Nearly empty classes: {names}{more}.")


def _say_broken(console: Console, finding: Finding) -> None:
    for _, reason in finding.broken[:SHOWN]:
        console.print(escape(reason))
    if len(finding.broken) > SHOWN:
        console.print(f"... and {len(finding.broken) - SHOWN} more broken images.")
    if finding.broken and (finding.annotated is None or finding.annotated.tasks is None):
        console.print("Pretraining names, counts and skips broken images, up to data.bad_images of them.")
    for sentence in [*finding.problems, *finding.notes]:
        console.print(escape(sentence))


def _say_next(console: Console, finding: Finding, folder: Path, recipe_file: Path | None) -> None:
    console.print("Next:")
    file = recipe_file or Path("surnia.yaml")
    if recipe_file is None:
        console.print(escape(f"  surnia doctor --data {shlex.quote(str(folder))} --write-recipe {file}"))
    name = shlex.quote(str(file))
    run_dir = Path("runs") / file.stem
    console.print(escape(f"  surnia pretrain {name} --dry-run"))
    console.print(escape(f"  surnia pretrain {name} --run {shlex.quote(str(run_dir))}"))
    if finding.annotated is not None:
        data = shlex.quote(str(folder))
        console.print("For open-world detection, with a task file of your own or a shipped one:")
        console.print(escape(f"  surnia doctor --data {data} --tasks m_owodb --write-recipe detection.yaml"))
    if finding.classes:
        data = shlex.quote(str(finding.path))
        console.print(escape(f"  surnia evaluate knn {shlex.quote(str(run_dir))} --data {data}"))
