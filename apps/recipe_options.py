"""Settings of the command line, laid over the values of a recipe's file."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from apps.problems import unknown_key
from apps.schema import CHOICE, UnknownKey, accepts, dotted, element, find, groups, settings
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError
from sslcore.yaml_source import Path, Source, read_yaml

Options = Sequence[tuple[str, str | None]]
"""Dotted name and text, in the order of the command line; None where no value was written."""


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


def lay_over(
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
    before = value_at(source.values, group)
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
        if value_at(source.values, path[:length]) is None and element(setting.annotation) is not None:
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
        name_group(given, ())
    return given


def value_at(values: Any, path: Path) -> Any:
    """What stands at a path; None if nothing does."""
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


def name_group(source: Source, path: Path) -> None:
    """A group of which only the name was written, in full."""
    word = value_at(source.values, path)
    if path:
        source.values[path[0]] = {CHOICE: word}
    else:
        source.values = {CHOICE: word}
    source.value_at[(*path, CHOICE)] = source.value_at.get(path, "")
    source.text_at[(*path, CHOICE)] = source.text_at.pop(path, str(word))
