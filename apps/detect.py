"""`surnia detect`: its commands and their options. Nothing heavy is imported before a command line has been checked."""

from collections.abc import Sequence
from pathlib import Path

from apps import options as check
from apps.command_group import CommandGroup
from apps.options import Options
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError

RUN = "a run of `surnia detect train`"
MODEL = f"{RUN}, or a checkpoint of it"
IMAGES = "image files, or folders of them"


def train(arguments: Sequence[str]) -> int:
    from apps.launch import launch
    from apps.launch_detect import DETECT

    return launch(DETECT, arguments)


def data(arguments: Sequence[str]) -> int:
    from apps import detect_data, detect_owod

    kinds = {
        "openscenes": (
            "compose OpenScenes, an open-world benchmark made offline", detect_data.options, detect_data.openscenes,
        ),
        "owod": (
            "build M-OWODB, S-OWODB or VOC-COCO from folders of Pascal VOC and COCO", detect_owod.options,
            detect_owod.owod,
        ),
    }  # fmt: skip
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(f"usage: surnia detect data {{{','.join(kinds)}}} ...\n")
        print("Make a set of images with complete annotation, to learn and to measure on.\n")
        for name, (about, _, _) in kinds.items():
            print(f"  {name:<12}{about}")
        print("\nOptions: surnia detect data openscenes --help")
        return 0
    if arguments[0] not in kinds:
        hint = did_you_mean(arguments[0], list(kinds)) or f"; there are {', '.join(kinds)}"
        raise ConfigError(f"command line: unknown data set '{arguments[0]}'{hint}")
    _, make, carry_out = kinds[arguments[0]]
    return carry_out(make().read(arguments[1:]))


# --- evaluate --------------------------------------------------------------------------------------------------------


def evaluate_options() -> Options:
    parser = Options(
        "surnia detect evaluate",
        "Measure a run again: on its own test images in another mode, or on other annotated images.",
    )
    parser.positional("RUN", check.existing, RUN)
    parser.option(
        "--mode",
        check.choice("strict", "ore"),
        "strict: the papers' definitions; ore: what the original code computes",
        metavar="{strict,ore}",
        default="strict",
    )
    parser.option("--task", check.whole(1), "the detector after this task (default: the last)", metavar="N")
    parser.option(
        "--data", check.existing, "a COCO json, or a folder of Pascal VOC (default: the run's test)", metavar="PATH"
    )
    parser.option("--images", check.existing, "folder of the COCO json's images (default: beside it)", metavar="DIR")
    parser.option("--split", check.text, "list of images of a VOC folder", metavar="NAME", default="test")
    parser.option("--score-floor", check.number(), "leave out detections below this score", metavar="SCORE")
    parser.option("--per-image", check.whole(1), "then keep so many of each image, the best", metavar="N")
    _inference(parser)
    parser.option("--json", check.path, "write the result here", metavar="FILE")
    parser.flag("--overwrite", "replace what --json names")
    return parser


def evaluate(arguments: Sequence[str]) -> int:
    args = evaluate_options().read(arguments)
    problems = []
    if args.data is None and args.images is not None:
        problems.append("command line: --images  belongs to --data, which is not given")
    if args.json is not None and args.json.is_dir():
        problems.append(f"command line: --json  {args.json} is a folder; give the name of a file")
    elif args.json is not None and args.json.exists() and not args.overwrite:
        problems.append(f"command line: --json  {args.json} exists already; give another name, or add --overwrite")
    if problems:
        raise ConfigError(*problems)
    _refuse_other_kind(args.run)
    args.command = ["surnia", "detect", "evaluate", *arguments]
    from apps.detect_evaluate import run

    return run(args)


# --- predict and unknowns --------------------------------------------------------------------------------------------


def _inference(parser: Options) -> None:
    parser.option("--batch-size", check.whole(1), "images at a time", metavar="N", default=8)
    parser.option("--device", check.device, "cpu, cuda, cuda:N or mps", metavar="DEVICE", default="auto")


def predict_options() -> Options:
    parser = Options(
        "surnia detect predict",
        "Find known and unknown objects: COCO results, and pictures with what was found.",
        "To measure what is found in annotated images, with a COCO json of theirs in GT.json:\n"
        "  surnia detect predict RUN IMAGES --like GT.json --score 0.05 --out DIR\n"
        "  surnia detect score --gt GT.json --detections DIR/detections.json --tasks TASKS.yaml --task N",
    )
    parser.positional("RUN", check.existing, MODEL)
    parser.positional("IMAGES", check.existing, IMAGES, many=True)
    parser.option("--out", check.path, "a new folder for results and pictures", metavar="DIR", required=True)
    parser.option(
        "--score", check.number(least=0, most=1), "show and write no detection below this score", metavar="MIN",
        default=0.5,
    )  # fmt: skip
    parser.option(
        "--like",
        check.existing,
        "a COCO json: look at its images alone, and write its ids of images and categories, for any tool",
        metavar="FILE",
    )
    _inference(parser)
    parser.option("--bad-images", check.whole(0), "unreadable images to skip before giving up", metavar="N", default=10)
    parser.flag("--no-pictures", "write the results only")
    return parser


