"""What `files` and `folders` are made of: single changes of the file system, and temporary names. Nothing else uses it.

`step` announces a change of the file system just before it happens; unannounced are only a lock's, whose content is a
mere message, and those that put the old state back after an error. With the environment variable `SURNIA_FAULT=kill:3`
the process dies at the third step (a write is then torn in the middle); with `error:3` the third raises "no space
left", with `error:3:EACCES` the named error. A fault strikes once: steps are counted from the first that meets it, and
anew only after one that met another fault or none. Tests use this to stop a writer at every step there is.
"""

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sslcore.errors import CheckpointError
from sslcore.storage.messages import explain, show_path

TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.surnia-(?P<kind>new|old)")
"""A name of `temporary_name`: `name` is the final one."""

_steps_taken = 0
_steps_of: tuple[int, str | None] = (0, None)  # process and fault of the last step: a forked child counts anew


def step(operation: str, path: str | os.PathLike[str], torn: Callable[[], object] | None = None) -> None:
    """Announces a change of the file system just before it happens; `torn` does the first half of it."""
    global _steps_taken, _steps_of
    fault = os.environ.get("SURNIA_FAULT")
    counted_for = os.getpid(), fault
    _steps_taken = (_steps_taken if counted_for == _steps_of else 0) + 1
    _steps_of = counted_for
    if not fault:
        return
    kind, number, code = [*fault.split(":"), "ENOSPC", "ENOSPC"][:3]
    if _steps_taken != int(number):
        return
    if torn is not None:
        torn()
    if kind == "kill":
        os._exit(137)
    raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), os.fspath(path))


@contextlib.contextmanager
def explained(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises what the operating system refuses in the block as a `CheckpointError` that names the path."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot {action} {show_path(_final(path))}: {explain(error)}") from error


def _final(path: str | os.PathLike[str]) -> Path:
    """The path with the names that the user knows in place of temporary ones."""
    matches = ((part, TEMPORARY.fullmatch(part)) for part in Path(path).parts)
    return Path(*(match["name"] if match else part for part, match in matches))


def temporary_name(path: Path, kind: str = "new") -> Path:
    """A name beside the final one for what is "new" and not finished, or "old" and moved aside for the moment."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.surnia-{kind}")


def write(descriptor: int, data: Any, path: Path) -> None:
    """Writes the whole buffer."""
    view = memoryview(data).cast("B")
    step("write", path, torn=lambda: os.write(descriptor, view[: len(view) // 2]))
    while len(view):
        view = view[os.write(descriptor, view) :]


def fsync(descriptor: int, path: Path) -> None:
    step("fsync", path)
    os.fsync(descriptor)


def fsync_folder(folder: Path) -> None:
    """Flushes the names in a folder, so that a rename is not lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        step("fsync folder", folder)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    step("replace", target)
    os.replace(source, target)


def unlink(path: Path) -> None:
    step("unlink", path)
    os.unlink(path)


def delete(path: Path) -> None:
    """Deletes a file, a link (not what it points to) or a folder with all that is in it."""
    if path.is_symlink() or not path.is_dir():
        unlink(path)
        return
    for entry in list(path.iterdir()):
        delete(entry)
    step("rmdir", path)
    os.rmdir(path)
