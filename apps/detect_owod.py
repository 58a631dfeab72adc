"""`surnia detect data owod`: the published benchmarks from a user's folders of Pascal VOC and COCO."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apps import options as check
from apps.options import Options
from sslcore.errors import ConfigError

if TYPE_CHECKING:
    from detection.data.owod.building import Built

BENCHMARKS = ("m_owodb", "s_owodb", "voc_coco")
RECIPES = {
    "m_owodb": ("openworld_resnet50_m_owodb", "ore_resnet50_m_owodb"),
    "s_owodb": ("openworld_resnet50_s_owodb", "ore_resnet50_s_owodb"),
    "voc_coco": ("openworld_resnet50_voc_coco", "ore_resnet50_voc_coco"),
}
"""Ours and ORE's; they look for a benchmark in data/ and its name."""
IN_DETECTRON2 = {"m_owodb": ("openworld_resnet50_fpn_detectron2_m_owodb", "ore_resnet50_c4_detectron2_m_owodb")}
"""The same in detectron2 where its network is another; elsewhere `--engine detectron2` is all."""
HELD_OUT = 1000


def benchmark_home(tasks: str) -> Path | None:
    """The folder in which recipes look for a benchmark; None for any other task set."""
    return Path("data") / tasks if tasks in BENCHMARKS else None


def build_command(tasks: str) -> str:
    """What builds a benchmark there, from folders that are called as their archives unpack."""
    voc = "" if tasks == "s_owodb" else "--voc VOCdevkit "
    return f"surnia detect data owod --tasks {tasks} {voc}--coco coco --out {benchmark_home(tasks)}"


def options() -> Options:
    parser = Options(
        "surnia detect data owod",
        "Build a published open-world benchmark from your folders of Pascal VOC (2007, 2012) and COCO (2017): "
        "annotations for each task and split, and how many images and objects there are beside the published numbers. "
        "Pictures are linked to, not copied.",
        "m_owodb is ORE's benchmark, s_owodb OW-DETR's (COCO only), voc_coco OpenDet's.",
    )
    parser.option(
        "--tasks", check.choice(*BENCHMARKS), "the benchmark", metavar="{" + ",".join(BENCHMARKS) + "}", required=True
    )
    parser.option("--out", check.path, "a new folder; recipes look in data/ and the name", metavar="DIR", required=True)
    parser.option("--voc", check.existing, "the folder with VOC2007 and VOC2012 (VOCdevkit)", metavar="DIR")
    parser.option("--coco", check.existing, "the folder with annotations, train2017 and val2017", metavar="DIR")
    parser.option(
        "--val",
        check.whole(0),
        f"training images of each task that are held out to fit the decision on (default {HELD_OUT:,}; voc_coco has "
        "validation images of its own)",
        metavar="N",
    )
    parser.flag(
        "--as-published",
        "also write the released lists line by line with their duplicates, and test objects as ORE's conversion has "
        "them, to score old detections with",
    )
    parser.option(
        "--lists",
        check.existing,
        "folder of released lists: those that were drawn by hand or without a seed (test of voc_coco, from opendet2; "
        "validation of m_owodb, from ORE) are taken instead of drawing anew, others compared with what the rules give",
        metavar="DIR",
    )
    parser.option("--seed", check.whole(0), "of what is drawn", metavar="N", default=0)
    parser.flag("--no-pictures", "annotations only, to score detections; nothing can be trained on them")
    return parser


