"""Task sets: which classes exist, in which order they are introduced, and what labels that gives them.

The label space is background 0, unknown 1, then the known classes in the order in which tasks brought them; a task that
comes later appends and moves nobody. Imports neither torch nor numpy.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from detection import task_file

BACKGROUND_NAME, UNKNOWN_NAME = task_file.RESERVED


@dataclass(frozen=True)
class TaskSet:
    """Ordered groups of class names. Tasks count from 1.

    Attributes:
        name: of the benchmark, for people.
        tasks: the class names that each task introduces.
        unknown_id: category id that unknown detections carry in result files.
        aliases: what annotation files call some of the classes, and what they are called here. Classes may be listed
            under either name; `tasks` has the canonical one.

    Raises ConfigError, listing everything that is wrong: no task, an empty task, a class that is there twice (also
    under an alias) or bears a reserved name, an alias of nothing.
    """

    name: str
    tasks: tuple[tuple[str, ...], ...]
    unknown_id: int = 0
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        listed = {"name": self.name, "tasks": self.tasks, "unknown_id": self.unknown_id, "aliases": self.aliases}
        checked = task_file.check(listed)
        for key, value in checked.items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Plain values, as `to_dict` gives them.

        Raises:
            ConfigError: see the class; also unknown keys and wrong types.
        """
        return cls(**task_file.check(values))

    @classmethod
    def from_file(cls, file: str | Path) -> Self:
        """Read a task file, or one that ships with Surnia by its name ("m_owodb", "s_owodb").

        Raises:
            ConfigError: it is not there, not YAML, or wrong; every problem with its line.
        """
        return cls(**task_file.read(file))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        values: dict[str, Any] = {"name": self.name, "tasks": [list(names) for names in self.tasks]}
        return {**values, "unknown_id": self.unknown_id, "aliases": dict(self.aliases)}

    def save(self, file: str | Path) -> None:
        """Write a task file, whole or not at all."""
        from sslcore.storage.files import write_text

        # JSON's quoted text is YAML's too.
        lines = [f"name: {_quoted(self.name)}", "tasks:"]
        lines += [f"  - [{', '.join(map(_quoted, names))}]" for names in self.tasks]
        lines.append(f"unknown_id: {self.unknown_id}")
        if self.aliases:
            lines.append("aliases:")
            lines += [f"  {_quoted(other)}: {_quoted(name)}" for other, name in self.aliases.items()]
        write_text(Path(file), "\n".join(lines) + "\n")

    # --- classes -----------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many tasks there are."""
        return len(self.tasks)

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, in the order in which tasks bring them."""
        return tuple(name for names in self.tasks for name in names)

    def canonical(self, name: str) -> str:
        """The name of a class here; a name that is no alias is returned as it is."""
        return self.aliases.get(name, name)

    def current(self, task: int) -> tuple[str, ...]:
        """Classes that `task` introduces."""
        return self.tasks[self._place(task)]

    def previous(self, task: int) -> tuple[str, ...]:
        """Classes introduced before `task`."""
        return tuple(name for names in self.tasks[: self._place(task)] for name in names)

    def known(self, task: int) -> tuple[str, ...]:
        """Classes introduced up to and with `task`."""
        return self.previous(task) + self.current(task)

    def future(self, task: int) -> tuple[str, ...]:
        """Classes introduced after `task`."""
        return tuple(name for names in self.tasks[self._place(task) + 1 :] for name in names)

    # --- labels ------------------------------------------------------------------------------------------------------

    def label_names(self, task: int) -> tuple[str, ...]:
        """Names of the labels 0, 1, 2, ... of a model that has learnt up to and with `task`."""
        return (BACKGROUND_NAME, UNKNOWN_NAME, *self.known(task))

    def label_of(self, task: int) -> dict[str, int]:
        """Label of every class that is known at `task`."""
        return {name: label for label, name in enumerate(self.label_names(task)) if name not in task_file.RESERVED}

    def _place(self, task: int) -> int:
        if not 1 <= task <= self.count:
            raise ValueError(f"task counts from 1 to {self.count} in {self.name}, not {task}")
        return task - 1


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
