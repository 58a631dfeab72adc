"""Where recipes are: files, runs, and those that ship with Surnia."""

from pathlib import Path

from sslcore.did_you_mean import did_you_mean, nearest
from sslcore.errors import ConfigError
from sslcore.yaml_source import MAX_CHARACTERS


def shipped(folder: str = "pretrain") -> list[str]:
    """The names of the recipes that come with Surnia."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _folder(folder).iterdir() if entry.name.endswith(".yaml")
    )


def _folder(folder: str) -> Path:
    # Beside `apps` in a checkout and in an installed wheel alike.
    return Path(__file__).resolve().parent.parent / "configs" / folder


def shipped_file(name: str, folder: str = "pretrain") -> Path:
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


def recipe_text(name: str, folder: str) -> tuple[str, str, str]:
    """Text, name and label of a recipe, see `apps.recipes.load`."""
    path = Path(name)
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


def _similar_file(path: Path) -> str:
    try:
        beside = [p.name for p in path.parent.iterdir() if p.suffix in {".yaml", ".yml"}]
    except OSError:
        return f"; nor does the folder {path.parent}"
    found = nearest(path.name, beside)
    return f"; did you mean '{path.parent / found}'?" if found else ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_CHARACTERS + 1)
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}  cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}  is not UTF-8 text; is it a recipe?") from error
