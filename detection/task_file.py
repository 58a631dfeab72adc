"""Task files: reading them, and everything that can be wrong with one, all of it said at once.

A task file is YAML of `name`, `tasks` (a list of lists of class names), perhaps `unknown_id` and `aliases` (what an
annotation file calls a class: what we call it). It is untrusted.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError
from sslcore.yaml_source import MAX_CHARACTERS, Source, read_yaml
from sslcore.yaml_source import Path as Keys

RESERVED = ("background", "unknown")
"""Labels 0 and 1."""
KEYS = ("name", "tasks", "unknown_id", "aliases")
MOST_CLASSES = 100_000
MAX_NAME = 200

Where = Callable[[Keys], str]
"""What a message about the value at some keys begins with."""


def shipped() -> list[str]:
    """Names of the task sets that come with Surnia."""
    return sorted(file.stem for file in _folder().glob("*.yaml"))


def _folder() -> Path:
    # Beside `detection` in a checkout and in an installed wheel alike.
    return Path(__file__).resolve().parent.parent / "configs" / "detection" / "tasks"


def read(file: str | Path) -> dict[str, Any]:
    """The checked values of a task file, or of a shipped task set; a bare name (`m_owodb`, not `./m_owodb`) that is one
    is the shipped one, whatever lies in the working directory.

    Raises:
        ConfigError: every problem, each with its line.
    """
    path = Path(file)
    if str(file) in shipped() and (isinstance(file, str) or not path.exists()):
        path = _folder() / f"{file}.yaml"
    source = read_yaml(_text(path), name=str(path), what="task file")
    if not isinstance(source.values, Mapping):
        raise ConfigError(f"{path}  is no task file: it needs name and tasks, a list of lists of class names")
    return check(_as_written(source), lambda keys: f"{source.where(keys)}  ")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > 4 * MAX_CHARACTERS:
            raise ConfigError(f"{path}  is longer than {4 * MAX_CHARACTERS // 1024} kB, which no task file is")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        known = shipped()
        hint = did_you_mean(path.stem, known) or f"; name a file, or one of {', '.join(known)}"
        raise ConfigError(f"task file {path} does not exist{hint}") from error
    except OSError as error:
        raise ConfigError(f"{path}  cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}  is not UTF-8 text; is it a task file?") from error


def _as_written(source: Source) -> Any:
    """Class names as they were typed: `7` and `true` are names too."""

    def build(value: Any, keys: Keys) -> Any:
        if isinstance(value, dict):
            return {key: build(inner, (*keys, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [build(inner, (*keys, i)) for i, inner in enumerate(value)]
        typed = keys != ("unknown_id",) and value is not None
        return source.text_at.get(keys, value) if typed else value

    return build(source.values, ())


def check(values: Mapping[str, Any], where: Where = lambda keys: "") -> dict[str, Any]:
    """The arguments of a `TaskSet`, canonical.

    Raises:
        ConfigError: everything that is wrong.
    """
    problems = [
        f"{where((key,))}there is no setting '{key}' in a task file{did_you_mean(str(key), KEYS)}"
        for key in values
        if key not in KEYS
    ]
    problems += [f"{where(())}'{key}' is missing" for key in ("name", "tasks") if values.get(key) is None]
    name = values.get("name")
    if name is not None and not _is_name(name):
        problems.append(f"{where(('name',))}name must be a line of text, not {_shown(name)}")
    unknown_id = values.get("unknown_id", 0)
    if not isinstance(unknown_id, int) or isinstance(unknown_id, bool) or not 0 <= unknown_id < 2**31:
        problems.append(
            f"{where(('unknown_id',))}unknown_id must be a whole number of at least 0, not {_shown(unknown_id)}"
        )
    aliases = _aliases(values.get("aliases"), where, problems)
    tasks = [] if values.get("tasks") is None else _tasks(values["tasks"], aliases, where, problems)
    classes = {name for names in tasks for name in names}
    for other, ours in aliases.items():
        if classes and ours not in classes:
            hint = did_you_mean(ours, sorted(classes))
            problems.append(f"{where(('aliases', other))}alias '{other}' stands for '{ours}', which no task has{hint}")
    if problems:
        raise ConfigError(*problems)
    return {"name": name, "tasks": tuple(map(tuple, tasks)), "unknown_id": unknown_id, "aliases": aliases}


def _aliases(given: Any, where: Where, problems: list[str]) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.append(f"{where(('aliases',))}aliases must map an annotation file's class names to those of the tasks")
        return {}
    aliases = {}
    for other, ours in given.items():
        if not _is_name(other) or not _is_name(ours):
            problems.append(f"{where(('aliases', other))}an alias must name a class, not {_shown(ours)}")
        elif other in RESERVED:
            problems.append(f"{where(('aliases', other))}'{other}' is a label of its own and no alias")
        elif other != ours:
            aliases[other] = ours
    return aliases


def _tasks(given: Any, aliases: Mapping[str, str], where: Where, problems: list[str]) -> list[list[str]]:
    if not isinstance(given, list | tuple):
        problems.append(f"{where(('tasks',))}tasks must be a list of lists of class names, not {_shown(given)}")
        return []
    if not given:
        problems.append(f"{where(('tasks',))}there is no task; give at least one list of class names")
    tasks, first = list[list[str]](), dict[str, tuple[int, str]]()
    for number, names in enumerate(given, start=1):
        here = ("tasks", number - 1)
        tasks.append([])
        if not isinstance(names, list | tuple):
            problems.append(f"{where(here)}task {number} must be a list of class names, not {_shown(names)}")
            continue
        if not names:
            problems.append(f"{where(here)}task {number} has no class")
        for i, listed in enumerate(names[:MOST_CLASSES]):
            wrong = _wrong(listed, number, aliases, first)
            if wrong:
                problems.append(f"{where((*here, i))}{wrong}")
            else:
                ours = aliases.get(listed, listed)
                first[ours] = number, listed
                tasks[-1].append(ours)
        if len(names) > MOST_CLASSES:
            problems.append(f"{where(here)}task {number} has more than {MOST_CLASSES} classes")
    return tasks


def _wrong(listed: Any, number: int, aliases: Mapping[str, str], first: Mapping[str, tuple[int, str]]) -> str | None:
    """What is wrong with one entry of a task, given the classes (canonical) so far."""
    if not _is_name(listed):
        return f"task {number}: a class must be a line of text of at most {MAX_NAME} characters, not {_shown(listed)}"
    if listed.lower() in RESERVED:
        return f"'{listed}' cannot be a class: background and unknown are labels of their own"
    ours = aliases.get(listed, listed)
    if ours not in first:
        return None
    task, before = first[ours]
    again = "again" if task == number else f"again in task {number}"
    under = "" if before == listed else f" as '{listed}', an alias of it"
    if before != listed and before != ours:
        under = f" as '{listed}', and '{before}' is an alias of it"
    twice = f"twice in task {number}" if task == number and not under else f"in task {task} and {again}{under}"
    return f"class '{before if not under else ours}' is {twice}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable() and value.strip() == value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
