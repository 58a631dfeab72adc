"""Recipes: a YAML file and the command line, checked against a schema before anything heavy is imported.

    loaded = load("moco_resnet18_cifar10", [("optimizer.lr", "0.1")], Recipe)
    loaded.recipe.optimizer.lr

Every problem of file and command line is told at once, each with its place. The schema is any pydantic class, so the
detector's and the agent's recipes are read by the same code.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from apps.problems import in_order, problems
from apps.recipe_files import recipe_text
from apps.recipe_options import Options, lay_over, name_group, split_options, value_at
from apps.recipe_text import dump
from apps.schema import CHOICE, UnknownKey, alternatives, find, groups, literals
from sslcore.errors import ConfigError
from sslcore.yaml_source import Path, Source, read_yaml

Schema = TypeVar("Schema", bound=BaseModel)


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
    text, stem, label = recipe_text(name, folder)
    source = read_yaml(text, name=label)
    if source.values is None:
        source.values = {}
    if not isinstance(source.values, dict):
        raise ConfigError(f"{source.where(())}  a recipe is made of `key: value` lines, not a list or a single value")
    _open_words(source, schema)
    found, notes = lay_over(source, options, schema, also)
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


# --- the schema over the values -------------------------------------------------------------------------------------


def _open_words(source: Source, schema: type[BaseModel]) -> None:
    """`method: byol` is short for `method: {name: byol}`."""
    for key, info in schema.model_fields.items():
        classes = groups(info.annotation)
        if classes and CHOICE in classes[0].model_fields and isinstance(source.values.get(key), str):
            name_group(source, (key,))


def _validate(source: Source, schema: type[Schema]) -> Schema:
    """Strict validation: text is not a number and true is not 1. JSON's rules, because there a list may be a tuple."""
    _numbers_as_text(source, schema)
    return schema.model_validate_json(json.dumps(source.values), strict=True)


def _numbers_as_text(source: Source, schema: type[BaseModel]) -> None:
    """Where text is wanted and a number written (`precision: 32`, a folder called 2024), take it as it was written."""
    for path, text in source.text_at.items():
        value = value_at(source.values, path)
        if value is None or isinstance(value, str | dict | list):
            continue
        try:
            annotation = find(schema, source.values, path).annotation
        except UnknownKey:
            continue
        kinds = {kind for kind, _ in alternatives(annotation)}
        if text in literals(annotation) or (str in kinds and not kinds & {bool, int, float}):
            holder = value_at(source.values, path[:-1])
            holder[path[-1]] = text
