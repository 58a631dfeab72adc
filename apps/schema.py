"""Reading a pydantic schema: which settings exist, what each takes, and the words for it.

Everything a person is told about a setting (the help listing, the comments of a printed recipe, "must be a number above
0") is made here from the schema itself, so that the three cannot disagree.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sslcore.did_you_mean import did_you_mean, nearest
from sslcore.yaml_source import Path

CHOICE = "name"
"""The field that says which of several groups is meant (`method.name`); one word for a group sets it."""


@dataclass(frozen=True)
class Setting:
    """One field of the schema. `path` writes list positions as `N`."""

    path: Path
    annotation: Any
    default: Any
    required: bool
    help: str


class UnknownKey(Exception):
    """No such field: `group` is the path of the deepest group that exists, `key` what it lacks, `known` what it has."""

    def __init__(self, group: Path, key: str | int, known: Sequence[str], size: int | None = None) -> None:
        super().__init__(key)
        self.group, self.key, self.known, self.size = group, key, known, size


# --- the parts of an annotation ----------------------------------------------------------------------------------


def alternatives(annotation: Any, metadata: tuple[Any, ...] = ()) -> list[tuple[Any, tuple[Any, ...]]]:
    """The members of a union (or the one type), each with the constraints that stand on it."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return alternatives(inner, (*metadata, *more))
    if get_origin(annotation) in {Union, UnionType}:
        return [pair for member in get_args(annotation) for pair in alternatives(member, metadata)]
    return [(annotation, metadata)]


