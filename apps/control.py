"""`surnia control`: its commands and their options. Nothing heavy is imported before a command line is checked."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from apps import options as check
from apps.command_group import CommandGroup
from apps.options import Options
from sslcore.errors import ConfigError

RUN = "a run of `surnia control train`"
CLIPS = (".gif", ".mp4")


def train(arguments: Sequence[str]) -> int:
    from apps.launch import launch
    from apps.launch_control import CONTROL

    return launch(CONTROL, arguments)


def resume_options() -> Options:
    parser = Options(
        "surnia control resume",
        "Continue a run exactly where it was left: surnia control train --resume RUN, in fewer words.",
        "More settings may follow, those that do not change what was learnt: --steps 500000 lets it learn on.",
    )
    parser.positional("RUN", check.existing, RUN)
    return parser


def resume(arguments: Sequence[str]) -> int:
    from apps.launch import separate

    parser = resume_options()
    own, settings = separate(arguments, parser.names)
    args = parser.read(own)
    return train(["--resume", str(args.run), *settings])


# --- evaluate --------------------------------------------------------------------------------------------------------


def evaluate_options() -> Options:
    parser = Options(
        "surnia control evaluate", "Measure a trained agent, or a random one, on episodes that it was not trained on."
    )
    parser.positional("RUN", check.existing, RUN)
    parser.option("--episodes", check.whole(1), "how many (default: as in its recipe)", metavar="N")
    parser.option("--seed", check.whole(0), "of the episodes (default: as in its recipe)", metavar="N")
    parser.flag("--random", "actions by lot in the run's environment instead of the agent's, to compare with")
    _agent(parser)
    parser.option("--json", check.path, "write the result here", metavar="FILE")
    parser.flag("--overwrite", "replace what --json names")
    return parser


def _agent(parser: Options) -> None:
    parser.option(
        "--which", check.choice("best", "last"), "the agent of the best evaluation, or the newest",
        metavar="{best,last}", default="best",
    )  # fmt: skip
    parser.option("--device", check.device, "cpu, cuda, cuda:N or mps", metavar="DEVICE", default="auto")


def evaluate(arguments: Sequence[str]) -> int:
    args = _read(evaluate_options(), "evaluate", arguments)
    _refuse_file(args.json, "--json", args.overwrite)
    from apps.control_evaluate import run

    return run(args)


# --- record ----------------------------------------------------------------------------------------------------------


def record_options() -> Options:
    parser = Options(
        "surnia control record",
        "Let a trained agent act: a clip of its best episode, or the frames it sees as images to pretrain on.",
        "Afterwards: surnia pretrain RECIPE --data.path DIR --backbone.name pixel_encoder, and its run is a start for\n"
        "another agent: surnia control train RECIPE --agent.weights runs/that-one",
    )
    parser.positional("RUN", check.existing, RUN)
    parser.option("--out", clip_file, "the clip, .gif or .mp4", metavar="FILE")
    parser.flag("--overwrite", "replace what --out names")
    parser.option("--episodes", check.whole(1), "the clip is of the best of so many", metavar="N", default=5)
    parser.option("--frames", check.path, "a new folder for frames, each a PNG", metavar="DIR")
    parser.option("--count", check.whole(1), "so many frames", metavar="N", default=5000)
    parser.flag(
        "--by-reward", "frames in two folders, by whether the step to them was rewarded: labels to evaluate with"
    )
    parser.option("--seed", check.whole(0), "of the episodes (default: as in its recipe)", metavar="N")
    parser.flag("--random", "actions by lot instead of the agent's")
    _agent(parser)
    return parser


def clip_file(given: str) -> Path:
    """A file name that says which kind of clip is wanted."""
    if Path(given).suffix not in CLIPS:
        raise ValueError(f"must end in {' or '.join(CLIPS)}, not '{given}'")
    return Path(given)


def record(arguments: Sequence[str]) -> int:
    args = _read(record_options(), "record", arguments)
    if args.out is None and args.frames is None:
        raise ConfigError("command line: --out is missing: the clip, .gif or .mp4; or --frames, a folder for frames")
    _refuse_file(args.out, "--out", args.overwrite)
    if args.frames is not None and args.frames.exists() and (not args.frames.is_dir() or any(args.frames.iterdir())):
        raise ConfigError(
            f"command line: --frames  {args.frames} exists already and is never overwritten; name a new folder"
        )
    from apps.control_record import run

    return run(args)


# --- export ----------------------------------------------------------------------------------------------------------


def export_options() -> Options:
    parser = Options(
        "surnia control export",
        "Write an agent's encoder as a backbone for single images.",
        "Afterwards: surnia evaluate linear FILE --data DIR, or surnia embed FILE --data DIR --out features.npz",
    )
    parser.positional("RUN", check.existing, RUN)
    parser.option("--out", weight_file, "the file, .safetensors", metavar="FILE", required=True)
    parser.flag("--overwrite", "replace what --out names")
    _agent(parser)
    return parser


def weight_file(given: str) -> Path:
    """A file name that says what is in it."""
    if Path(given).suffix != ".safetensors":
        raise ValueError(f"must end in .safetensors, not '{given}'")
    return Path(given)


def export(arguments: Sequence[str]) -> int:
    args = _read(export_options(), "export", arguments)
    _refuse_file(args.out, "--out", args.overwrite)
    from apps.control_export import run

    return run(args)


# --- what they need --------------------------------------------------------------------------------------------------


def _read(parser: Options, word: str, arguments: Sequence[str]) -> argparse.Namespace:
    args = parser.read(arguments)
    args.command = ["surnia", "control", word, *arguments]
    _refuse_other_kind(args.run)
    from apps.launch_control import missing_packages

    if problems := missing_packages():
        raise ConfigError(*problems)
    return args


def _refuse_other_kind(place: Path) -> None:
    """Runs of other applications hold no agent."""
    from apps.launch import run_kind

    what = {"pretrain": "a pretrained backbone", "detection": "a detector"}.get(run_kind(place) or "")
    if what:
        raise ConfigError(f"command line: RUN  {place} is {what}, not an agent; give {RUN}")
    if place.is_file():
        raise ConfigError(f"command line: RUN  {place} is a file; give {RUN}")


def _refuse_file(file: Path | None, option: str, overwrite: bool) -> None:
    if file is None:
        return
    if file.is_dir():
        raise ConfigError(f"command line: {option}  {file} is a folder; give the name of a file")
    if file.exists() and not overwrite:
        raise ConfigError(f"command line: {option}  {file} exists already; give another name, or add --overwrite")


control = CommandGroup(
    "surnia control",
    "Learn to act from pixels.",
    {
        "train": ("train an agent from a recipe, or several seeds of one", train),
        "resume": ("continue a run exactly where it was left", resume),
        "evaluate": ("measure an agent on fixed episodes", evaluate),
        "record": ("a clip of an agent, or its frames to pretrain on", record),
        "export": ("an agent's encoder as a backbone, to evaluate or embed with", export),
    },
)
