"""Which classes the tasks of OpenScenes teach, and which no task ever does.

The demo's 32 classes are dealt by hand, 15 more are *far unknown*. Within a task the classes stand by falling frequency
in training. Anyone's own art is dealt by rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.data.scenes import kenney
from detection.data.scenes.catalogue import ArtCatalogue
from sslcore.errors import DataError

Variant = Literal["M", "S"]
VARIANTS: tuple[Variant, ...] = ("M", "S")

MOST_TASKS = 4
FEWEST_TASKS = 2
FEWEST_CLASSES = 2  # of a task
_FAR_SHARE = 5  # of anyone's own art every fifth class is far unknown

# Every task mixes beings, critters, items and what moves or lies about. The first has the classes with the most
# distinct drawings: what a detector learns of objects as such, it learns there.
_MIXED = (
    ("robot", "tank", "femaleAdventurer", "card", "flag", "slime", "switch", "worm"),
    ("zombie", "meteor", "maleAdventurer", "gem", "ship", "key", "frog", "fish"),
    ("malePerson", "coin", "alien", "tree", "cardback", "sign", "bee", "mouse"),
    ("femalePerson", "car", "lever", "torch", "lock", "ladybug", "star", "fly"),
)


@dataclass(frozen=True)
class Deal:
    """Classes by task, in the tasks' order, and the far unknown ones, which no task labels."""

    tasks: tuple[tuple[str, ...], ...]
    far: tuple[str, ...]

    @property
    def far_seen(self) -> tuple[str, ...]:
        """The far unknown classes that training images show, too; the others are met in the test for the first time."""
        return self.far[::2]

    @property
    def known(self) -> tuple[str, ...]:
        """The classes of all tasks."""
        return tuple(name for task in self.tasks for name in task)

    def others(self, task: int) -> tuple[str, ...]:
        """The classes of all tasks but this one (counted from 1), each task's first ones in front."""
        rest = [classes for k, classes in enumerate(self.tasks, start=1) if k != task]
        longest = max(map(len, rest))
        return tuple(classes[k] for k in range(longest) for classes in rest if k < len(classes))


def deal_kenney(variant: Variant) -> Deal:
    """The demo's classes: M mixes super-categories in every task, S gives each task one of its own."""
    far = tuple(kenney.TABLE[kenney.FAR])
    if variant == "M":
        return Deal(_MIXED, far)
    return Deal(tuple(tuple(classes) for name, classes in kenney.TABLE.items() if name != kenney.FAR), far)


def deal_own(art: ArtCatalogue, variant: Variant, source: str) -> Deal:
    """Anyone's own classes, in up to four tasks of at least two classes.

    A super-category called "far unknown" is never taught. Without one, M leaves the fifth of the classes with the
    fewest drawings untaught and deals the others round-robin, so that every task gets some of each super-category; S
    leaves the smallest of three or more super-categories untaught and gives each of the others to one task. A
    super-category with one class makes no task and is far unknown in S.

    Args:
        source: what to call the art in messages.

    Raises DataError if there are too few classes, for S too few super-categories.
    """
    by_super: dict[str, list[str]] = {}
    for name in sorted(art.classes, key=lambda name: -len(art.of(name))):  # more drawings: more frequent
        by_super.setdefault(art.supercategory(name), []).append(name)
    far = tuple(by_super.pop(kenney.FAR, ()))
    return _deal_mixed(by_super, far, source) if variant == "M" else _deal_apart(by_super, far, source)


def _deal_mixed(by_super: dict[str, list[str]], far: tuple[str, ...], source: str) -> Deal:
    classes = [name for names in by_super.values() for name in names]
    if len(classes) < FEWEST_TASKS * FEWEST_CLASSES:
        raise DataError(
            f"{source} has {len(classes)} classes to learn ({', '.join(classes) or 'none'}): OpenScenes needs at least "
            f"{FEWEST_TASKS * FEWEST_CLASSES}, for {FEWEST_TASKS} tasks of {FEWEST_CLASSES}; add class folders"
        )
    if not far:
        # Nobody learns their names, so that few drawings do least harm there; the longest super-category gives first.
        lists = [list(names) for names in by_super.values()]
        far = tuple(max(lists, key=len).pop() for _ in range(len(classes) // _FAR_SHARE))
        classes = [name for names in by_super.values() for name in names if name not in far]
    count = min(MOST_TASKS, len(classes) // FEWEST_CLASSES)
    return Deal(tuple(tuple(classes[k::count]) for k in range(count)), far)


def _deal_apart(by_super: dict[str, list[str]], far: tuple[str, ...], source: str) -> Deal:
    groups = [names for names in by_super.values() if len(names) >= FEWEST_CLASSES]
    small = [name for names in by_super.values() if len(names) < FEWEST_CLASSES for name in names]
    if len(groups) < FEWEST_TASKS:
        raise DataError(
            f"{source} has {len(groups)} super-categories of at least {FEWEST_CLASSES} classes: the variant S needs "
            f"{FEWEST_TASKS}, in folders <super-category>/<class>/; for any other art take the variant M"
        )
    if not far and not small and len(groups) > FEWEST_TASKS:
        small = groups.pop(_smallest(groups))
    tasks: list[list[str]] = [[] for _ in range(min(MOST_TASKS, len(groups)))]
    for names in groups:
        tasks[_smallest(tasks)].extend(names)
    return Deal(tuple(map(tuple, tasks)), far + tuple(small))


def _smallest(groups: Sequence[Sequence[str]]) -> int:
    return min(range(len(groups)), key=lambda k: len(groups[k]))
