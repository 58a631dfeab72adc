"""Reading processes that die, hang or meet trouble."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from sslcore.errors import DataError
from sslcore.pretrain.data.readers import ReaderPool
from sslcore.pretrain.data.shared import SharedArray, SharedStrings


class Counting:
    """Fills its slot with the job's number, after trouble if the job asks for it."""

    shapes = ((2, 3), (1,))

    def read(self, job, out, note):
        number, trouble = job
        note(number)
        if trouble == "hang":
            time.sleep(1000)
        elif trouble == "error":
            raise ArithmeticError("a bug")
        elif trouble:
            os.kill(os.getpid(), trouble)
        for each in out:
            each.fill_(number)
        return f"job {number}"

    def describe(self, image):
        return f"image{image}.png"


def pool(workers, timeout=60.0):
    return ReaderPool(Counting(), workers=workers, timeout=timeout)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_and_may_be_kept(workers):
    results = list(pool(workers).run((i, None) for i in range(40)))
    assert [job[0] for job, _, _ in results] == list(range(40))
    assert [words for _, words, _ in results] == [f"job {i}" for i in range(40)]
    for i, (_, _, (matrix, single)) in enumerate(results):
        assert torch.equal(matrix, torch.full((2, 3), i, dtype=torch.uint8))
        assert torch.equal(single, torch.full((1,), i, dtype=torch.uint8))


def test_a_pool_can_be_run_again():
    ours = pool(2)
    assert len(list(ours.run((i, None) for i in range(3)))) == 3
    assert next(ours.run((i, None) for i in range(9)))[0] == (0, None)
    assert next(ours.run((i, None) for i in range(5, 9)))[0] == (5, None)
    ours.close()
    ours.close()


def processes(ours):
    return [worker.process for worker in ours._running]


@pytest.mark.parametrize("when", ["reading", "idle"])
def test_a_killed_process_is_named_soon(when):
    ours = pool(2)
    jobs = [(i, signal.SIGKILL if when == "reading" and i == 7 else None) for i in range(100)]
    results = ours.run(jobs)
    next(results)
    all_processes = processes(ours)
    if when == "idle":
        all_processes[1].kill()
    start = time.monotonic()
    with pytest.raises(DataError, match=r"reading process 1 \(pid \d+\).* died \(SIGKILL\)") as caught:
        list(results)
    assert time.monotonic() - start < 10
    assert when == "idle" or "at image7.png" in str(caught.value)
    assert not any(process.is_alive() for process in all_processes)


@pytest.mark.parametrize("trouble", ["hang", signal.SIGSTOP])
def test_a_silent_process_is_named_in_time(trouble):
    ours = pool(2)
    results = ours.run((i, trouble if i == 5 else None) for i in range(100))
    for _ in range(5):
        next(results)
    ours.timeout = 1.5  # not before: to start a process may take longer than that on a busy machine
    all_processes = processes(ours)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"process 1 \(pid \d+\), at image5.png, has not answered for 1.5 seconds"):
        next(results)
    assert time.monotonic() - start < 6
    assert not any(process.is_alive() for process in all_processes)


def test_an_error_in_the_reader_itself_is_not_hidden():
    with pytest.raises(RuntimeError, match="ArithmeticError: a bug"):
        list(pool(1).run([(0, None), (1, "error")]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_do_not_end_the_readers(number):
    assert len(list(pool(1).run((i, number if i == 2 else None) for i in range(6)))) == 6


# Torch is imported once and three runs forked off: one is killed, one leaves, one does not guard itself.
SCRIPT = """
import os, sys, time
from sslcore.pretrain.data.readers import ReaderPool

class Slow:
    shapes = ((1,),)
    def read(self, job, out, note):
        print(os.getpid(), flush=True)
        time.sleep(0.01)
    def describe(self, image):
        return ""

def train(end):
    for job, _, _ in ReaderPool(Slow(), workers=1, timeout=60).run(iter(int, 1)):
        end()

ENDS = {"killed": lambda: os.kill(os.getpid(), 9), "left": lambda: sys.exit(3), "unguarded": lambda: None}

def run(name):
    for stream in (1, 2):
        os.dup2(os.open(f"{name}.{stream}", os.O_CREAT | os.O_WRONLY, 0o600), stream)
    if name == "unguarded":
        os.environ["UNGUARDED"] = "yes"  # seen by its reader, which imports this script
    train(ENDS[name])

if __name__ == "__main__":
    runs = []
    for name in ENDS:
        runs.append(os.fork())
        if not runs[-1]:
            run(name)
            sys.exit("a run without an end")
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in runs])
elif "UNGUARDED" in os.environ:
    train(ENDS["unguarded"])
"""


def test_readers_do_not_outlive_their_run_and_do_not_hold_up_its_end(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout == f"{[-signal.SIGKILL, 3, 1]}\n"
    assert "must do so under `if __name__ ==" in (tmp_path / "unguarded.2").read_text()
    deadline = time.monotonic() + 15
    for name in ("killed", "left"):
        readers = set((tmp_path / f"{name}.1").read_text().split())
        assert len(readers) == 1
        for reader in readers:
            while os.path.exists(f"/proc/{reader}") and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not os.path.exists(f"/proc/{reader}")


def test_shared_arrays_begin_as_zeros():
    array = SharedArray((3, 2), torch.int64)
    assert array.tensor.tolist() == [[0, 0]] * 3
    assert SharedArray((0, 2), torch.uint8).tensor.shape == (0, 2)


def test_shared_strings_give_back_any_name():
    names = ["a.png", "", "ordner/größe.jpg", os.fsdecode(b"odd\xff.png"), "z" * 300]
    shared = SharedStrings(names)
    assert [shared[i] for i in range(len(shared))] == names
    assert len(SharedStrings([])) == 0


def test_nonsense_is_refused():
    for wrong in ({"workers": -1, "timeout": 1}, {"workers": 1, "timeout": 0}):
        with pytest.raises(ValueError, match="workers"):
            ReaderPool(Counting(), **wrong)