def predict(arguments: Sequence[str]) -> int:
    args = predict_options().read(arguments)
    _refuse_taken(args.out)
    _refuse_other_kind(args.run)
    args.command = ["surnia", "detect", "predict", *arguments]
    from apps.detect_predict import run

    return run(args)


def unknowns_options() -> Options:
    parser = Options(
        "surnia detect unknowns",
        "Collect unknown objects and group them by looks, for a person to name.",
        "Afterwards: type names into names.yaml in the folder, then surnia detect learn RUN DIR/names.yaml",
    )
    parser.positional("RUN", check.existing, MODEL)
    parser.positional("IMAGES", check.existing, "image files, or a folder of them", many=True)
    parser.option("--out", check.path, "a new folder for sheets and names.yaml", metavar="DIR", required=True)
    parser.option("--score", check.number(least=0, most=1), "lowest score", metavar="MIN", default=0.05)
    parser.option(
        "--posterior",
        _posterior,
        "lowest probability of being unknown, above 0.5 (0, the default: all that is called unknown, which has more)",
        metavar="MIN",
    )
    parser.option("--per-image", check.whole(1), "most objects of an image, the likeliest", metavar="N", default=5)
    parser.option("--groups", check.whole(1), "so many groups by k-means (default: as many as HDBSCAN finds)",
                  metavar="N")  # fmt: skip
    parser.option("--min-group", check.whole(2), "fewest objects of a group, without --groups", metavar="N", default=5)
    parser.option("--seed", check.whole(0), "of the grouping", metavar="N", default=0)
    _inference(parser)
    return parser


def _posterior(given: str) -> float:
    """What is called unknown is so with more than one half: a lower bound than that would leave out nothing."""
    value = check.number(least=0, most=1)(given)
    if 0 < value <= 0.5:
        raise ValueError(
            f"leaves out nothing at {given}, because what is called unknown has more than 0.5: ask for more, or leave "
            "the option out"
        )
    return value


def unknowns(arguments: Sequence[str]) -> int:
    args = unknowns_options().read(arguments)
    _refuse_taken(args.out)
    _refuse_other_kind(args.run)
    args.command = ["surnia", "detect", "unknowns", *arguments]
    from apps.detect_unknowns import run

    return run(args)


def _refuse_taken(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"command line: --out  {out} exists already and is never overwritten; name a new folder")


def _refuse_other_kind(place: Path) -> None:
    """A run of pretraining holds a backbone, one of control an agent."""
    from apps.launch import run_kind

    kind = run_kind(place)
    if kind == "control":
        raise ConfigError(f"command line: RUN  {place} is an agent, not a detector; give {MODEL}")
    if kind == "pretrain":
        raise ConfigError(
            f"command line: RUN  {place} is a pretrained backbone, not a detector; train one on it with surnia detect "
            f"train RECIPE --network.weights {place}"
        )
    if place.is_file():
        raise ConfigError(f"command line: RUN  {place} is a file; give {MODEL}")


# --- learn -----------------------------------------------------------------------------------------------------------


def learn(arguments: Sequence[str]) -> int:
    from apps.launch_learn import learn as launch

    return launch(arguments)


# --- score -----------------------------------------------------------------------------------------------------------


def score(arguments: Sequence[str]) -> int:
    from apps import detect_score

    return detect_score.score(detect_score.options().read(arguments))


# --- report ----------------------------------------------------------------------------------------------------------


def report(arguments: Sequence[str]) -> int:
    from apps import detect_report

    args = detect_report.options().read(arguments)
    for place in args.run:
        if place.is_dir():
            _refuse_other_kind(place)
    return detect_report.report(args)


detect = CommandGroup(
    "surnia detect",
    "Find the known, flag the unknown, take on new classes.",
    {
        "data": ("compose OpenScenes, or build a published benchmark from VOC and COCO", data),
        "train": ("train a detector from a recipe, task after task", train),
        "evaluate": ("measure a run again, or on other annotated images", evaluate),
        "predict": ("find known and unknown objects in images", predict),
        "unknowns": ("collect and group unknown objects, for a person to name", unknowns),
        "learn": ("learn what a person named, without forgetting the rest", learn),
        "score": ("measure anybody's detections, without a run", score),
        "report": ("put runs beside published numbers, and write their pages anew", report),
    },
)
