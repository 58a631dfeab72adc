"""Categories of annotation files that lack some of the classes a detector knows."""

from collections.abc import Iterable
from dataclasses import replace

from detection.data.annotations import AnnotationSet


def with_categories(annotations: AnnotationSet, names: Iterable[str], *, unknown_id: int) -> AnnotationSet:
    """The same with a category for every one of these classes: none of its objects is there, but it can be found.

    Those that are missing get ids above all of the file's and above the `unknown_id` of result files.
    """
    missing = [name for name in names if name not in annotations.categories]
    first = max((*annotations.category_ids, unknown_id), default=0) + 1
    return replace(
        annotations,
        categories=(*annotations.categories, *missing),
        category_ids=(*annotations.category_ids, *range(first, first + len(missing))),
    )
