"""Recipes: a YAML file and the command line, checked against a schema before anything heavy is imported.

    loaded = load("moco_resnet18_cifar10", [("optimizer.lr", "0.1")], Recipe)
    loaded.recipe.optimizer.lr

Every problem of file and command line is told at once, each with its place. The schema is any pydantic class, so the
detector's and the agent's recipes are read by the same code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from apps.problems import in_order, problems, unknown_key
from apps.recipe_text import dump
from apps.schema import (
    CHOICE,
    UnknownKey,
    accepts,
    alternatives,
    dotted,
    element,
    find,
    groups,
    literals,
    settings,
)
from sslcore.did_you_mean import did_you_mean, nearest
from sslcore.errors import ConfigError
from sslcore.yaml_source import MAX_CHARACTERS, Path, Source, read_yaml

Schema = TypeVar("Schema", bound=BaseModel)
Options = Sequence[tuple[str, str | None]]
"""Dotted name and text, in the order of the command line; None where no value was written."""


@dataclass
class Loaded(Generic[Schema]):
    """A recipe that has been checked.

    Attributes:
        recipe: the validated settings.
        name: what the recipe is called: the file's name without suffix.
        source: the values as given, each with its place.
        notes: what a person should know although nothing is wrong.
    """

    recipe: Schema
    name: str
    source: Source
    notes: list[str] = field(default_factory=list)

    def where(self, dotted_name: str) -> str:
        """Where a setting was given: `file:line:column`, `command line: --option`, or the file if it is a default."""
        path: Path = tuple(int(part) if part.isdigit() else part for part in dotted_name.split("."))
        return self.source.where(path)


def load(
    name: str, options: Options, schema: type[Schema], *, folder: str = "pretrain", also: Sequence[str] = ()
) -> Loaded[Schema]:
    """Read a recipe, lay the command line's settings over it, and validate.

    Args:
        name: path of a YAML file or of a run, or the name of a recipe that ships with Surnia. What could be both is the
            shipped one, whatever lies in the working directory: a path has a separator or a suffix (`./demo`).
        options: settings from the command line; the later of two wins.
        schema: the class that says what a recipe holds.
        folder: the folder of `configs` whose recipes may be named.
        also: options of the command that are no settings, for suggestions.

    Raises:
        ConfigError: everything that is wrong with the file, or everything wrong with file and command line together.
    """
    text, stem, label = _text(name, folder)
    source = read_yaml(text, name=label)
    if source.values is None:
        source.values = {}
    if not isinstance(source.values, dict):
        raise ConfigError(f"{source.where(())}  a recipe is made of `key: value` lines, not a list or a single value")
    _open_words(source, schema)
    found, notes = _lay_over(source, options, schema, also)
    try:
        recipe = _validate(source, schema)
    except ValidationError as error:
        found += problems(error, source, schema)
    if found:
        raise ConfigError(*in_order(found))
    return Loaded(recipe, stem, source, notes)


def load_recipe(
    name: str, schema: type[Schema], arguments: Sequence[str] = (), *, folder: str = "pretrain"
) -> tuple[Schema, str]:
    """The recipe, and its YAML with every setting written out; `arguments` are written as on the command line."""
    options, rest = split_options(arguments)
    if rest:
        raise ConfigError(f"command line: {rest[0]}  is not of the form --setting value")
    recipe = load(name, options, schema, folder=folder).recipe
    return recipe, dump(recipe)


def split_options(arguments: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """`--name value`, `--name=value` and a lone `--name` as pairs; everything else in order."""
    options, rest, position = list[tuple[str, str | None]](), list[str](), 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if not argument.startswith("--") or argument == "--":
            rest.append(argument)
            continue
        name, equals, text = argument[2:].partition("=")
        if equals:
            options.append((name, text))
        elif position < len(arguments) and not arguments[position].startswith("--"):
            # A value may begin with one hyphen: -1 is a number.
            options.append((name, arguments[position]))
            position += 1
        else:
            options.append((name, None))
    return options, rest


# --- finding the file ----------------------------------------------------------------------------------------------


def shipped(folder: str = "pretrain") -> list[str]:
    """The names of the recipes that come with Surnia."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _folder(folder).iterdir() if entry.name.endswith(".yaml")
    )


def _folder(folder: str) -> FilePath:
    # Beside `apps` in a checkout and in an installed wheel alike.
    return FilePath(__file__).resolve().parent.parent / "configs" / folder


def shipped_file(name: str, folder: str = "pretrain") -> FilePath:
    """The file of a shipped recipe: unlike its name, never a folder that happens to be called so."""
    return _folder(folder) / f"{name}.yaml"


def shipped_text(name: str, folder: str = "pretrain") -> str:
    """The YAML of a shipped recipe."""
    return shipped_file(name, folder).read_text(encoding="utf-8")


