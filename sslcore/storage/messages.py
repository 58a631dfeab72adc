"""Paths and errors of the operating system in sentences that a person reads."""

import errno
import os
from collections.abc import Sequence

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


def show_path(path: str | os.PathLike[str]) -> str:
    """A path as it may be printed: file names can hold control characters and bytes that are not text."""
    text = os.fspath(path).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_name(name: str) -> str:
    """A class's name as it stands in a list: in quotes if it could be taken for more than one, as `thing, blob`."""
    return f"'{name}'" if set(name) & set(",;()") else name


def show_names(names: Sequence[str], most: int = 4) -> str:
    """Classes in a list: `dog, fox, cow, hen and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(show_name, names[:most])) + more


def explain(error: OSError) -> str:
    """Reason and remedy of an error of the operating system, as the second half of a sentence."""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"{reason}; {_REMEDIES.get(error.errno or 0, 'check the path and the disk')}"
