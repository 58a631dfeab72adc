"""Which pictures are the same, whatever they are called: one file, by way of links, or the same content."""

import hashlib
import os
from pathlib import Path

from detection.data.annotations import ImageRecord
from sslcore.errors import DataError
from sslcore.storage.files import read_file

LARGEST = 1 << 29
Shape = tuple[int, int, int]
"""Bytes, width, height: what two files of the same content have in common, without reading either."""


def file_hash(path: Path, *, remedy: str = "leave it out") -> tuple[str, int]:
    """SHA-256 (hexadecimal) and size in bytes of a picture's file. DataError if it cannot be read."""
    data = read_file(path, limit=LARGEST, error=DataError, remedy=remedy)
    return hashlib.sha256(data).hexdigest(), len(data)


class Places:
    """Where files really are. A folder is listed once, so that only what is a link has to be asked where it leads."""

    def __init__(self) -> None:
        self._folders = dict[str, tuple[str, set[str]]]()

    def of(self, path: Path) -> str:
        """The path without links, be the file there or not."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder), _links(folder)
        place, links = self._folders[folder]
        return os.path.realpath(path) if name in links else os.path.join(place, name)


def _links(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:
        return set()


class Contents:
    """What is in picture files: of each the size is asked for once, and it is read once at most."""

    def __init__(self) -> None:
        self._bytes = dict[str, int | None]()
        self._hashes = dict[str, str | None]()

    def shape(self, path: str | Path, record: ImageRecord) -> Shape | None:
        """None: it is gone."""
        key = str(path)
        if key not in self._bytes:
            try:
                self._bytes[key] = os.stat(key).st_size
            except OSError:
                self._bytes[key] = None
        size = self._bytes[key]
        return None if size is None else (size, record.width, record.height)

    def sha256(self, path: str | Path) -> str | None:
        """None: it cannot be read."""
        key = str(path)
        if key not in self._hashes:
            try:
                self._hashes[key] = file_hash(Path(key))[0]
            except DataError:
                self._hashes[key] = None
        return self._hashes[key]
