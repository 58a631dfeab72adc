"""Whole folders, and what killed writers left. In this package, this module and `files` alone change the file system.

A folder appears under its final name only when it is whole: it is filled under a temporary name beside that one,
flushed to the disk and renamed. What a killed writer leaves behind carries a name that `sweep_temporaries` recognises.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sslcore.storage import operations
from sslcore.storage.messages import show_path


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates a folder and its parents where they are missing.

    Raises:
        CheckpointError: the operating system refuses, or something else has that name.
    """
    path = Path(path)
    with operations.explained("create the folder", path):
        if not path.is_dir():
            operations.step("mkdir", path)
            path.mkdir(parents=True, exist_ok=True)
            operations.fsync_folder(path.parent)
    return path


def link_folder(link: Path, target: Path) -> None:
    """Gives a folder, wherever it lies, another name in a new one (a symbolic link).

    Raises:
        CheckpointError: the operating system or the file system refuses.
    """
    with operations.explained("write the link", link):
        operations.step("symlink", link)
        os.symlink(target, link, target_is_directory=True)


@contextlib.contextmanager
def new_folder(final: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """A temporary folder to fill, by `files.write_new`; it gets its final name when the block ends well, else it goes.

    Args:
        final: the name.
        replace: what has it may go; otherwise only an empty folder.
    """
    final = Path(final)
    temporary = operations.temporary_name(final)
    with operations.explained("create the folder", temporary):
        operations.step("mkdir", temporary)
        temporary.mkdir()
    try:
        yield temporary
        commit_folder(temporary, final, replace=replace)
    except BaseException:
        with contextlib.suppress(OSError):
            operations.delete(temporary)
        raise


def commit_folder(temporary: Path, final: Path, *, replace: bool = True) -> None:
    """Gives a filled folder its final name.

    A folder that has that name already is moved aside for the moment between two renames; should the process die just
    then, `sweep_temporaries` moves it back (and `retired` finds it until then). Without `replace` it is refused if it
    holds anything, by the rename itself, so that nobody can fill it in between.

    Raises:
        CheckpointError: the operating system refuses; whatever had the final name still has it.
    """
    with operations.explained("write", final):
        operations.fsync_folder(temporary)
        retired = operations.temporary_name(final, "old") if replace and os.path.lexists(final) else None
        if retired is not None:
            operations.rename(final, retired)
        try:
            operations.rename(temporary, final)
        except BaseException:
            if retired is not None:
                os.replace(retired, final)
            raise
        operations.fsync_folder(final.parent)
    if retired is not None:
        # The new folder is in place. What cannot be deleted now is deleted by the next sweep.
        with contextlib.suppress(OSError):
            operations.delete(retired)


def remove_folder(path: Path) -> None:
    """Deletes a folder. It loses its name first, so that nobody meets half of it.

    Raises:
        CheckpointError: the operating system refuses.
    """
    trash = operations.temporary_name(path)
    with operations.explained("delete", path):
        operations.rename(path, trash)
        operations.delete(trash)
        operations.fsync_folder(path.parent)


def retired(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Folders moved aside by a `commit_folder` that died between its two renames: lost name -> where it is now."""
    found = {}
    for path in _entries(folder):
        match = operations.TEMPORARY.fullmatch(path.name)
        if match and match["kind"] == "old" and not os.path.lexists(path.with_name(match["name"])):
            found[match["name"]] = path
    return found


def is_temporary(path: Path) -> bool:
    """Whether the name is one that writers give to what is not finished."""
    return operations.TEMPORARY.fullmatch(path.name) is not None


def sweep_temporaries(folder: str | os.PathLike[str]) -> list[str]:
    """Clears what killed writers left in a folder (not in its subfolders); other names are not touched.

    Call it only while holding the run's lock: a living writer's temporaries look the same.

    Returns:
        One sentence per thing deleted or restored.

    Raises:
        CheckpointError: the operating system refuses.
    """
    done = []
    folder = Path(folder)
    with operations.explained("clean up", folder):
        for name, path in retired(folder).items():
            operations.rename(path, folder / name)
            done.append(f"restored {show_path(folder / name)}, which a killed writer was about to replace")
        for path in _entries(folder):
            if is_temporary(path):
                operations.delete(path)
                done.append(f"deleted {show_path(path)}, left by a killed writer")
    return done


def _entries(folder: str | os.PathLike[str]) -> list[Path]:
    try:
        return sorted(Path(folder).iterdir())
    except FileNotFoundError:
        return []
