"""Images under the names that others have for them: with more folders in front, or with fewer."""

from collections.abc import Sequence
from posixpath import normpath

from sslcore.storage.messages import show_path


class FileNames:
    """Finds images of annotations by name, wherever the folder is that names begin in.

    Args:
        names: of the images, as the annotations have them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._whole = {normpath(name): i for i, name in enumerate(names)}
        self._ends = dict[str, list[int]]()
        for name, i in self._whole.items():
            for end in _ends(name):
                self._ends.setdefault(end, []).append(i)

    def find(self, name: str) -> tuple[int, ...]:
        """Places of the images that may be meant: the one of this name; else those whose names end with it, folder by
        folder; else the one with whose name it ends itself, the longest. None fits, or more than one."""
        name = normpath(name)
        if name in self._whole:
            return (self._whole[name],)
        if name in self._ends:
            return tuple(self._ends[name])
        return next(((self._whole[end],) for end in _ends(name) if end in self._whole), ())

    def listed(self, places: Sequence[int]) -> str:
        """Some of the names, for a message."""
        return " or ".join(show_path(self.names[place]) for place in places[:2])


def _ends(name: str) -> list[str]:
    """`a/b/c.jpg`: b/c.jpg, c.jpg. `/a/b.jpg`: a/b.jpg, b.jpg."""
    parts = name.split("/")
    return ["/".join(parts[k:]) for k in range(1, len(parts))]
