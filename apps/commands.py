"""The commands of `surnia`: their options, and whom they call.

Nothing heavy is imported before a command's options are read, so that help and complaints are there at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from apps import options as check
from apps.options import Options
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError

KINDS = ("auto", "folder", "cifar10", "cifar100", "stl10", "fashion_mnist")
BACKBONE = "a run directory, a .safetensors or .pth file, torchvision:resnet18, random:RECIPE, or pixels"


def pretrain(arguments: Sequence[str]) -> int:
    from apps.launch import launch
    from apps.launch_pretrain import PRETRAIN

    return launch(PRETRAIN, arguments)


def detect(arguments: Sequence[str]) -> int:
    from apps.detect import detect as commands

    return commands(arguments)


def control(arguments: Sequence[str]) -> int:
    from apps.control import control as commands

    return commands(arguments)


# --- evaluate --------------------------------------------------------------------------------------------------------


def _backbone_and_data(parser: Options) -> None:
    parser.positional("BACKBONE", check.text, BACKBONE)
    parser.option("--data", check.existing, "the images", metavar="PATH", required=True)
    parser.option("--kind", check.choice(*KINDS), "what the path holds", metavar="KIND", default="auto")
    parser.option("--batch-size", check.whole(1), "images at a time", metavar="N", default=256)
    parser.option("--device", check.device, "cpu, cuda, cuda:N or mps", metavar="DEVICE", default="auto")


def _result_file(parser: Options) -> None:
    parser.option("--out", check.path, "write the result here, as JSON", metavar="FILE")
    _overwrite(parser)


def _overwrite(parser: Options) -> None:
    parser.flag("--overwrite", "replace what --out names")


def _read(parser: Options, words: Sequence[str], arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command whose result goes to --out; what is there already is told before any work is done."""
    args = parser.read(arguments)
    args.command = ["surnia", *words, *arguments]
    written = [] if args.out is None else [args.out]
    if words == ["embed"]:
        written.append(args.out.with_suffix(".csv"))  # the names, beside the features
    for file in written:
        if file.is_dir():
            raise ConfigError(f"command line: --out  {file} is a folder; give the name of a file")
        if file.exists() and not args.overwrite:
            raise ConfigError(f"command line: --out  {file} exists already; give another name, or add --overwrite")
    return args


def knn_options() -> Options:
    parser = Options("surnia evaluate knn", "Accuracy of a weighted vote of the nearest labelled images.")
    _backbone_and_data(parser)
    parser.option("--neighbours", check.whole(1), "images that vote", metavar="K", default=20)
    parser.option(
        "--temperature", check.number(above=0), "a vote weighs exp(similarity / T)", metavar="T", default=0.07
    )
    parser.option("--seed", check.whole(0), "of random networks and subsets", metavar="N", default=0)
    _result_file(parser)
    return parser


def _training_options(parser: Options, *, epochs: int, epochs_help: str, lr_help: str) -> None:
    parser.option("--epochs", check.whole(1), epochs_help, metavar="N", default=epochs)
    parser.option("--lr", check.number(above=0), lr_help, metavar="RATE")
    parser.option("--seed", check.whole(0), "of weights, order and subsets", metavar="N", default=0)
    _result_file(parser)


def linear_options() -> Options:
    parser = Options("surnia evaluate linear", "Accuracy of a linear classifier on the frozen backbone's features.")
    _backbone_and_data(parser)
    _training_options(
        parser,
        epochs=100,
        epochs_help="passes over the training images, with --lr",
        lr_help="train by SGD with this learning rate (default: a convex solver, which needs none)",
    )
    return parser


def finetune_options() -> Options:
    parser = Options(
        "surnia evaluate finetune", "Accuracy after training backbone and classifier on some of the labels."
    )
    _backbone_and_data(parser)
    parser.option(
        "--labels",
        check.number(above=0, most=1),
        "shares of the labels to train with, one result each",
        metavar="SHARE",
        default=[0.01, 0.1, 1.0],
        many=True,
    )
    _training_options(
        parser,
        epochs=30,
        epochs_help="passes over the training images",
        lr_help="learning rate (default: the evaluation's own)",
    )
    return parser


def evaluate(arguments: Sequence[str]) -> int:
    kinds = {"knn": knn_options, "linear": linear_options, "finetune": finetune_options}
    if not arguments or arguments[0] in {"-h", "--help"}:
        print("usage: surnia evaluate {knn,linear,finetune} BACKBONE --data PATH ...\n")
        print("How good a backbone's features are, trained here or not.\n")
        for name, make in kinds.items():
            print(f"  {name:<10}{make().parser.description}")
        print("\nOptions: surnia evaluate knn --help")
        return 0
    if arguments[0] not in kinds:
        hint = did_you_mean(arguments[0], list(kinds)) or "; there are knn, linear and finetune"
        raise ConfigError(f"command line: unknown evaluation '{arguments[0]}'{hint}")
    args = _read(kinds[arguments[0]](), ["evaluate", arguments[0]], arguments[1:])
    from apps import evaluate as commands

    return {"knn": commands.knn, "linear": commands.linear, "finetune": commands.finetune}[arguments[0]](args)


# --- the other commands ----------------------------------------------------------------------------------------------


