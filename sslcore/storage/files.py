"""Single files, written and read. In this package, this module and `folders` alone change the file system.

What Surnia writes into a run goes through them; TensorBoard's event files, which are only for looking at, do not.

A file appears under its final name only when it is whole: it is written under a temporary name in the same folder,
flushed to the disk, renamed, and the folder is flushed too, because a rename that only the cache knows is lost with the
power. What a killed writer leaves behind carries a name that `folders.sweep_temporaries` recognises. Two kinds of file
are written in place: those that lines are added to, and locks.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sslcore.errors import CheckpointError, SurniaError
from sslcore.storage import operations
from sslcore.storage.messages import show_path

_BLOCK = 1 << 16  # bytes read at once


class Written(NamedTuple):
    """What has been written: SHA-256 of the content (hexadecimal) and its size in bytes."""

    sha256: str
    size: int


def sum_of(data: bytes) -> Written:
    """What writing these bytes gives."""
    return Written(hashlib.sha256(data).hexdigest(), len(data))


def write_new(path: Path, chunks: Iterable[Any]) -> Written:
    """Writes a file that does not exist yet, straight under its name, and flushes it: for files in a new folder.

    Args:
        path: the file; its folder is temporary and will be committed by `folders.commit_folder`.
        chunks: buffers of bytes, written one after the other, so that no one needs to hold the whole content.

    Raises:
        CheckpointError: the file exists, or the operating system refuses.
    """
    digest, size = hashlib.sha256(), 0
    with operations.explained("write", path):
        operations.step("create", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                operations.write(descriptor, view, path)
                digest.update(view)
                size += len(view)
            operations.fsync(descriptor, path)
        finally:
            os.close(descriptor)
    return Written(digest.hexdigest(), size)


def link_new(source: Path, target: Path, size: int) -> bool:
    """Gives a finished file a second name in a new folder, so that what has not changed is not written again.

    Args:
        source: a file that `write_new` has written and nobody writes to any more.
        target: the name; its folder is temporary and will be committed by `folders.commit_folder`.
        size: of the source, in bytes.

    Returns:
        Whether it has the name now. If not (the source is gone or cut short, the disk has no hard links), write it.
    """
    with operations.explained("write", target):
        operations.step("link", target)
    try:
        if source.is_symlink() or not source.is_file() or source.stat().st_size != size:
            return False
        os.link(source, target)
    except OSError:
        return False
    return True


def write_chunks(path: str | os.PathLike[str], chunks: Iterable[Any]) -> Written:
    """Writes or replaces a file: a reader, or a power cut, meets the old content or the new, never a part.

    Args:
        path: the file. Its folder must exist.
        chunks: buffers of bytes, written one after the other.

    Raises:
        CheckpointError: the disk is full, permission is missing, ...; the old content is untouched.
    """
    path = Path(path)
    temporary = operations.temporary_name(path)
    try:
        written = write_new(temporary, chunks)
        with operations.explained("write", path):
            operations.rename(temporary, path)
            operations.fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            operations.unlink(temporary)
        raise
    return written


def copy_file(source: Path, target: Path) -> Written:
    """`write_chunks` for the content of another file, of any size.

    Raises:
        CheckpointError: the source cannot be read; or see `write_chunks`.
    """
    return write_chunks(target, _blocks(source))


def _blocks(source: Path) -> Iterator[bytes]:
    try:
        with open(open_regular(source), "rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(
            f"cannot read {show_path(source)}: {reason}; give yourself permission to read it, or restore it from a copy"
        ) from error


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
    with operations.explained("delete", path):
        if os.path.lexists(path):
            operations.unlink(path)


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
    with operations.explained("write", path):
        operations.step("open", path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            end = _end_of_whole_lines(descriptor)
            if end < os.fstat(descriptor).st_size:
                operations.step("truncate", path)
                os.ftruncate(descriptor, end)
            try:
                operations.write(descriptor, line.encode("utf-8") + b"\n", path)
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
    with operations.explained("open", path):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def overwrite(descriptor: int, text: str) -> None:
    """Replaces what is in a file of `open_shared`. Not atomic, and not announced to faults: for messages only."""
    with operations.explained("write", "the lock"):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("utf-8"), 0)


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
