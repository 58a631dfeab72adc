"""names.yaml: where a person says what the groups are, and what reading it back makes of that."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import Indices
from detection.discovery.grouping import GROUPS, REST, Group, Grouping, count_groups
from detection.discovery.records import EMBEDDINGS, RECORDS, UnknownObjects
from detection.discovery.sheets import Sheet, sheet_names
from detection.task_file import MAX_NAME, RESERVED
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError, DataError
from sslcore.storage import files
from sslcore.storage.messages import show_path
from sslcore.yaml_source import MAX_CHARACTERS, Source, read_yaml
from sslcore.yaml_source import Path as Keys

NAMES = "names.yaml"
_KEYS = ("collection", "groups")
_GROUP_KEYS = ("group", "sheet", "size", "name", "leave_out")

_TOP = """\
# What are these? Unknown objects in {count}: look at index.html, or at the sheets.
#
#   name       what the objects of a group are. Leave it empty if they are no object, or nothing worth learning.
#              Groups of the same name become one class.
#   leave_out  numbers (under the pictures) of those that do not belong there: [3, 7]
#
{after}
# Ties this file to the groups beside it; leave it as it is.
collection: "{collection}"

groups:
"""
_ENTRY = """\
- group: {number}{about}
  sheet: {sheets}
  size: {size}
  name:
  leave_out: []
