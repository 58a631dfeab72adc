"""From unknown to known: collect unknown detections, group them, let a person name them, make the next task of that.

    >>> found = discover(detector.predict, "photos/", "unknowns/", known=detector.names)  # doctest: +SKIP
    >>> # a person looks at unknowns/index.html and types names into unknowns/names.yaml
    >>> lesson = learn("unknowns/names.yaml", tasks, 1, "run/lessons/2", record="run/learned.json")  # doctest: +SKIP

Names are imported when they are first used: importing this package costs nothing.
"""

from typing import TYPE_CHECKING

from sslcore._lazy import attach

if TYPE_CHECKING:
    from detection.discovery.collect import Wanted, collect_unknowns
    from detection.discovery.grouping import Group, Grouping, group_embeddings
    from detection.discovery.learned import Learned
    from detection.discovery.learning import Lesson, learn
    from detection.discovery.naming import Named, read_names, write_names
    from detection.discovery.pipeline import Discovery, discover, write_discovery
    from detection.discovery.records import FoundBy, SourceImage, UnknownObjects

_HOME = {
    "collect": ("Wanted", "collect_unknowns"),
    "pipeline": ("Discovery", "discover", "write_discovery"),
    "grouping": ("Group", "Grouping", "group_embeddings"),
    "learned": ("Learned",),
    "learning": ("Lesson", "learn"),
    "naming": ("Named", "read_names", "write_names"),
    "records": ("FoundBy", "SourceImage", "UnknownObjects"),
}

# Written out for type checkers, which cannot run `attach`.
__all__ = [
    "Discovery",
    "FoundBy",
    "Group",
    "Grouping",
    "Learned",
    "Lesson",
    "Named",
    "SourceImage",
    "UnknownObjects",
    "Wanted",
    "collect_unknowns",
    "discover",
    "group_embeddings",
    "learn",
    "read_names",
    "write_discovery",
    "write_names",
]
_, __getattr__, __dir__ = attach(__name__, _HOME)