def embed_options() -> Options:
    parser = Options("surnia embed", "Write the features of every image to a file.")
    _backbone_and_data(parser)
    parser.option(
        "--out",
        _suffix(".npz", ".safetensors"),
        "features, (images, dim); the images' names go into a .csv file beside it",
        metavar="FILE",
        required=True,
    )
    _overwrite(parser)
    parser.option("--seed", check.whole(0), "of random networks", metavar="N", default=0)
    return parser


def _suffix(*known: str) -> Callable[[str], Path]:
    def one_of(given: str) -> Path:
        if Path(given).suffix not in known:
            raise ValueError(f"must end in {' or '.join(known)}, not '{given}'")
        return Path(given)

    return one_of


def embed(arguments: Sequence[str]) -> int:
    args = _read(embed_options(), ["embed"], arguments)
    from apps.embed import run

    return run(args)


def export_options() -> Options:
    parser = Options("surnia export", "Write a run's backbone for another library, and check it there.")
    parser.positional("RUN", check.existing, "a run directory or a checkpoint in it")
    parser.option(
        "--to",
        check.choice("torchvision", "detectron2"),
        "the library",
        metavar="{torchvision,detectron2}",
        required=True,
    )
    parser.option("--out", check.path, "the file to write", metavar="FILE", required=True)
    _overwrite(parser)
    return parser


def export(arguments: Sequence[str]) -> int:
    args = _read(export_options(), ["export"], arguments)
    from apps.export import run

    return run(args)


def doctor_options() -> Options:
    parser = Options("surnia doctor", "Look at this machine, or at a folder of images, and say what to do next.")
    parser.option("--data", check.existing, "look at this folder: what it holds, what is broken", metavar="DIR")
    parser.option(
        "--tasks",
        check.text,
        "check annotations against a task file (or m_owodb, s_owodb), for detection",
        metavar="TASKS",
    )
    parser.option("--write-recipe", check.path, "write a recipe that fits the folder", metavar="FILE")
    parser.option(
        "--check", _count_or_all, "open at most so many images, evenly spread; or all", metavar="N", default="20000"
    )
    return parser


def _count_or_all(given: str) -> int | None:
    try:
        return None if given == "all" else check.whole(1)(given)
    except ValueError:
        raise ValueError(f"must be a whole number of at least 1, or all, not '{given}'") from None


def doctor(arguments: Sequence[str]) -> int:
    args = doctor_options().read(arguments)
    if args.write_recipe and not args.data:
        raise ConfigError("command line: --write-recipe  needs --data DIR, the folder that the recipe is for")
    if args.tasks:
        if not args.data:
            raise ConfigError("command line: --tasks  needs --data DIR, the folder with the annotations")
        from detection.tasks import TaskSet

        TaskSet.from_file(args.tasks)  # before anything large is imported
    from apps.doctor import run

    return run(args)


def demo_options() -> Options:
    parser = Options(
        "surnia demo",
        "Pretrain on pictures made from real drawings and photographs, find known and unknown things in others, act.",
    )
    parser.option("--run", check.path, "the run's directory (default: runs/demo-<number>)", metavar="DIR")
    parser.option("--resume", check.existing, "continue a demo that was interrupted", metavar="DIR")
    parser.option("--seed", check.whole(0), "of pictures, weights and views (default: 0)", metavar="N")
    parser.option(
        "--steps",
        check.whole(1),
        "steps of pretraining (default: the recipe's); the detector's and the agent's in proportion",
        metavar="N",
    )
    parser.option("--threads", check.whole(1), "CPU threads (default: as many as there are idle cores)", metavar="N")
    return parser


def demo(arguments: Sequence[str]) -> int:
    from apps import run_names

    args = demo_options().read(arguments)
    run_dir = args.resume or args.run or run_names.next_free("demo")
    if args.resume is None:
        run_names.refuse_existing(run_dir)
    elif begun := [name for name in ("run", "seed", "steps") if getattr(args, name) is not None]:
        raise ConfigError(
            *(f"command line: --{name}  was settled when {run_dir} was begun; leave it out" for name in begun)
        )
    from apps.demo import run

    command = ["surnia", "demo", *arguments]
    return run(
        run_dir, command=command, seed=args.seed or 0, steps=args.steps, threads=args.threads,
        resume=args.resume is not None,
    )  # fmt: skip


def recipes(arguments: Sequence[str]) -> int:
    parser = Options("surnia recipes", "The recipes that ship with Surnia: their names, or one of them to start from.")
    parser.positional("NAME", str, "print this recipe", required=False)
    name = parser.read(arguments).name
    from apps.recipe_files import COMMANDS as RECIPES_OF
    from apps.recipe_files import shipped, shipped_text

    places = [(known, folder) for folder in RECIPES_OF for known in shipped(folder)]
    meant = [(known, folder) for known, folder in places if name in (known, f"{folder}/{known}")]
    if name is None:
        for folder, command in RECIPES_OF.items():
            print(f"{command}:", *shipped(folder), sep="\n  ")
    elif meant:
        print(shipped_text(*meant[0]), end="")
        for known, folder in meant[1:]:
            print(
                f"note: {RECIPES_OF[folder]} has one of this name, too: surnia recipes {folder}/{known}",
                file=sys.stderr,
            )
    else:
        hint = did_you_mean(name, [known for known, _ in places]) or "; surnia recipes lists those there are"
        raise ConfigError(f"there is no recipe '{name}'{hint}")
    return 0
