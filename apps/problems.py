"""What pydantic found wrong, as sentences: place, what is wrong, and the remedy.

`recipe.yaml:3:3  unknown key 'epoch'; did you mean 'epochs'?`
"""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from apps.schema import (
    CHOICE,
    Setting,
    UnknownKey,
    alternatives,
    describe,
    dotted,
    elsewhere,
    find,
    groups,
    literals,
)
from sslcore.did_you_mean import did_you_mean
from sslcore.yaml_source import Path, Source

_CODE_KEYS = {"class_path", "init_args", "_target_", "_partial_", "callable", "import", "module", "function", "cls"}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def problems(error: ValidationError, source: Source, schema: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong, in the order of the recipe's schema, without repetitions."""
    out = list[str]()
    for found in error.errors(include_url=False):
        path = value_path(found["loc"], source.values, missing=found["type"] == "missing")
        if found["type"] == "value_error":
            out += _from_validator(str(found["ctx"]["error"]), path, source, schema)
        elif found["type"] == "extra_forbidden":
            out.append(f"{source.where(path, key=True)}  {unknown_key(path, source.values, schema)}")
        else:
            chosen = (*path, CHOICE) if found["type"] == "union_tag_invalid" else path
            out.append(f"{source.where(chosen)}  {_sentence(found, path, source, schema)}")
    return list(dict.fromkeys(out))


def in_order(lines: Sequence[str]) -> list[str]:
    """Problems of a file by line and column, then those of the command line as they came."""

    def place(line: str) -> tuple[bool, int, int]:
        match = re.match(r".*?:(\d+):(\d+)  ", line)
        return (False, int(match[1]), int(match[2])) if match else (True, 0, 0)

    return sorted(dict.fromkeys(lines), key=place)


def value_path(location: Sequence[str | int], values: Any, *, missing: bool) -> Path:
    """Pydantic's location without the names of union members that it mixes in."""
    path: list[str | int] = []
    for i, part in enumerate(location):
        inside = (isinstance(values, dict) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        )
        if inside:
            path.append(part)
            values = values[part]
        elif missing and i == len(location) - 1:
            path.append(part)
    return tuple(path)


def unknown_key(path: Path, values: Any, schema: type[BaseModel], *, option: bool = False) -> str:
    """The sentence for a key that the group around it does not have."""
    *group, key = path
    try:
        kind = find(schema, values, tuple(group))
        find(schema, values, path)
    except UnknownKey as error:
        return _unknown(error, values, schema, option=option)
    return f"unknown key '{key}' in {kind.path}"


def _unknown(error: UnknownKey, values: Any, schema: type[BaseModel], *, option: bool) -> str:
    group, key = dotted(error.group), str(error.key)
    if error.size is not None:
        places = f"it has {error.size}, counted from 0" if error.size else "it is empty"
        return f"there is no {dotted((*error.group, error.key))}: {group} is a list and {places}"
    if not error.known:
        return f"{group} is a single value and has no '{key}'"
    prefix = f"--{group}." if option and group else "--" if option else ""
    name = _chosen(error.group, values)
    place = f" in {group}" + (f" ({name})" if name else "") if group else ""
    said = f"unknown {'setting' if option else 'key'} '{key}'{place}"
    if key in _CODE_KEYS:
        return f"{said}; a recipe names only Surnia's own parts, never code to import"
    hint = did_you_mean(key, error.known, prefix=prefix)
    if hint:
        return said + hint
    others = [name for name in elsewhere(schema, key) if name.rpartition(".")[0] != group]
    if others:
        names = " or ".join(f"'{'--' if option else ''}{name}'" for name in others)
        return f"{said}; did you mean {names}?"
    return f"{said}; there are {', '.join(error.known)}"


def _chosen(group: Path, values: Any) -> str:
    for part in group:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return str(values[CHOICE]) if isinstance(values, dict) and CHOICE in values else ""


def _sentence(found: Any, path: Path, source: Source, schema: type[BaseModel]) -> str:
    kind, given = found["type"], found["input"]
    name = dotted(path) or "the recipe"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _choice(path, given, source, schema)
    setting = _setting_at(schema, source.values, path)
    if kind == "missing":
        return _missing(path, setting, schema)
    if kind in _BOUNDS and setting is not None and len(alternatives(setting.annotation)) == 1:
        key, words = _BOUNDS[kind]
        return f"{name} must be {words} {found['ctx'][key]:.15g}, not {shown(given, path, source)}"
    if kind in {"too_short", "too_long"} and setting is not None:
        return _wrong_length(found, name)
    if setting is None:
        return f"{name} is not right: {found['msg']}"
    said = f"{name} must be {describe(setting.annotation)}, not {shown(given, path, source)}"
    choices = [str(value) for value in literals(setting.annotation)]
    if choices and isinstance(given, str):
        said += did_you_mean(given, choices) or _no_import(given)
    return said


def _setting_at(schema: type[BaseModel], values: Any, path: Path) -> Setting | None:
    try:
        return find(schema, values, path)
    except UnknownKey:
        return None


def _choice(path: Path, given: Any, source: Source, schema: type[BaseModel]) -> str:
    """A group of which there are several kinds, with a `name` that none of them has."""
    setting = find(schema, source.values, path)
    names = [str(v) for kind in groups(setting.annotation) for v in literals(kind.model_fields[CHOICE].annotation)]
    here = dotted((*path, CHOICE))
    if not isinstance(given, dict) or CHOICE not in given:
        return f"{here} is missing: one of {', '.join(names)}"
    tag = given[CHOICE]
    said = f"{here} must be one of {', '.join(names)}, not {shown(tag, (*path, CHOICE), source)}"
    return said + (did_you_mean(tag, names) or _no_import(tag)) if isinstance(tag, str) else said


def _no_import(text: str) -> str:
    if re.fullmatch(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+", text):
        return "; a recipe names only Surnia's own parts, never code to import"
    return ""


def _missing(path: Path, setting: Setting | None, schema: type[BaseModel]) -> str:
    name = dotted(path)
    if setting is None:
        # A place in a list of fixed length.
        return f"{dotted(path[:-1])} has too few entries"
    choices = groups(setting.annotation)
    if len(choices) > 1:
        names = [str(v) for kind in choices for v in literals(kind.model_fields[CHOICE].annotation)]
        return f"{name} is missing: say `{name}: {{{CHOICE}: ...}}` with one of {', '.join(names)}"
    return f"{name} is missing: {describe(setting.annotation)}"


def _wrong_length(found: Any, name: str) -> str:
    context = found["ctx"]
    if context.get("min_length") == 1:
        return f"{name} must not be empty"
    if found["type"] == "too_short":
        return f"{name} must have at least {context['min_length']} entries, not {context['actual_length']}"
    return f"{name} must have {context['max_length']} entries, not {len(found['input'])}"


def shown(value: Any, path: Path, source: Source) -> str:
    """A value as it stands in the source, short enough for one line."""
    if isinstance(value, dict):
        return "a group"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    written = source.text_at.get(path)
    if value is None and not written:
        return "nothing"
    text = written if written is not None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _from_validator(text: str, path: Path, source: Source, schema: type[BaseModel]) -> list[str]:
    """A check across fields: its message, one line a problem, each line beginning with the field it is about."""
    out = []
    for line in text.splitlines():
        word = line.split()[0]
        field: Path = (*path, *(int(part) if part.isdigit() else part for part in word.split(".")))
        known = _setting_at(schema, source.values, field) is not None
        said = f"{dotted(path)}.{line}" if known and path else line
        out.append(f"{source.where(field if known else path)}  {said}")
    return out
