"""Memory that processes share, as tensors."""

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any

import torch

Shape = Sequence[int]


class SharedArray:
    """A tensor in memory that a started process sees too when it is handed this object; zeros at first.

    It is an anonymous file, which unlike /dev/shm has no size of its own: containers often allow /dev/shm only 64 MB,
    and writing beyond that kills the process.

    Attributes:
        tensor: of the given shape and type. It must not outlive this object.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, fd: int | None = None) -> None:
        self._shape, self._dtype = tuple(shape), dtype
        size = max(1, torch.Size(shape).numel() * dtype.itemsize)
        if fd is None:
            fd = _anonymous_file()
            os.ftruncate(fd, size)
        self._fd = fd
        # mmap keeps a descriptor of its own; this one is for handing on.
        weakref.finalize(self, os.close, fd)
        memory = mmap.mmap(fd, size)
        count = torch.Size(shape).numel()
        self.tensor = (
            torch.frombuffer(memory, dtype=dtype, count=count).view(self._shape) if count else torch.empty(shape)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._shape, self._dtype, reduction.DupFd(self._fd))


def _reopen(shape: Shape, dtype: torch.dtype, handle: Any) -> SharedArray:
    return SharedArray(shape, dtype, handle.detach())


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("images")
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


class SharedStrings:
    """A long list of strings that processes share: one block of memory, not a copy of every string in each process."""

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        joined = b"".join(encoded)
        self._bytes = SharedArray((len(joined),), torch.uint8)
        self._ends = SharedArray((len(encoded) + 1,), torch.int64)
        if joined:
            self._bytes.tensor.copy_(torch.frombuffer(bytearray(joined), dtype=torch.uint8))
        self._ends.tensor[1:] = torch.tensor([len(each) for each in encoded], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return len(self._ends.tensor) - 1

    def __getitem__(self, i: int) -> str:
        start, stop = self._ends.tensor[i : i + 2].tolist()
        return os.fsdecode(self._bytes.tensor[start:stop].numpy().tobytes())