"""


def write_names(
    folder: Path, grouping: Grouping, sheets: Mapping[int, Sequence[Sheet]], *, command: str | None = None
) -> None:
    """Write names.yaml with an empty name for every group.

    Args:
        folder: where to.
        grouping: the groups.
        sheets: of every group, by its number.
        command: what to run when the names are there; written into the file.

    Raises:
        CheckpointError: it cannot be written.
    """
    after = f"# Then run: {command}\n#" if command else "#"
    text = _TOP.format(count=grouping.counted(), after=after, collection=grouping.fingerprint)
    for group in grouping.groups:
        about = "  # these fit no group; name them only if all that are not left out are of one kind"
        text += "\n" + _ENTRY.format(
            number=group.number,
            about=about if group.number == REST else "",
            sheets=sheet_names(sheets[group.number]),
            size=len(group),
        )
    files.write_text(folder / NAMES, text)


@dataclass(frozen=True, eq=False)
class Named:
    """What a person made of a collection.

    Attributes:
        unknowns: all objects.
        classes: name of each new class, and the indices of its objects (rising), in the groups' order.
        group_of: (n,) number of each object's group.
        notes: what was understood: groups that were put together, how many stayed without a name.
    """

    unknowns: UnknownObjects
    classes: Mapping[str, Indices]
    group_of: Indices
    notes: tuple[str, ...]


def read_names(
    file: str | Path,
    *,
    known: Sequence[str],
    canonical: Callable[[str], str] = lambda name: name,
    root: str | Path | None = None,
) -> Named:
    """Read a names.yaml that a person has filled in, and check it against the groups and pictures it is about.

    Args:
        file: the file; what it is about lies beside it.
        known: classes that exist already.
        canonical: the name under which a class is kept (`TaskSet.canonical`).
        root: where the pictures are now, if they have moved together.

    Raises:
        ConfigError: everything that is wrong in the file, each with its line; also pictures that are gone or changed.
        DataError: the collection beside it is gone, damaged or not the file's; or only pictures are gone or changed.
    """
    path = Path(file)
    reading = _Reading(_source(path), show_path(path))
    _check_beside(path)
    unknowns = UnknownObjects.load(path.parent, root=root)
    grouping = Grouping.load(path.parent, objects=len(unknowns))
    reading.collect(grouping, tuple(known), canonical)
    members = {
        name: np.sort(np.concatenate([group.members[kept] for group, kept in parts]))
        for name, parts in reading.classes.items()
    }
    touched = np.unique(unknowns.box_image[np.concatenate([*members.values(), np.zeros(0, dtype=np.int64)])])
    changed = unknowns.changed(touched.tolist())
    if reading.problems:
        raise ConfigError(*reading.problems, *changed)
    if changed:
        raise DataError("\n".join(changed))
    group_of = np.zeros(len(unknowns), dtype=np.int64)
    for group in grouping.groups:
        group_of[group.members] = group.number
    return Named(unknowns, members, group_of, tuple(reading.notes(grouping)))


def _check_beside(path: Path) -> None:
    """DataError if the file of names does not lie where it was written."""
    missing = [name for name in (RECORDS, EMBEDDINGS, GROUPS) if not (path.parent / name).exists()]
    if missing:
        raise DataError(
            f"{show_path(path)} has to lie beside its groups, but there is no {missing[0]} in "
            f"{show_path(path.parent.absolute())}: put the file back into the folder that surnia detect unknowns wrote "
            "it into, as its names would not fit the groups of another"
        )


def _source(path: Path) -> Source:
    shown = show_path(path)
    if path.is_dir():
        raise ConfigError(f"{shown} is a folder; give the {NAMES} in it")
    data = files.read_file(
        path, limit=4 * MAX_CHARACTERS, error=ConfigError, remedy=f"give the {NAMES} of a folder of unknown objects"
    )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}  is not UTF-8 text; save it as UTF-8") from error
    return read_yaml(text, name=shown, what="file of names")


@dataclass
class _Reading:
    """Goes through the file and gathers what it says, and what is wrong with it."""

    source: Source
    shown: str
    problems: list[str] = field(default_factory=list)
    classes: dict[str, list[tuple[Group, Indices]]] = field(default_factory=dict)

    def collect(self, grouping: Grouping, known: Sequence[str], canonical: Callable[[str], str]) -> None:
        values = self.source.values
        if not isinstance(values, dict) or not isinstance(values.get("groups"), list):
            raise ConfigError(f"{self.shown}  is no file of names: it needs a list of groups")
        self._unknown_keys(values, _KEYS, ())
        if values.get("collection") is None:
            self.problems.append(
                f"{self.shown}  the line that ties the names to their groups is missing: put back  collection: "
                f'"{grouping.fingerprint}"  above the groups if the file was written for those beside it, else run '
                f"surnia detect unknowns again and type the names into its {NAMES}"
            )
        elif self.source.text_at.get(("collection",)) != grouping.fingerprint:
            raise DataError(
                f"{self.source.where(('collection',))}  these names were written for other groups than those beside "
                f"the file; put it back beside its own, or type the names into {NAMES} anew"
            )
        groups = {group.number: group for group in grouping.groups}
        seen: dict[int, str] = {}
        for i, entry in enumerate(values["groups"]):
            group = self._group(entry, ("groups", i), groups, seen)
            if group is not None:
                self._entry(entry, ("groups", i), group, known, canonical)

    def notes(self, grouping: Grouping) -> list[str]:
        """What was understood, in sentences."""
        said = [
            f"{_groups([group.number for group, _ in parts])} are {'both' if len(parts) == 2 else 'all'} '{name}'"
            for name, parts in self.classes.items()
            if len(parts) > 1
        ]
        named = {group.number for parts in self.classes.values() for group, _ in parts}
        kinds, rest = grouping.kinds, grouping.rest
        unnamed = sum(group.number not in named for group in kinds)
        without = [f"{unnamed} of {count_groups(len(kinds))}"] if unnamed else []
        if rest is not None and REST not in named:
            without.append("the rest, which fits no group,")
        if without:
            plural = unnamed > 1 or len(without) > 1
            have, are = ("have", "are") if plural else ("has", "is")
            said.append(f"{' and '.join(without)} {have} no name and {are} not learned")
        return said

    def _group(self, entry: Any, keys: Keys, groups: Mapping[int, Group], seen: dict[int, str]) -> Group | None:
        if not isinstance(entry, dict):
            self._say(keys, "each group is an entry with group, name and leave_out")
            return None
        self._unknown_keys(entry, _GROUP_KEYS, keys)
        number, at = entry.get("group"), (*keys, "group")
        if type(number) is not int or number not in groups:
            self._say(at, f"there is no group {_shown(number)}; there {_existing(sorted(groups))}")
            return None
        if number in seen:
            self._say(at, f"group {number} is there twice; the first stands at {seen[number]}")
            return None
        seen[number] = self.source.where(at)
        return groups[number]

    def _entry(
        self, entry: dict[str, Any], keys: Keys, group: Group, known: Sequence[str], canonical: Callable[[str], str]
    ) -> None:
        kept = self._kept(entry.get("leave_out"), (*keys, "leave_out"), group)
        name = self._name(entry.get("name"), (*keys, "name"), known, canonical)
        if name is None:
            return
        if not len(kept):
            self._say((*keys, "name"), f"group {group.number} is '{name}', but all its pictures are left out")
        self.classes.setdefault(name, []).append((group, kept))

    def _name(self, value: Any, keys: Keys, known: Sequence[str], canonical: Callable[[str], str]) -> str | None:
        """The class; None if there is none, or none that can be used."""
        if value is None or value == "":
            return None
        if isinstance(value, list | dict):
            self._say(keys, "a name is one line of text")
            return None
        typed = self.source.text_at[keys].strip()  # `7` and `true` are names too
        if not typed:
            return None
        if not typed.isprintable() or len(typed) > MAX_NAME:
            self._say(keys, f"a name is one line of text of at most {MAX_NAME} characters")
            return None
        name = canonical(typed)
        taken = {other.casefold(): other for other in (*known, *RESERVED)}
        if name.casefold() in taken:
            self._say(keys, _taken(taken[name.casefold()]))
            return None
        for other in self.classes:
            if other != name and other.casefold() == name.casefold():
                self._say(keys, f"'{name}' and '{other}' differ in capitals only; write both alike")
        return name

    def _kept(self, value: Any, keys: Keys, group: Group) -> Indices:
        """Positions in the group that are not left out."""
        keep = np.ones(len(group), dtype=bool)
        if value is None:
            value = []
        if not isinstance(value, list):
            self._say(keys, "leave_out is a list of numbers, as [3, 7]")
            return np.flatnonzero(keep)
        for i, number in enumerate(value):
            if type(number) is int and 1 <= number <= len(group):
                keep[number - 1] = False
            else:
                self._say(
                    (*keys, i),
                    f"group {group.number} has no picture {_shown(number)}; its numbers go from 1 to {len(group)}",
                )
        return np.flatnonzero(keep)

    def _unknown_keys(self, values: dict[str, Any], known: Sequence[str], keys: Keys) -> None:
        for key in values:
            if key not in known:
                place = self.source.where((*keys, key), key=True)
                self.problems.append(f"{place}  there is no '{key}' in a file of names{did_you_mean(key, known)}")

    def _say(self, keys: Keys, sentence: str) -> None:
        self.problems.append(f"{self.source.where(keys)}  {sentence}")


def _taken(name: str) -> str:
    if name in RESERVED:
        return f"'{name}' means something else here; give another name, or none"
    return (
        f"'{name}' is a known class already, and a task teaches new ones only: leave the name empty, or give another "
        f"if these are another kind; to teach more of '{name}', add the pictures to its task's training annotations "
        "and train a new run"
    )


def _listed(words: Sequence[str]) -> str:
    return "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"


def _groups(numbers: Sequence[int]) -> str:
    """The groups of these numbers; the rest is no group of its own."""
    kinds = [str(number) for number in numbers if number != REST]
    listed = [*kinds, "the rest"] if REST in numbers else kinds
    return f"{'group' if len(kinds) == 1 else 'groups'} {_listed(listed)}"


def _existing(numbers: Sequence[int]) -> str:
    kinds = [number for number in numbers if number != REST]
    listed = _listed([str(number) for number in kinds]) if len(kinds) < 8 else f"{kinds[0]} to {kinds[-1]}"
    rest = [f"{REST}, the rest that fits no group"] if REST in numbers else []
    return f"{'is' if len(numbers) == 1 else 'are'} {' and '.join([listed] * bool(kinds) + rest) or 'none'}"


def _shown(value: Any) -> str:
    text = "without a number" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
