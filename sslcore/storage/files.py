"""The only module that opens a run's files for writing.

A file or folder appears under its final name only when it is whole: it is written under a temporary name in the same
folder, flushed to the disk, renamed, and the folder is flushed too, because a rename that only the cache knows is lost
with the power. What a killed writer leaves behind carries a name that `sweep_temporaries` recognises.

Every change of the file system passes through `_step`. With the environment variable `SURNIA_FAULT=kill:3` the process
dies at the third of them (a write is then torn in the middle); with `error:3` the third raises "no space left", with
`error:3:EACCES` the named error. Tests use this to stop a writer at every step there is.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sslcore.errors import CheckpointError, SurniaError

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.surnia-(?P<kind>new|old)")
_BLOCK = 1 << 16

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EFBIG: "raise the file size limit (ulimit -f) or choose another file system",
    errno.EACCES: "give yourself write permission there or choose another folder",
    errno.EPERM: "give yourself write permission there or choose another folder",
    errno.EROFS: "choose a folder on a disk that is not read-only",
    errno.ENOENT: "create the folder it is to lie in",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.EISDIR: "choose a path that is not a folder",
    errno.ENOTEMPTY: "name a new folder",
    errno.EEXIST: "name a new folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network disk",
}


class Written(NamedTuple):
    """What has been written: SHA-256 of the content (hexadecimal) and its size in bytes."""

    sha256: str
    size: int


def sum_of(data: bytes) -> Written:
    """What writing these bytes gives."""
    return Written(hashlib.sha256(data).hexdigest(), len(data))


# --- messages ----------------------------------------------------------------------------------------------------


def show_path(path: str | os.PathLike[str]) -> str:
    """A path as it may be printed: file names can hold control characters and bytes that are not text."""
    text = os.fspath(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def explain(error: OSError) -> str:
    """Reason and remedy of an error of the operating system, as the second half of a sentence."""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{reason}; {_REMEDIES.get(error.errno or 0, 'check the path and the disk')}"


@contextlib.contextmanager
def _explained(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot {action} {show_path(_final(path))}: {explain(error)}") from error


def _final(path: str | os.PathLike[str]) -> Path:
    """The path with the names that the user knows in place of temporary ones."""
    matches = ((part, _TEMPORARY.fullmatch(part)) for part in Path(path).parts)
    return Path(*(match["name"] if match else part for part, match in matches))


# --- the fault hook ----------------------------------------------------------------------------------------------

_steps_taken = 0
_steps_of = (0, "")  # process and fault they are counted for: a forked child counts anew


def _step(operation: str, path: str | os.PathLike[str], torn: Callable[[], object] | None = None) -> None:
    """Announces a change of the file system just before it happens; `torn` does the first half of it."""
    fault = os.environ.get("SURNIA_FAULT")
    if not fault:
        return
    global _steps_taken, _steps_of
    counted_for = os.getpid(), fault
    _steps_taken = (_steps_taken if counted_for == _steps_of else 0) + 1
    _steps_of = counted_for
    kind, number, code = [*fault.split(":"), "ENOSPC", "ENOSPC"][:3]
    if _steps_taken != int(number):
        return
    if torn is not None:
        torn()
    if kind == "kill":
        os._exit(137)
    raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), os.fspath(path))


# --- single operations -------------------------------------------------------------------------------------------


def _write(descriptor: int, data: Any, path: Path) -> None:
    view = memoryview(data).cast("B")
    _step("write", path, torn=lambda: os.write(descriptor, view[: len(view) // 2]))
    while len(view):
        view = view[os.write(descriptor, view) :]


def _fsync(descriptor: int, path: Path) -> None:
    _step("fsync", path)
    os.fsync(descriptor)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _step("fsync folder", folder)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path) -> None:
    _step("replace", target)
    os.replace(source, target)


def _unlink(path: Path) -> None:
    _step("unlink", path)
    os.unlink(path)


def _delete(path: Path) -> None:
    """Deletes a file, a link (not what it points to) or a folder with all that is in it."""
    if path.is_symlink() or not path.is_dir():
        _unlink(path)
        return
    for entry in list(path.iterdir()):
        _delete(entry)
    _step("rmdir", path)
    os.rmdir(path)


def _temporary(path: Path, kind: str = "new") -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.surnia-{kind}")


def write_new(path: Path, chunks: Iterable[Any]) -> Written:
    """Writes a file that does not exist yet, straight under its name, and flushes it: for files in a new folder.

    Args:
        path: the file; its folder is temporary and will be committed by `commit_folder`.
        chunks: buffers of bytes, written one after the other, so that no one needs to hold the whole content.

    Raises:
        CheckpointError: the file exists, or the operating system refuses.
    """
    digest, size = hashlib.sha256(), 0
    with _explained("write", path):
        _step("create", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                _write(descriptor, view, path)
                digest.update(view)
                size += len(view)
            _fsync(descriptor, path)
        finally:
            os.close(descriptor)
    return Written(digest.hexdigest(), size)


def link_new(source: Path, target: Path, size: int) -> bool:
    """Gives a finished file a second name in a new folder, so that what has not changed is not written again.

    Args:
        source: a file that `write_new` has written and nobody writes to any more.
        target: the name; its folder is temporary and will be committed by `commit_folder`.
        size: of the source, in bytes.

    Returns:
        Whether it has the name now. If not (the source is gone or cut short, the disk has no hard links), write it.
    """
    with _explained("write", target):
        _step("link", target)
    try:
        if source.is_symlink() or not source.is_file() or source.stat().st_size != size:
            return False
        os.link(source, target)
    except OSError:
        return False
    return True


# --- files -------------------------------------------------------------------------------------------------------


def write_chunks(path: str | os.PathLike[str], chunks: Iterable[Any]) -> Written:
    """Writes or replaces a file: a reader, or a power cut, meets the old content or the new, never a part.

    Args:
        path: the file. Its folder must exist.
        chunks: buffers of bytes, written one after the other.

    Raises:
        CheckpointError: the disk is full, permission is missing, ...; the old content is untouched.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        written = write_new(temporary, chunks)
        with _explained("write", path):
            _rename(temporary, path)
            _fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            _unlink(temporary)
        raise
    return written


