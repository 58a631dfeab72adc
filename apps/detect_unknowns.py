"""`surnia detect unknowns`: unknown objects of a folder, grouped for a person to name."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from apps.detect_predict import load
from apps.given_images import find_images, list_given
from detection.detector import OpenWorldDetector
from detection.discovery import FoundBy, Wanted, discover
from sslcore.storage.checkpoint import weights_hash


def run(args: argparse.Namespace) -> int:
    """The command: a folder with contact sheets, a page and names.yaml."""
    detector = load(args.run, args.device)
    learn = f"surnia detect learn {shlex.quote(str(args.run))} {shlex.quote(str(args.out / 'names.yaml'))}"
    images = args.images[0] if len(args.images) == 1 else [path for path, _ in find_images(list_given(args.images))]
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        shown = bar.add_task("looking for unknown objects", total=None)
        found = discover(
            lambda pictures: detector.predict(pictures, batch_size=args.batch_size),
            images,
            args.out,
            known=detector.known,
            found_by=origin(detector, args.run),
            wanted=Wanted(score=args.score, posterior=args.posterior or 0.0, per_image=args.per_image),
            method="hdbscan" if args.groups is None else "kmeans",
            groups=args.groups,
            min_group=args.min_group,
            seed=args.seed,
            batch_size=args.batch_size,
            command=learn,
            say=lambda sentence: print(sentence, file=sys.stderr),
            progress=lambda done, total: bar.update(shown, completed=done, total=total),
        )
    console, count = Console(soft_wrap=True, highlight=False, markup=False), len(found.unknowns)
    console.print(f"{count:,} unknown object{'s' * (count != 1)} in {found.grouping.counted()}: {args.out}")
    console.print(f"Next:\n  look at {found.index}\n  type names into {found.names}\n  {learn}")
    return 0


def origin(detector: OpenWorldDetector, place: Path) -> FoundBy | None:
    """What `learn` recognises the detector by, which was loaded from a place."""
    return None if detector.path is None else FoundBy(os.path.abspath(place), weights_hash(detector.path))