def owod(args: argparse.Namespace) -> int:
    """Build, show the counts, say how to go on.

    Raises:
        ConfigError: options that do not go together.
        DataError: something of the folders is missing or wrong, or --out holds something.
    """
    _refuse(args)
    args.val = HELD_OUT if args.val is None else args.val
    from detection.data.owod.building import Order, build
    from detection.data.owod.counts import OTHER_FILES

    print("reading annotations; full-size ones take a minute or two", file=sys.stderr, flush=True)
    built = build(
        Order(
            benchmark=args.tasks, voc=args.voc, coco=args.coco, out=args.out, val=args.val, seed=args.seed,
            as_published=args.as_published, lists=args.lists, pictures=not args.no_pictures,
        )
    )  # fmt: skip
    show(built)
    if any(OTHER_FILES in count.why for count in built.counts):
        print(
            f"{OTHER_FILES}: the annotations are not those of VOC 2007, VOC 2012 and COCO 2017 as they were released."
        )
    print(f"\n{args.tasks} is in {args.out}: {', '.join(f'{name} {n:,}' for name, n in built.images.items())} images.")
    for sentence in (*built.notes, *_next(args)):
        print(sentence)
    return 0


def _refuse(args: argparse.Namespace) -> None:
    if args.tasks == "s_owodb" and args.lists is not None:
        raise ConfigError("command line: --lists  s_owodb has no list that is drawn; leave it out")
    if args.val is not None and args.tasks == "voc_coco":
        raise ConfigError("command line: --val  voc_coco has validation images of its own; leave it out")
    if args.val is not None and args.lists is not None:
        raise ConfigError("command line: --val  the list in --lists names the images that are held out; leave out one")


def show(built: "Built") -> None:
    """The counts beside the published ones."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{built.tasks.name}: images and objects", title_justify="left")
    for i, heading in enumerate(("", "published", "by the rule", "written", "why they differ")):
        table.add_column(heading, justify="right" if 0 < i < 4 else "left", overflow="fold")
    for count in built.counts:
        told = "–" if count.published is None else f"{count.published:,}"
        table.add_row(count.what, told, f"{count.by_rule:,}", f"{count.written:,}", count.why)
    Console().print(table)


def _next(args: argparse.Namespace) -> list[str]:
    lines = [""]
    if args.as_published:
        words = [
            "--gt",
            f"{args.out}/as_published/test.json",
            "--image-list",
            f"{args.out}/as_published/all_task_test.txt",
        ]
        if args.tasks == "voc_coco":
            words = ["--gt", f"{args.out}/as_published/test_20_40.json"]
        lines += [
            "To score an old run as its evaluator did:",
            "",
            "  " + shlex.join(["surnia", "detect", "score", "--mode", "ore", "--tasks", args.tasks, *words])
            + f" --detections DIR --task {'1' if args.tasks == 'voc_coco' else 'N'}",
            "",
        ]  # fmt: skip
    if args.no_pictures:
        return lines
    ours, theirs = RECIPES[args.tasks]
    # A recipe needs a file of validation images, though it opens none of them when it fits nothing.
    unfitted = args.val == 0 and args.tasks != "voc_coco"
    settings = {} if args.out == benchmark_home(args.tasks) else _paths(args)
    if unfitted:
        settings |= {"val": f"{args.out}/test.json"}
    words = ["surnia", "detect", "train", ours]
    words += [word for key, value in settings.items() for word in (f"--data.{key}", value)]
    words += ["--decision.fit", "none"] if unfitted else []
    if args.tasks in IN_DETECTRON2:
        others = "in detectron2: {}; as ORE: {}".format(*IN_DETECTRON2[args.tasks])
    else:
        others = "in detectron2: with --engine detectron2"
    return [*lines, f"To train on it ({ours}; as ORE: {theirs}; {others}):", "", f"  {shlex.join(words)}"]


def _paths(args: argparse.Namespace) -> dict[str, str]:
    """Settings of a recipe's data by name, for a benchmark that is not where recipes look for it."""
    from detection.tasks import TaskSet

    count = TaskSet.from_file(args.tasks).count
    train = [f"{args.out}/train_{task}.json" for task in range(1, count + 1)]
    test = "test_20_40" if args.tasks == "voc_coco" else "test"
    return {
        "train": f"[{', '.join(train)}]",
        "val": f"{args.out}/val.json",
        "test": f"{args.out}/{test}.json",
        "images": f"{args.out}/images",
    }
