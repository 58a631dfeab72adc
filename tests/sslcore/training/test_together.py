"""One process's error is every process's end."""

import signal
import subprocess
import time

import pytest
import torch
import torch.distributed as dist
from support.processes import in_processes

from sslcore.distributed import all_reduce_sum
from sslcore.errors import DataError, SurniaError
from sslcore.training.together import ends_together

LOST = "another process of this run ended with an error, which it has said"


def sleeping(seconds):
    return subprocess.Popen(["sleep", str(seconds)])


def _waits_for_the_other(rank):
    all_reduce_sum(torch.ones(1))
    if rank:
        return ""  # and is gone
    try:
        with ends_together():
            all_reduce_sum(torch.ones(1))
    except SurniaError as error:
        return str(error)


def test_who_waits_for_a_process_that_is_gone_ends_with_a_sentence(tmp_path):
    first, _ = in_processes(_waits_for_the_other, tmp_path)
    assert LOST in first


def test_an_error_of_ones_own_stays_and_ends_whom_one_started():
    children = [sleeping(60), sleeping(60)]
    ours = children.copy()
    with pytest.raises(DataError, match="no images"), ends_together(lambda: children):
        raise DataError("no images")
    assert [child.returncode for child in ours] == [-signal.SIGKILL] * 2
    assert not children  # who watches the list finds nobody that failed


def test_who_failed_first_is_let_say_so():
    children = [sleeping(0.2), sleeping(60)]
    ours, began = children.copy(), time.monotonic()
    with pytest.raises(SurniaError, match=LOST), ends_together(lambda: children, grace=1):
        raise RuntimeError("[/src/gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    assert [child.returncode for child in ours] == [0, -signal.SIGKILL]
    assert time.monotonic() - began < 10


def test_who_failed_first_is_let_say_so_by_all_that_wait_for_it():
    """What trains and what surrounds it both end together; the outer one has started the processes."""
    child = sleeping(0.5)
    with pytest.raises(SurniaError, match=LOST), ends_together(lambda: [child]), ends_together():
        raise RuntimeError("[/src/gloo/transport/tcp/pair.cc:1] Connection closed by peer")
    assert child.returncode == 0


def test_what_failed_is_told_too_for_there_may_be_nobody_else_to_blame():
    with pytest.raises(SurniaError, match=r"this is the error: \[/src/gloo/a\.cc:1\] 4 vs 8\)$"), ends_together():
        raise RuntimeError("[/src/gloo/a.cc:1] 4 vs 8. This is typically a bug.\nand a trace")


def test_processes_that_never_met_have_an_error_of_their_own():
    with pytest.raises(dist.DistNetworkError, match="EADDRINUSE"), ends_together():
        raise dist.DistNetworkError("port: 29500, EADDRINUSE")


def test_without_an_error_nobody_is_ended():
    child = sleeping(0.2)
    with ends_together(lambda: [child]):
        pass
    assert child.wait(10) == 0
    with pytest.raises(RuntimeError, match="a bug"), ends_together():
        raise RuntimeError("a bug")