def groups(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The schema classes among the alternatives: more than one where a `name` chooses."""
    return tuple(kind for kind, _ in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel))


def element(annotation: Any) -> Any:
    """What a list or tuple holds (tuples here hold one kind of thing); None for everything else."""
    for kind, _ in alternatives(annotation):
        if get_origin(kind) in {list, tuple}:
            return get_args(kind)[0]
    return None


def literals(annotation: Any) -> list[Any]:
    """The values of every Literal among the alternatives."""
    return [value for kind, _ in alternatives(annotation) if get_origin(kind) is Literal for value in get_args(kind)]


def accepts(annotation: Any, kind: type) -> bool:
    """Whether one of the alternatives is this plain type."""
    return any(member is kind for member, _ in alternatives(annotation))


def _whole(info: FieldInfo) -> Any:
    """A field's annotation with the constraints that pydantic has moved off it."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def variant(classes: Sequence[type[BaseModel]], value: Any) -> type[BaseModel]:
    """The class that `value` (a group as plain values or a model) names, else the first."""
    if isinstance(value, BaseModel):
        return type(value)
    if isinstance(value, dict):
        for kind in classes:
            if value.get(CHOICE) in literals(kind.model_fields[CHOICE].annotation) if len(classes) > 1 else True:
                return kind
    return classes[0]


# --- finding a field ---------------------------------------------------------------------------------------------


def find(schema: type[BaseModel], values: Any, path: Path) -> Setting:
    """The field at a path.

    Args:
        schema: the root class.
        values: the plain values so far; they say which of several groups is meant, and how long lists are.
        path: keys and list positions.

    Raises:
        UnknownKey: the path leaves the schema or a list.
    """
    here: type[BaseModel] | None = schema
    setting = Setting((), schema, None, True, schema.__doc__ or "")
    for depth, key in enumerate(path):
        done, rest = path[:depth], element(setting.annotation)
        if here is not None:
            info = here.model_fields.get(str(key))
            if info is None:
                raise UnknownKey(done, key, list(here.model_fields))
            setting = _setting((*done, str(key)), info)
            values = values.get(key) if isinstance(values, dict) else None
        elif rest is not None:
            size = len(values) if isinstance(values, list) else 0
            if not isinstance(key, int) or key >= size:
                raise UnknownKey(done, key, [], size)
            setting = Setting((*done, key), rest, None, True, setting.help)
            values = values[key]
        else:
            raise UnknownKey(done, key, [])
        classes = groups(setting.annotation)
        here = variant(classes, values) if classes else None
    return setting


def _setting(path: Path, info: FieldInfo) -> Setting:
    default = info.get_default(call_default_factory=True)
    return Setting(
        path,
        _whole(info),
        None if default is PydanticUndefined else default,
        info.is_required(),
        " ".join((info.description or "").split()),
    )


def settings(schema: type[BaseModel], prefix: Path = ()) -> Iterator[Setting]:
    """Every field, groups before what they hold; where a `name` chooses, the fields of one class after the other."""
    for key, info in schema.model_fields.items():
        setting = _setting((*prefix, key), info)
        yield setting
        inner = element(setting.annotation)
        inside = (*setting.path, "N") if inner is not None else setting.path
        for group in groups(inner if inner is not None else setting.annotation):
            yield from settings(group, inside)


# --- words -------------------------------------------------------------------------------------------------------


def dotted(path: Path) -> str:
    """`views.0.size`."""
    return ".".join(str(part) for part in path)


def describe(annotation: Any) -> str:
    """What a field takes, in words: `a number above 0`, `one of moco, byol`, `auto or a whole number of at least 1`."""
    return " or ".join(dict.fromkeys(_describe(kind, metadata) for kind, metadata in alternatives(annotation)))


def _describe(kind: Any, metadata: tuple[Any, ...]) -> str:
    if kind is NoneType:
        return "null"
    if get_origin(kind) is Literal:
        values = [str(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if kind is bool:
        return "true or false"
    if kind is int:
        return "a whole number" + _bounds(metadata)
    if kind is float:
        return "a number" + _bounds(metadata)
    if kind is str:
        return "text"
    if get_origin(kind) is list:
        return f"a list, each {describe(get_args(kind)[0])}"
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        return f"a list of {len(inner)}, each {describe(inner[0])}"
    return "a group of settings"


def _bounds(metadata: tuple[Any, ...]) -> str:
    bounds: dict[str, Any] = {}
    for item in metadata:
        inner = item.metadata if isinstance(item, FieldInfo) else [item]
        for constraint in inner:
            for name in ("gt", "ge", "lt", "le"):
                if getattr(constraint, name, None) is not None:
                    bounds[name] = getattr(constraint, name)
    if "ge" in bounds and "le" in bounds:
        return f" from {bounds['ge']:g} to {bounds['le']:g}"
    words = {"gt": "above {}", "ge": "of at least {}", "lt": "below {}", "le": "of at most {}"}
    said = [words[name].format(f"{bounds[name]:.15g}") for name in words if name in bounds]
    return (" " + " and ".join(said)) if said else ""


def elsewhere(schema: type[BaseModel], key: str) -> list[str]:
    """The dotted names of the fields in any group that `key` was most likely meant to be; none if there are many."""
    names = list(dict.fromkeys(dotted(setting.path) for setting in settings(schema)))
    found = nearest(key, [name.rpartition(".")[2] for name in names])
    same = [name for name in names if name.rpartition(".")[2] == found]
    return same if len(same) <= 3 else []


def write_value(value: Any) -> str:
    """A default as a person would type it."""
    if isinstance(value, BaseModel):
        return ""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "" if any(isinstance(v, BaseModel) for v in value) else "[" + ", ".join(map(write_value, value)) + "]"
    return str(value) if value != "" else "''"


def listing(schema: type[BaseModel], prefix: str = "", *, width: int = 100) -> str:
    """Every setting whose dotted name begins with `prefix`: name, what it takes, default, meaning.

    Raises:
        ValueError: no setting begins so; the message suggests one.
    """
    wanted = [part for part in prefix.strip("-").replace("-", "_").split(".") if part]
    start: Path = tuple("N" if part.isdigit() else part for part in wanted)
    lines = _list_class(schema, (), start, width)
    if not lines:
        names = [dotted(setting.path) for setting in settings(schema)]
        raise ValueError(f"there is no setting '{prefix}'{did_you_mean(dotted(start), names)}")
    return "\n".join(lines).strip("\n")


def _list_class(schema: type[BaseModel], path: Path, start: Path, width: int) -> list[str]:
    """The plain fields of a class, then its groups, each under a heading."""
    plain, nested = list[str](), list[str]()
    for key, info in schema.model_fields.items():
        setting = _setting((*path, key), info)
        inner = element(setting.annotation)
        classes = groups(setting.annotation) or groups(inner)
        if classes:
            inside = (*setting.path, "N") if groups(inner) else setting.path
            if _on_the_way(setting.path, start) or _on_the_way(inside, start):
                nested += _list_choice(setting, inside, classes, start, width)
        elif _on_the_way(setting.path, start):
            plain += _list_setting(setting, width)
    return plain + nested


def _on_the_way(path: Path, start: Path) -> bool:
    shorter = min(len(path), len(start))
    return path[:shorter] == start[:shorter]


def _list_setting(setting: Setting, width: int) -> list[str]:
    default = "required" if setting.required else f"default {write_value(setting.default)}"
    head = f"  --{dotted(setting.path)}  {describe(setting.annotation)}; {default}"
    return [head, *textwrap.wrap(setting.help, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _list_choice(
    setting: Setting, inside: Path, classes: Sequence[type[BaseModel]], start: Path, width: int
) -> list[str]:
    name = dotted(setting.path)
    if len(classes) == 1:
        about = setting.help or " ".join((classes[0].__doc__ or "").split())
        lines = _list_class(classes[0], inside, start, width)
        return ["", *textwrap.wrap(f"{name}: {about}", width), *lines] if lines else []
    out = list[str]()
    for kind in classes:
        lines = _list_class(kind, inside, start, width)
        about = " ".join((kind.__doc__ or "").split())
        chosen = literals(kind.model_fields[CHOICE].annotation)[0]
        if lines:
            out += ["", *textwrap.wrap(f"{name} {chosen}: {about}", width), *lines]
    return out