COMMANDS = {"pretrain": "surnia pretrain", "detection": "surnia detect train", "control": "surnia control train"}
"""Folders of `configs`, and the command that their recipes are for."""


def no_such_recipe(name: str, folder: str = "pretrain") -> ConfigError:
    """The error for a name that is neither a file nor shipped."""
    for other, command in COMMANDS.items():
        if other != folder and name in shipped(other):
            return ConfigError(f"'{name}' is a recipe of another command: {command} {name}")
    known = shipped(folder)
    return ConfigError(f"there is no recipe '{name}'{did_you_mean(name, known) or '; there are ' + ', '.join(known)}")


_FOR_FOLDER = {
    "pretrain": "to train on the images in it: surnia pretrain folder_cpu --data.path {0}, or surnia doctor --data {0} "
    "--write-recipe mine.yaml",
    "detection": "to train on the annotated images in it: surnia doctor --data {0} --tasks TASKS.yaml --write-recipe "
    "mine.yaml",
    "control": "an agent needs none, as its environment gives the pictures: surnia control train pixelreach",
}


def _text(name: str, folder: str) -> tuple[str, str, str]:
    """Text, name and label of a recipe."""
    path = FilePath(name)
    if name in shipped(folder):
        return shipped_text(name, folder), name, f"{name}.yaml"
    if path.is_file():
        return _read(path), path.stem, name
    if path.is_dir():
        inside = path / "recipe.yaml"
        if inside.is_file():
            return _read(inside), path.name, str(inside)
        raise ConfigError(f"{name}  is a folder without a recipe.yaml; {_FOR_FOLDER[folder].format(name)}")
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        raise ConfigError(f"{name}  does not exist{_similar_file(path) or did_you_mean(path.stem, shipped(folder))}")
    raise no_such_recipe(name, folder)


def _similar_file(path: FilePath) -> str:
    try:
        beside = [p.name for p in path.parent.iterdir() if p.suffix in {".yaml", ".yml"}]
    except OSError:
        return f"; nor does the folder {path.parent}"
    found = nearest(path.name, beside)
    return f"; did you mean '{path.parent / found}'?" if found else ""


def _read(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_CHARACTERS + 1)
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}  cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}  is not UTF-8 text; is it a recipe?") from error


# --- the command line over the file --------------------------------------------------------------------------------


def _lay_over(
    source: Source, options: Options, schema: type[BaseModel], also: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Set what the command line gives; returns problems and notes.

    Names that choose among groups come first: which settings a method has depends on `--method.name`, wherever that
    stands.
    """
    found, notes = list[str](), list[str]()
    parsed = [(option_path(name), name, text) for name, text in options]
    for path, name, text in sorted(parsed, key=lambda option: not _chooses(option[0], source.values, schema)):
        label = f"command line: --{name}"
        try:
            _expand(source, path, schema, label)
            setting = find(schema, source.values, path)
            if text and _is_named(setting.annotation) and not text.lstrip().startswith("{"):
                path = (*path, CHOICE)  # one word for a group means its name; its other settings stay
                setting = find(schema, source.values, path)
        except UnknownKey:
            found.append(f"{label}  {_unknown_option(path, source.values, schema, also)}")
            continue
        if text is None:
            if not accepts(setting.annotation, bool):
                found.append(f"{label}  needs a value")
                continue
            text = "true"
        if _chooses(path, source.values, schema):
            notes += _start_group_afresh(source, path, text, label)
        try:
            given = _value(text, setting.annotation, label)
        except ConfigError as error:
            found += error.problems
            continue
        _put(source, path, given, label)
    return found, notes


def unknown_options(options: Options, schema: type[BaseModel], also: Sequence[str] = ()) -> list[str]:
    """Problems of options that no setting could have, whatever the recipe says."""
    wrong = [(name, option_path(name)) for name, _ in options if option_path(name)[0] not in schema.model_fields]
    return [f"command line: --{name}  {_unknown_option(path, {}, schema, also)}" for name, path in wrong]


def _unknown_option(path: Path, values: Any, schema: type[BaseModel], also: Sequence[str]) -> str:
    """A wrong group with something behind it (`optimizr.lr`) is best compared as a whole."""
    if path[0] not in schema.model_fields:
        names = [*setting_names(schema), *(name.removeprefix("--") for name in also)]
        hint = did_you_mean(dotted(path), names, prefix="--")
        if hint:
            return f"unknown option{hint}"
    return unknown_key(path, values, schema, option=True)


def setting_names(schema: type[BaseModel]) -> list[str]:
    """Every dotted name of the schema, list positions as `N`."""
    return list(dict.fromkeys(dotted(setting.path) for setting in settings(schema)))


def option_path(name: str) -> Path:
    """`views.0.size` as a path; hyphens stand for underscores."""
    return tuple(int(part) if part.isdigit() else part.replace("-", "_") for part in name.split("."))


def _chooses(path: Path, values: Any, schema: type[BaseModel]) -> bool:
    """Whether the path is the `name` of a group that has several kinds, or such a group itself."""
    try:
        around = find(schema, values, path[:-1] if path[-1] == CHOICE else path)
    except UnknownKey:
        return False
    return len(groups(around.annotation)) > 1


def _is_named(annotation: Any) -> bool:
    """Whether this is a group of one kind that has a name (`network`, `backbone`)."""
    classes = groups(annotation)
    return len(classes) == 1 and element(annotation) is None and CHOICE in classes[0].model_fields


def _start_group_afresh(source: Source, path: Path, text: str, label: str) -> list[str]:
    """Another method than the file's: the file's settings were made for the other one and do not apply."""
    group = path[:-1] if path[-1] == CHOICE else path
    before = _get(source.values, group)
    if not isinstance(before, dict) or before.get(CHOICE) in {None, text}:
        return []
    _put(source, group, Source({}, {(): label}), label)
    dropped = [key for key in before if key != CHOICE]
    if not dropped:
        return []
    return [
        f"note: {dotted(group)} is {text} instead of the recipe's {before[CHOICE]}, whose settings "
        f"({', '.join(dropped)}) do not apply"
    ]


def _expand(source: Source, path: Path, schema: type[BaseModel], label: str) -> None:
    """Write out default lists on the way to a path that counts into one (`views.0.size`, no `views` in the file)."""
    for length in range(1, len(path)):
        setting = find(schema, source.values, path[:length])
        if _get(source.values, path[:length]) is None and element(setting.annotation) is not None:
            _put(source, path[:length], Source(_plain(setting.default)), label)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _value(text: str, annotation: Any, label: str) -> Source:
    """An option's text: as it is where text is wanted, else a YAML value."""
    wants_text = accepts(annotation, str) and not any(
        accepts(annotation, kind) for kind in (bool, int, float)
    )  # a path may hold any character
    if wants_text or text == "":
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"{label}  is not UTF-8 text")
        nothing = text in {"null", "None"} and accepts(annotation, type(None))
        return Source(None if nothing else text, {(): label}, {}, {(): text})
    given = read_yaml(text, name=label, marks=False)
    classes = groups(annotation)
    if classes and isinstance(given.values, str):
        _name_group(given, ())
    return given


