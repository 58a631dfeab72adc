"""Paths in recipes that lead nowhere."""

from pathlib import Path
from typing import Any

from apps.options import similar_path
from apps.recipes import Loaded


def nothing_at(loaded: Loaded[Any], name: str, given: str) -> str:
    """The sentence about a setting whose path leads nowhere; in a file, with the folder that it is relative to.

    Args:
        loaded: the recipe.
        name: of the setting, as in `data.train.0`.
        given: its path.
    """
    place, where = Path(given).expanduser(), loaded.where(name)
    said = f"{where}  {name.removesuffix(_last_number(name))}: there is nothing at '{given}'"
    file = Path(where.rsplit(":", 2)[0])
    if hint := similar_path(place):
        # A folder that is not there either may well be beside the recipe.
        return said + (_beside(file, place) or hint)
    if place.is_absolute() or not file.is_file():
        return said
    return said + (_beside(file, place) or f" in {Path.cwd()}, the folder in which the command is run")


def _last_number(name: str) -> str:
    last = name.rpartition(".")[2]
    return f".{last}" if last.isdigit() else ""


def _beside(file: Path, place: Path) -> str:
    """Where a recipe's path would have been meant relative to the recipe."""
    beside = file.parent / place
    if place.is_absolute() or not file.is_file() or not beside.exists():
        return ""
    return f", but '{beside}' is there: paths are relative to the folder in which the command is run"
