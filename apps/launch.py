"""Commands that train from a recipe, up to the moment when training begins: recipe, settings, run directory.

`surnia pretrain`, `surnia detect train` and `surnia control train` are three `Training`s; what they have in common is
here. Nothing heavy is imported.
"""

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from apps import run_names
from apps.interrupted import told_apart, what_is_left
from apps.options import Options, similar_path
from apps.recipe_files import COMMANDS, shipped
from apps.recipe_options import split_options, unknown_options
from apps.recipe_text import dump
from apps.recipes import Loaded, load
from apps.schema import listing
from sslcore.errors import ConfigError, LostProcess

Schema = TypeVar("Schema", bound=BaseModel)

SHOWN = 4  # unfinished runs that are named
INTERRUPTED = 130  # what a shell expects of a process that Ctrl-C ended


@dataclass(frozen=True)
class Training(Generic[Schema]):
    """What one kind of training has of its own.

    Attributes:
        words: how the command is called after `surnia`.
        about: a sentence for its help.
        closing: the end of its help.
        schema: what its recipes hold.
        folder: the folder of `configs` with the recipes that ship.
        may_change: settings that may differ when a run is continued.
        run_name: a recipe's run directories begin so; given the recipe's name and the recipe.
        missing: one sentence about each file or folder that a recipe names and that is not there.
        run: trains; given the recipe, and by keyword run_dir, recipe_text, command, resume and dry_run. Returns the
            process's exit code. It is what imports torch.
    """

    words: tuple[str, ...]
    about: str
    closing: str
    schema: type[Schema]
    folder: str
    may_change: frozenset[str]
    run_name: Callable[[str, Schema], str]
    missing: Callable[[Loaded[Schema]], list[str]]
    run: Callable[..., int]

    @property
    def command(self) -> str:
        """`surnia detect train`."""
        return " ".join(("surnia", *self.words))


def options(training: Training[Any]) -> Options:
    """The command's own options; a recipe's settings are options too, but belong to the recipe."""
    parser = Options(training.command, training.about, training.closing)
    parser.positional("RECIPE", str, "a YAML file, or the name of a recipe that ships with Surnia", required=False)
    parser.option("--run", str, "the run's directory (default: runs/<recipe>-<number>)", metavar="DIR")
    parser.perhaps("--resume", "continue a run: this one, or the one --run or the recipe's name means", metavar="DIR")
    parser.flag("--print-config", "print the recipe with every setting written out, and stop")
    parser.flag("--dry-run", "build everything, take a few steps, say what the run would need; writes nothing")
    parser.perhaps("--help-fields", "list all settings, or those that begin with PREFIX, and stop", metavar="PREFIX")
    return parser


def launch(training: Training[Any], arguments: Sequence[str]) -> int:
    """The command; returns the process's exit code."""
    parser = options(training)
    own, settings = separate(arguments, parser.names)
    args = parser.read(own)
    if args.help_fields is not None:
        return _help_fields(training, args.help_fields)

    pairs, _ = split_options(settings)
    loaded, run_dir, resume = _resolve(training, args, pairs, parser.names)
    if args.print_config:
        print(dump(loaded.recipe), end="")
        return 0
    if problems := training.missing(loaded):
        raise ConfigError(*problems)
    if first_process():
        if not resume and not args.dry_run:
            run_names.refuse_existing(run_dir)
        for note in loaded.notes:
            print(note, file=sys.stderr)
    with told(lambda: run_dir, training.command, dry_run=args.dry_run):
        return training.run(
            loaded.recipe,
            run_dir=run_dir,
            recipe_text=dump(loaded.recipe),
            command=["surnia", *training.words, *arguments],
            resume=resume,
            dry_run=args.dry_run,
        )


@contextmanager
def told(run_dir: Callable[[], Path | None], command: str, *, dry_run: bool) -> Iterator[None]:
    """A block that Ctrl-C may end: by the first process, with a sentence on what is left of the run and how to go on.

    Args:
        run_dir: where the run is, as far as it is known when that happens.
        command: the one that continues it.
        dry_run: it is only rehearsed.

    Raises:
        KeyboardInterrupt: with the sentence.
        LostProcess: another process of the run has ended.
        SystemExit: in place of both in all processes but the first: they meet all of them, and one speaks.
    """
    try:
        with told_apart():
            yield
    except KeyboardInterrupt as stopped:
        if not first_process():
            raise SystemExit(INTERRUPTED) from stopped
        raise KeyboardInterrupt(what_is_left(run_dir(), command, dry_run=dry_run)) from stopped
    except LostProcess as lost:
        if not first_process():
            raise SystemExit(lost.exit_code) from lost
        raise


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
        if is_setting and not equals and position < len(arguments) and not arguments[position].startswith("--"):
            target.append(arguments[position])
            position += 1
    return own, settings


def _help_fields(training: Training[Any], prefix: str) -> int:
    try:
        print(listing(training.schema, prefix))
    except ValueError as error:
        raise ConfigError(f"command line: --help-fields  {error}") from error
    return 0


