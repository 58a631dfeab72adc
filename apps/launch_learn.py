"""`surnia detect learn`, up to the moment when the names are read: run, recipe, settings. Imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path

from apps import options as check
from apps import run_names
from apps.launch import first_process, flat, run_kind, separate, told
from apps.launch_detect import DETECT
from apps.options import Options
from apps.recipe_options import split_options
from apps.recipes import Loaded, load
from detection.training.recipe import DetectionRecipe
from sslcore.errors import ConfigError

FIXED = ("data", "network", "engine", "first", "tasks", "labels", "seed")
"""Settings that the run has been trained with and that a further task cannot change."""

CLOSING = """\
The run stays as it is: a new one beside it begins with copies of what was learnt, and learns the named classes as its
next task, with exemplars of the earlier ones. Settings of that are options: --later.steps 300 --finetune.steps 150

  surnia detect unknowns runs/openscenes_small-1 photos --out unknowns
  (type names into unknowns/names.yaml)
  surnia detect learn runs/openscenes_small-1 unknowns/names.yaml"""


def options() -> Options:
    parser = Options("surnia detect learn", "Learn what a person named among the unknown, without forgetting.", CLOSING)
    parser.positional("RUN", check.existing, "a run of `surnia detect train` or `learn`", dest="begun")
    parser.positional("NAMES", check.existing, "names.yaml of `surnia detect unknowns`, with names typed in")
    parser.option("--run", check.path, "the new run's directory (default: RUN-task<number>)", metavar="DIR")
    parser.option("--images", check.existing, "where the pictures are now, if they have moved", metavar="DIR")
    parser.flag("--dry-run", "say what would be learnt; writes nothing")
    return parser


def learn(arguments: Sequence[str]) -> int:
    """The command; returns the process's exit code."""
    parser = options()
    own, settings = separate(arguments, parser.names)
    args = parser.read(own)
    if args.names.is_dir():
        args.names = args.names / "names.yaml"
        if not args.names.is_file():
            raise ConfigError(f"command line: NAMES  there is no {args.names}; give names.yaml, or the folder it is in")
    pairs, _ = split_options(settings)
    loaded = _recipe(args.begun, pairs, parser.names)
    if args.run is not None and first_process() and not args.dry_run:  # what is there now is not this command's
        run_names.refuse_existing(args.run, DETECT.command)
    with told(lambda: args.run, DETECT.command, dry_run=args.dry_run):
        from apps.detect_learn import run

        return run(args, loaded.recipe, command=["surnia", "detect", "learn", *arguments])


def _recipe(run_dir: Path, pairs: list[tuple[str, str | None]], names: Sequence[str]) -> Loaded[DetectionRecipe]:
    """The run's recipe with the settings given here over it."""
    if run_kind(run_dir) == "pretrain":
        raise ConfigError(f"command line: RUN  {run_dir} is a pretrained backbone, not a detector")
    if not (run_dir / "recipe.yaml").is_file():
        raise ConfigError(f"command line: RUN  {run_dir} is not a run of {DETECT.command}: it has no recipe.yaml")
    begun = load(str(run_dir / "recipe.yaml"), [], DetectionRecipe, folder=DETECT.folder).recipe
    loaded = load(str(run_dir / "recipe.yaml"), pairs, DetectionRecipe, folder=DETECT.folder, also=names)
    saved, wanted = flat(begun.as_dict()), flat(loaded.recipe.as_dict())
    changed = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key)]
    fixed = [key for key in changed if key.partition(".")[0] in FIXED]
    if fixed:
        raise ConfigError(
            *(
                f"{loaded.where(key)}  {key} is part of what {run_dir} has learnt and cannot change in a further task; "
                "leave it out, or train a new run"
                for key in fixed
            )
        )
    return loaded
