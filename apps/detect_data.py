"""`surnia detect data openscenes`: compose the open-world benchmark into a folder."""

import argparse
import shlex
from typing import TYPE_CHECKING

from apps import options as check
from apps.options import Options

if TYPE_CHECKING:
    from detection.data.scenes import OpenScenes


def options() -> Options:
    parser = Options(
        "surnia detect data openscenes",
        "Compose OpenScenes, an open-world detection benchmark, from drawings and photographs; nothing is downloaded "
        "but the drawings, once.",
    )
    parser.option(
        "--out", check.path, "a new folder for it (default: kept in the cache, and its place told)", metavar="DIR"
    )
    parser.option(
        "--variant",
        check.choice("M", "S"),
        "M: every task mixes super-categories; S: a super-category belongs to one task, the stress test",
        metavar="{M,S}",
        default="M",
    )
    parser.option(
        "--size",
        check.choice("tiny", "small", "large"),
        "small: 3,900 training images of 160 pixels; large: 18,000 of 320; tiny: to try things out",
        metavar="{tiny,small,large}",
        default="small",
    )
    parser.option("--seed", check.whole(0), "of everything random", metavar="N", default=0)
    parser.option(
        "--sprites", check.existing, "your own art: a folder of class folders with transparent PNGs", metavar="DIR"
    )
    parser.option("--backgrounds", check.existing, "your own photographs: a folder, searched through", metavar="DIR")
    parser.option("--workers", check.whole(1), "processes that compose", metavar="N", default=1)
    return parser


LEGEND = """\
labelled, not: objects in training images with and without a label; those of other tasks have none.
recurring: images of earlier tasks, labelled for this one.
far: in no task, so never labelled; half of these classes are in test images only.
for test: drawings in test images, the same as in training or others."""


def openscenes(args: argparse.Namespace) -> int:
    """Compose (or find) the set, show what is in it, and say how to go on.

    Raises:
        DataError: art or photographs are missing or too few, or --out holds something else.
    """
    from detection.data.scenes import describe, make_openscenes

    made = make_openscenes(
        args.variant,
        args.size,
        args.seed,
        folder=args.out,
        sprites=args.sprites,
        backgrounds=args.backgrounds,
        workers=args.workers,
    )
    print(describe(made.manifest["statistics"]))
    print(f"\n{LEGEND}")
    print(f"\n{made.tasks.name}, {args.size}, seed {args.seed}, is in {made.folder}")
    print(f"hash {made.manifest['hash']}")
    print(f"\nTo train on it:\n\n  {next_command(made, args)}")
    return 0


def next_command(made: "OpenScenes", args: argparse.Namespace) -> str:
    """The command that trains on a set."""
    recipe = "openscenes_large" if args.size == "large" else "openscenes_small"
    words = ["surnia", "detect", "train", recipe, "--data.path", str(made.folder)]
    return shlex.join(words)
