"""Shared by the tests of storage: forked writers that die at a chosen step, mutations, a watch for executed code."""

import os
import random
import sys

import pytest

_events: list[str] = []
_watching = False
_SUSPECT = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "ctypes.dlopen",
)


def _in_child(work, fault=None):
    """Exit code of a forked child that does `work`: 0, 137 when the fault killed it, 3 after a SurniaError."""
    from sslcore.errors import SurniaError

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if fault:
                os.environ["SURNIA_FAULT"] = fault
            work()
            code = 0
        except SurniaError:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _every_fault(kind, work, prepare, limit=200):
    """Calls `work` in a child with a fault at its first step, its second, ... until there is none left to fail.

    Yields (number, exit code) after each child; `prepare` runs before each.
    """
    for number in range(1, limit):
        prepare()
        code = _in_child(work, f"{kind}:{number}")
        if code == 0:
            assert number > 1, "the fault hook did nothing"
            return
        yield number, code
    raise AssertionError(f"more than {limit} steps")


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """One of: some bits flipped, cut, a part copied elsewhere, a part zeroed, bytes put in, doubled."""
    data = bytearray(data)
    kind = rng.choice(["flip", "flip", "flip", "cut", "splice", "zero", "insert", "random", "append"])
    at = rng.randrange(len(data))
    length = rng.randint(1, max(1, len(data) // 4))
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "splice":
        source = rng.randrange(len(data))
        data[at : at + length] = data[source : source + length]
    elif kind == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "insert":
        data[at:at] = rng.randbytes(rng.randint(1, 16))
    elif kind == "random":
        data[at : at + 4] = rng.randbytes(len(data[at : at + 4]))
    else:
        data += rng.randbytes(rng.randint(1, 16))
    return bytes(data)


def _audit(event, args):
    if _watching and event.startswith(_SUSPECT):
        _events.append(f"{event} {args!r:.200}")


sys.addaudithook(_audit)


class NothingExecuted:
    """Fails if the block starts a process, loads a library or lets a pickle look up a name."""

    def __enter__(self):
        global _watching
        _events.clear()
        _watching = True

    def __exit__(self, kind, error, traceback):
        global _watching
        _watching = False
        assert not _events, _events


@pytest.fixture
def in_child():
    return _in_child


@pytest.fixture
def every_fault():
    return _every_fault


@pytest.fixture
def mutate():
    return _mutate


@pytest.fixture
def nothing_executed():
    return NothingExecuted
