"""`surnia pretrain`, up to the moment when training begins: recipe, settings, run directory. Imports nothing heavy."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps import run_names
from apps.options import Options, similar_path
from apps.recipes import Loaded, dump, load, shipped, split_options, unknown_options
from apps.schema import listing
from sslcore.errors import ConfigError
from sslcore.pretrain.recipe import Recipe

MAY_CHANGE = {
    "data.path", "data.workers", "data.worker_timeout", "data.bad_images", "probe.every_epochs", "probe.neighbours",
    "probe.temperature", "probe.limit", "devices", "nodes", "threads", "checkpoint_every", "keep_checkpoints",
    "diagnostics",
}  # fmt: skip
"""Settings that may differ when a run is continued. Most have no part in its weights; devices, nodes and threads change
rounding, and batch norm statistics that each process takes of its own share."""

_WITH_VALUE, _PERHAPS_VALUE = {"--run"}, {"--resume", "--help-fields"}


def options() -> Options:
    closing = """\
Every setting of a recipe is an option too: --optimizer.lr 0.1 --views.0.size 32 --method byol
List them with --help-fields, or a part of them with --help-fields method.

  surnia pretrain folder_cpu --data.path pictures --dry-run
  surnia pretrain folder_cpu --data.path pictures
  surnia pretrain --resume runs/folder_cpu-simclr-1"""
    parser = Options("surnia pretrain", "Train a backbone on images without labels.", closing)
    parser.positional("RECIPE", str, "a YAML file, or the name of a recipe that ships with Surnia", required=False)
    parser.option("--run", str, "the run's directory (default: runs/<recipe>-<number>)", metavar="DIR")
    parser.perhaps("--resume", "continue a run: this one, or the one --run or the recipe's name means", metavar="DIR")
    parser.flag("--print-config", "print the recipe with every setting written out, and stop")
    parser.flag("--dry-run", "build everything, take a few steps, say what the run would need; writes nothing")
    parser.perhaps("--help-fields", "list all settings, or those that begin with PREFIX, and stop", metavar="PREFIX")
    return parser


def pretrain(arguments: Sequence[str]) -> int:
    """The command; returns the process's exit code."""
    parser = options()
    own, settings = separate(arguments, parser.names)
    args = parser.read(own)
    if args.help_fields is not None:
        return _help_fields(args.help_fields)

    pairs, _ = split_options(settings)
    loaded, run_dir, resume = _resolve(args, pairs, parser.names)
    if args.print_config:
        print(dump(loaded.recipe), end="")
        return 0
    _check_paths(loaded)
    if _first_process():
        if not resume and not args.dry_run:
            run_names.refuse_existing(run_dir)
        for note in loaded.notes:
            print(note, file=sys.stderr)

    from apps.pretrain import run

    return run(
        loaded.recipe,
        run_dir=run_dir,
        recipe_text=dump(loaded.recipe),
        command=["surnia", "pretrain", *arguments],
        resume=resume,
        dry_run=args.dry_run,
    )


def separate(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the recipe's settings with their values."""
    own, settings, position = list[str](), list[str](), 0
    while position < len(arguments):
        argument = arguments[position]
        name, equals, _ = argument.partition("=")
        is_setting = argument.startswith("--") and argument != "--" and name not in names
        target = settings if is_setting else own
        target.append(argument)
        position += 1
        takes_value = not equals and (is_setting or name in _WITH_VALUE | _PERHAPS_VALUE)
        if takes_value and position < len(arguments) and not arguments[position].startswith("--"):
            target.append(arguments[position])
            position += 1
    return own, settings


def _help_fields(prefix: str) -> int:
    try:
        print(listing(Recipe, prefix))
    except ValueError as error:
        raise ConfigError(f"command line: --help-fields  {error}") from error
    return 0


def _resolve(args: Any, pairs: list[tuple[str, str | None]], names: Sequence[str]) -> tuple[Loaded[Recipe], Path, bool]:
    """The checked recipe, the run directory, and whether the run continues."""
    resume = args.resume is not None
    if args.resume and not Path(args.resume).is_dir() and args.recipe is None and _is_recipe(args.resume):
        args.recipe, args.resume = args.resume, ""  # `--resume RECIPE`: the word was the recipe
    if resume and args.resume and args.run and Path(args.resume) != Path(args.run):
        raise ConfigError(f"command line: --run  names {args.run}, but --resume names {args.resume}; give one of them")
    place = args.resume or (args.run if resume else "")
    if place and not Path(place).is_dir():
        raise ConfigError(f"command line: --resume  there is no run directory '{place}'{similar_path(Path(place))}")
    if args.recipe is None and not place:
        raise ConfigError(
            *(
                unknown_options(pairs, Recipe, names)
                or [f"command line: RECIPE is missing: a YAML file, or one of {', '.join(shipped())}"]
            )
        )
    loaded = load(args.recipe or str(Path(place) / "recipe.yaml"), pairs, Recipe, also=names)
    name = run_names.stem(loaded.name, loaded.recipe.method.name)
    if not resume:
        return loaded, Path(args.run) if args.run else run_names.next_free(name), False
    run_dir = Path(place) if place else run_names.newest(name)
    if run_dir is None:
        raise ConfigError(f"command line: --resume  there is no run {run_names.RUNS / name}-1 to continue; name one")
    _check_unchanged(loaded, run_dir)
    return loaded, run_dir, True


def _is_recipe(word: str) -> bool:
    return Path(word).is_file() or word in shipped()


def _check_unchanged(loaded: Loaded[Recipe], run_dir: Path) -> None:
    """A continued run keeps what determines its weights; else it would be neither the old run nor a new one."""
    saved = _flat(load(str(run_dir / "recipe.yaml"), [], Recipe).recipe.as_dict())
    wanted = _flat(loaded.recipe.as_dict())
    changed = [key for key in {**saved, **wanted} if saved.get(key) != wanted.get(key) and key not in MAY_CHANGE]
    if changed:
        raise ConfigError(
            *(
                f"{loaded.where(key)}  {key} is {_shown(wanted.get(key))}, but {run_dir} was begun with "
                f"{_shown(saved.get(key))}: leave it as it was, or begin a new run (without --resume)"
                for key in changed
            )
        )


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    out: dict[str, Any] = {}
    for key, value in pairs:
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
        out.update(_flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return out


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _check_paths(loaded: Loaded[Recipe]) -> None:
    problems = []
    data, weights = loaded.recipe.data.path, loaded.recipe.backbone.weights
    folder = Path(data).expanduser()
    if not data and loaded.recipe.data.kind == "fashion_mnist":
        pass  # Debian's package has a fixed place for it
    elif not data:
        problems.append(
            f"{loaded.where('data.path')}  data.path is missing: say where the images are, here or with --data.path DIR"
        )
    elif not folder.exists():
        problems.append(f"{loaded.where('data.path')}  data.path: there is nothing at '{data}'{similar_path(folder)}")
    elif not folder.is_dir():
        problems.append(f"{loaded.where('data.path')}  data.path: '{data}' is a file, not a folder; unpack archives")
    if weights is not None and not Path(weights).exists():
        problems.append(
            f"{loaded.where('backbone.weights')}  backbone.weights: there is nothing at '{weights}'"
            f"{similar_path(Path(weights))}"
        )
    if problems:
        raise ConfigError(*problems)


def _first_process() -> bool:
    """Of several that were started for one run, only the first looks after the directory (and speaks)."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