def _get(values: Any, path: Path) -> Any:
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _put(source: Source, path: Path, given: Source, label: str) -> None:
    """Replace the value at a path, and everything that was known about it."""
    source.forget(path)
    here = source.values
    for length, part in enumerate(path[:-1], start=1):
        if isinstance(here, dict) and not isinstance(here.get(part), dict | list):
            here[part] = {}
            source.value_at[path[:length]] = label
        here = here[part]  # type: ignore[index]
    here[path[-1]] = given.values  # type: ignore[index]
    source.value_at[path] = source.key_at[path] = label
    for places, new in (
        (source.value_at, given.value_at),
        (source.key_at, given.key_at),
        (source.text_at, given.text_at),
    ):
        places.update({(*path, *inner): place for inner, place in new.items()})


# --- the schema over the values --------------------------------------------------------------------------------------


def _open_words(source: Source, schema: type[BaseModel]) -> None:
    """`method: byol` is short for `method: {name: byol}`."""
    for key, info in schema.model_fields.items():
        classes = groups(info.annotation)
        if classes and CHOICE in classes[0].model_fields and isinstance(source.values.get(key), str):
            _name_group(source, (key,))


def _name_group(source: Source, path: Path) -> None:
    word = _get(source.values, path)
    if path:
        source.values[path[0]] = {CHOICE: word}
    else:
        source.values = {CHOICE: word}
    source.value_at[(*path, CHOICE)] = source.value_at.get(path, "")
    source.text_at[(*path, CHOICE)] = source.text_at.pop(path, str(word))


def _validate(source: Source, schema: type[Schema]) -> Schema:
    """Strict validation: text is not a number and true is not 1. JSON's rules, because there a list may be a tuple."""
    _numbers_as_text(source, schema)
    return schema.model_validate_json(json.dumps(source.values), strict=True)


def _numbers_as_text(source: Source, schema: type[BaseModel]) -> None:
    """Where text is wanted and a number written (`precision: 32`, a folder called 2024), take it as it was written."""
    for path, text in source.text_at.items():
        value = _get(source.values, path)
        if value is None or isinstance(value, str | dict | list):
            continue
        try:
            annotation = find(schema, source.values, path).annotation
        except UnknownKey:
            continue
        kinds = {kind for kind, _ in alternatives(annotation)}
        if text in literals(annotation) or (str in kinds and not kinds & {bool, int, float}):
            holder = _get(source.values, path[:-1])
            holder[path[-1]] = text