def write_bytes(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> Written:
    """`write_chunks` for content that is at hand as a whole."""
    return write_chunks(path, [data])


def write_text(path: str | os.PathLike[str], text: str) -> Written:
    """`write_bytes` for text, in UTF-8."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> Written:
    """`write_bytes` for a plain value, indented for people.

    Raises:
        ValueError: the value holds nan or infinity, which JSON does not have.
        TypeError: the value holds something else that JSON does not have.
    """
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_file(path: str | os.PathLike[str]) -> None:
    """Deletes a file, if it is there.

    Raises:
        CheckpointError: the operating system refuses.
    """
    path = Path(path)
    with _explained("delete", path):
        if os.path.lexists(path):
            _unlink(path)


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Adds one line to a file, which is created if need be; a line that a killed writer left torn is cut off first.

    The line is not flushed to the disk: it survives the end of the process, but perhaps not a power cut.

    Raises:
        ValueError: `line` is more than one line.
        CheckpointError: the operating system refuses; the file then ends with its last whole line.
    """
    if "\n" in line or "\r" in line:
        raise ValueError("append_line takes one line, without an end of line in it")
    path = Path(path)
    with _explained("write", path):
        _step("open", path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            end = _end_of_whole_lines(descriptor)
            if end < os.fstat(descriptor).st_size:
                _step("truncate", path)
                os.ftruncate(descriptor, end)
            try:
                _write(descriptor, line.encode("utf-8") + b"\n", path)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)


def _end_of_whole_lines(descriptor: int) -> int:
    """Offset just after the last end of line."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def open_shared(path: str | os.PathLike[str]) -> int:
    """Descriptor of a small file that several processes open at once (a lock), created if need be."""
    with _explained("open", path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def overwrite(descriptor: int, text: str) -> None:
    """Replaces what is in a file of `open_shared`. Not atomic: for messages only."""
    with _explained("write", "the lock"):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("utf-8"), 0)


# --- folders -----------------------------------------------------------------------------------------------------


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Creates a folder and its parents where they are missing.

    Raises:
        CheckpointError: the operating system refuses, or something else has that name.
    """
    path = Path(path)
    with _explained("create the folder", path):
        if not path.is_dir():
            _step("mkdir", path)
            path.mkdir(parents=True, exist_ok=True)
            _fsync_folder(path.parent)
    return path


def link_folder(link: Path, target: Path) -> None:
    """Gives a folder, wherever it lies, another name in a new one (a symbolic link).

    Raises:
        CheckpointError: the operating system or the file system refuses.
    """
    with _explained("write the link", link):
        _step("symlink", link)
        os.symlink(target, link, target_is_directory=True)


@contextlib.contextmanager
def new_folder(final: str | os.PathLike[str], *, replace: bool = True) -> Iterator[Path]:
    """A temporary folder to fill (with `write_new`); it gets its final name when the block ends well, else it goes.

    Args:
        final: the name.
        replace: what has it may go; otherwise only an empty folder.
    """
    final = Path(final)
    temporary = _temporary(final)
    with _explained("create the folder", temporary):
        _step("mkdir", temporary)
        temporary.mkdir()
    try:
        yield temporary
        commit_folder(temporary, final, replace=replace)
    except BaseException:
        with contextlib.suppress(OSError):
            _delete(temporary)
        raise


def commit_folder(temporary: Path, final: Path, *, replace: bool = True) -> None:
    """Gives a filled folder its final name.

    A folder that has that name already is moved aside for the moment between two renames; should the process die just
    then, `sweep_temporaries` moves it back (and `retired` finds it until then). Without `replace` it is refused if it
    holds anything, by the rename itself, so that nobody can fill it in between.

    Raises:
        CheckpointError: the operating system refuses; whatever had the final name still has it.
    """
    with _explained("write", final):
        _fsync_folder(temporary)
        retired = _temporary(final, "old") if replace and os.path.lexists(final) else None
        if retired is not None:
            _rename(final, retired)
        try:
            _rename(temporary, final)
        except BaseException:
            if retired is not None:
                os.replace(retired, final)
            raise
        _fsync_folder(final.parent)
    if retired is not None:
        # The new folder is in place. What cannot be deleted now is deleted by the next sweep.
        with contextlib.suppress(OSError):
            _delete(retired)


def remove_folder(path: Path) -> None:
    """Deletes a folder. It loses its name first, so that nobody meets half of it.

    Raises:
        CheckpointError: the operating system refuses.
    """
    trash = _temporary(path)
    with _explained("delete", path):
        _rename(path, trash)
        _delete(trash)
        _fsync_folder(path.parent)


def retired(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Folders moved aside by a `commit_folder` that died between its two renames: lost name -> where it is now."""
    found = {}
    for path in _entries(folder):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["kind"] == "old" and not os.path.lexists(path.with_name(match["name"])):
            found[match["name"]] = path
    return found


def is_temporary(path: Path) -> bool:
    """Whether the name is one that this module gives to what is not finished."""
    return _TEMPORARY.fullmatch(path.name) is not None


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
    with _explained("clean up", folder):
        for name, path in retired(folder).items():
            _rename(path, folder / name)
            done.append(f"restored {show_path(folder / name)}, which a killed writer was about to replace")
        for path in _entries(folder):
            if is_temporary(path):
                _delete(path)
                done.append(f"deleted {show_path(path)}, left by a killed writer")
    return done


def _entries(folder: str | os.PathLike[str]) -> list[Path]:
    try:
        return sorted(Path(folder).iterdir())
    except FileNotFoundError:
        return []


# --- reading -----------------------------------------------------------------------------------------------------


def open_regular(path: str | os.PathLike[str]) -> int:
    """Descriptor for reading a regular file. A pipe or a device, which could block for ever, is refused.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(mode) else "is not a regular file")
    return descriptor


def read_file(path: str | os.PathLike[str], *, limit: int, error: type[SurniaError], remedy: str) -> bytes:
    """Content of a regular file of at most `limit` bytes; the size is looked at before anything is read.

    Raises:
        error: it cannot be read or is larger; the sentence ends with `remedy`.
    """
    try:
        with open(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1) if size <= limit else b""
    except (OSError, ValueError, MemoryError) as reason:
        text = (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).lower()
        raise error(f"cannot read {show_path(path)}: {text}; {remedy}") from reason
    if size > limit or len(data) > limit:
        raise error(f"cannot read {show_path(path)}: it is larger than {limit} bytes; {remedy}")
    return data