def _resolve(
    training: Training[Any], args: Any, pairs: list[tuple[str, str | None]], names: Sequence[str]
) -> tuple[Loaded[Any], Path, bool]:
    """The checked recipe, the run directory, and whether the run continues."""
    resume = args.resume is not None
    if args.resume and not Path(args.resume).is_dir() and args.recipe is None and _is_recipe(training, args.resume):
        args.recipe, args.resume = args.resume, ""  # `--resume RECIPE`: the word was the recipe
    if resume and args.resume and args.run and Path(args.resume) != Path(args.run):
        raise ConfigError(f"command line: --run  names {args.run}, but --resume names {args.resume}; give one of them")
    place = args.resume or (args.run if resume else "")
    if place and not Path(place).is_dir():
        raise ConfigError(f"command line: --resume  there is no run directory '{place}'{similar_path(Path(place))}")
    if place:
        refuse_other_kind(training, Path(place))
    if args.recipe is None and not place:
        known = ", ".join(shipped(training.folder))
        missing = f"command line: RECIPE is missing: a YAML file, or one of {known}"
        if resume:
            missing = f"command line: --resume  names no run: {_which_run(training)}"
        raise ConfigError(*(unknown_options(pairs, training.schema, names) or [missing]))
    recipe = args.recipe or str(Path(place) / "recipe.yaml")
    loaded = load(recipe, pairs, training.schema, folder=training.folder, also=names)
    name = training.run_name(loaded.name, loaded.recipe)
    if not resume:
        return loaded, Path(args.run) if args.run else run_names.next_free(name), False
    run_dir = Path(place) if place else run_names.newest(name)
    if run_dir is None:
        raise ConfigError(
            f"command line: --resume  there is no run {run_names.RUNS / name}-1 to continue; {_which_run(training)}"
        )
    check_unchanged(training, loaded, run_dir, recipe_given=args.recipe is not None)
    return loaded, run_dir, True


def _which_run(training: Training[Any]) -> str:
    """How to name the run to continue, and which there are."""
    runs = run_names.unfinished(lambda run: run_kind(run) == training.folder)
    if not runs:
        return f"give the directory of one, {training.command} --resume RUN (in {run_names.RUNS} none is unfinished)"
    others = ", ".join(map(str, runs[1:SHOWN]))
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    also = f"; also unfinished: {others}{more}" if others else ""
    return f"give the directory of one, {training.command} --resume {shlex.quote(str(runs[0]))}{also}"


def _is_recipe(training: Training[Any], word: str) -> bool:
    return Path(word).is_file() or word in shipped(training.folder)


def refuse_other_kind(training: Training[Any], run_dir: Path) -> None:
    """Raises:
    ConfigError: the run was begun by another application; every key of its recipe would look wrong otherwise.
    """
    kind = run_kind(run_dir)
    if kind is not None and kind != training.folder:
        other = COMMANDS[kind]
        raise ConfigError(
            f"command line: --resume  {run_dir} is not a run of {training.command}; continue it with {other} --resume "
            f"{run_dir}"
        )


def run_kind(run_dir: Path) -> str | None:
    """Which application a run is of: "pretrain", "detection" or "control", as the folders of `configs`; None if nobody
    knows."""
    try:
        recipe = (run_dir / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Resolved recipes have every setting, and these are only the one's or the other's.
    of = {"method": "pretrain", "unknowns": "detection", "agent": "control"}
    return next((kind for key, kind in of.items() if re.search(rf"^{key}:", recipe, re.MULTILINE)), None)


def check_unchanged(training: Training[Any], loaded: Loaded[Any], run_dir: Path, *, recipe_given: bool) -> None:
    """A continued run keeps what determines its weights; else it would be neither the old run nor a new one.

    Args:
        recipe_given: `loaded` is of a recipe that was named beside the run, and not the run's own.
    """
    begun = load(str(run_dir / "recipe.yaml"), [], training.schema, folder=training.folder)
    saved, wanted = flat(begun.recipe.model_dump(mode="json")), flat(loaded.recipe.model_dump(mode="json"))
    changed = [k for k in {**saved, **wanted} if saved.get(k) != wanted.get(k) and k not in training.may_change]
    said = {
        key: f"{loaded.where(key)}  {key} is {_shown(wanted.get(key))}, but {run_dir} was begun with "
        f"{_shown(saved.get(key))}"
        for key in changed
    }
    of_recipe = [key for key in changed if recipe_given and not loaded.where(key).startswith("command line:")]
    problems = [
        f"{words}: leave it as it was, or begin a new run (without --resume)"
        for key, words in said.items()
        if key not in of_recipe
    ]
    if of_recipe:
        differ = "" if len(of_recipe) == 1 else f" (and {len(of_recipe) - 1} more of its settings differ)"
        problems.append(
            f"{said[of_recipe[0]]}{differ}: leave the recipe out, as the run has its own ({training.command} --resume "
            f"{shlex.quote(str(run_dir))}), or begin a new run (without --resume)"
        )
    if problems:
        raise ConfigError(*problems)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    out: dict[str, Any] = {}
    for key, value in pairs:
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))
        out.update(flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value})
    return out


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def first_process() -> bool:
    """Of several that were started for one run, only the first looks after the directory (and speaks)."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
