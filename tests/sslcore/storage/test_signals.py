import os
import signal
import subprocess
import sys
import threading

import pytest

from sslcore.storage import StopSignals


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == handler
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_sets_the_flag_and_nothing_else(number, capfd):
    with StopSignals() as stop:
        assert stop.received is None
        assert stop.exit_code == 0
        send(number)
        assert stop.received == number
    assert stop.received == number
    assert stop.exit_code == 128 + number
    assert f"{number.name}: stopping after this step" in capfd.readouterr().err


def test_a_second_ctrl_c_interrupts_at_once_also_after_sigterm():
    with StopSignals(quiet=True) as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stop.received == signal.SIGINT
        send(signal.SIGTERM)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_quiet_says_nothing(capfd):
    with StopSignals(quiet=True):
        send(signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_outside_the_main_thread_it_does_nothing():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignals() as stop:
            seen.append((stop.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start(), thread.join()
    assert seen == [(None, before)]


def test_nested_blocks_restore_in_order():
    with StopSignals(quiet=True) as outer:
        with StopSignals(quiet=True) as inner:
            send(signal.SIGTERM)
        assert (inner.received, outer.received) == (signal.SIGTERM, None)
        send(signal.SIGTERM)
        assert outer.received == signal.SIGTERM


def test_one_who_wrapped_our_handler_keeps_theirs_and_ours_passes_on():
    heard = []
    original = signal.signal(signal.SIGTERM, lambda n, f: heard.append("original"))
    try:
        with StopSignals(quiet=True) as stop:
            ours = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda n, f: (heard.append("wrapper"), ours(n, f)))
            send(signal.SIGTERM)
            assert stop.received == signal.SIGTERM
        assert heard == ["wrapper"]
        send(signal.SIGTERM)
        assert heard == ["wrapper", "wrapper", "original"]
    finally:
        signal.signal(signal.SIGTERM, original)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, True), (signal.SIGUSR1, True), (signal.SIGINT, False)])
def test_a_forked_worker_can_be_terminated_and_leaves_ctrl_c_to_its_parent(number, ends):
    with StopSignals(quiet=True) as stop:
        child = os.fork()
        if child == 0:
            send(number)
            os._exit(7)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (-number if ends else 7)
    assert stop.received is None


LOOP = """
import os, sys, time
from sslcore.storage import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop.received:
        time.sleep(0.01)
print("saved", flush=True)
sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_loop_that_polls_ends_cleanly_with_the_shells_code(number, code):
    child = subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    out, _ = child.communicate(timeout=20)
    assert (out, child.returncode) == ("saved\n", code)
