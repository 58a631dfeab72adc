import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from sslcore.errors import CheckpointError, ConfigError, RunLocked
from sslcore.storage import RunDirectory, files, read_metrics, read_run, save_checkpoint, step_folder


def create(path, **kwargs):
    return RunDirectory.create(
        path, **{"recipe": "method: simclr\n", "command": ["surnia", "pretrain"], "seed": 3, **kwargs}
    )


def test_a_new_run_tells_what_made_it(tmp_path):
    with create(tmp_path / "runs" / "a") as run:
        facts = read_run(run.path)
        assert facts["status"] == "running"
        assert facts["command"] == ["surnia", "pretrain"]
        assert facts["seed"] == 3
        assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
        assert {"python", "torchvision", "pytorch-lightning", "surnia", "scipy"} <= set(facts["versions"])
        assert (run.path / "recipe.yaml").read_text() == "method: simclr\n"
        assert not run.checkpoints.exists()  # the first checkpoint makes it, and not every run has it there
    facts = read_run(tmp_path / "runs" / "a")
    assert facts["status"] == "finished"
    assert facts["started"] <= facts["ended"]


def test_the_git_revision_is_the_checkouts_and_none_elsewhere(tmp_path, monkeypatch):
    from sslcore.storage import run as module

    def git(*args):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=tmp_path, check=True,
                       capture_output=True)  # fmt: skip

    (tmp_path / "sslcore" / "storage").mkdir(parents=True)
    file = tmp_path / "sslcore" / "storage" / "run.py"
    file.write_text("")
    monkeypatch.setattr(module, "__file__", str(file))
    assert module._git_revision() is None
    git("init", "-q")
    assert module._git_revision() is None  # no commit yet
    git("add", "."), git("commit", "-qm", "x"), git("tag", "v1")
    clean = module._git_revision()
    assert len(clean) == 40
    file.write_text("changed")
    assert module._git_revision() == f"{clean}-dirty"


@pytest.mark.parametrize(
    ("error", "status"), [(None, "finished"), (KeyboardInterrupt, "stopped"), (RuntimeError, "failed")]
)
def test_leaving_sets_the_status(tmp_path, error, status):
    try:
        with create(tmp_path / "a"):
            if error:
                raise error
    except (KeyboardInterrupt, RuntimeError):
        pass
    assert read_run(tmp_path / "a")["status"] == status


def test_a_status_that_was_set_stays(tmp_path):
    with create(tmp_path / "a") as run:
        run.set_status("stopped")
    assert read_run(tmp_path / "a")["status"] == "stopped"


def test_the_first_error_is_shown_though_the_disk_is_full(tmp_path, monkeypatch):
    run = create(tmp_path / "a")
    monkeypatch.setenv("SURNIA_FAULT", "error:1")
    with pytest.raises(RuntimeError, match="first"), run:
        raise RuntimeError("first")
    monkeypatch.delenv("SURNIA_FAULT")
    RunDirectory.open(tmp_path / "a").close()  # and the lock is free


def test_a_run_is_never_overwritten_and_both_ways_out_are_named(tmp_path):
    create(tmp_path / "a").close()
    with pytest.raises(ConfigError, match=r"never overwritten.*--resume.*another --run name"):
        create(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"not empty and not a run \(it holds thesis.tex\).*--run name.*--resume"):
        create(tmp_path / "b")
    (tmp_path / "c").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        create(tmp_path / "c")
    save_checkpoint(step_folder(tmp_path / "d" / "checkpoints", 1), model={})
    with pytest.raises(ConfigError, match="checkpoints/step-00000001"):
        create(tmp_path / "d")


def test_an_empty_folder_may_be_used(tmp_path):
    create(tmp_path).close()


def test_resuming_needs_a_run_and_notes_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"no run in .*without --resume"):
        RunDirectory.open(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    create(tmp_path / "a").close()
    with RunDirectory.open(tmp_path / "a", command=["surnia", "--resume"]) as run:
        facts = read_run(run.path)
        assert facts["status"] == "running"
        assert [r["command"] for r in facts["resumed"]] == [["surnia", "--resume"]]
        assert facts["command"] == ["surnia", "pretrain"]


def test_a_damaged_run_file_is_named(tmp_path):
    create(tmp_path / "a").close()
    (tmp_path / "a" / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        RunDirectory.open(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text("{}")
    RunDirectory.open(tmp_path / "a").close()  # the lock was given back


@pytest.mark.parametrize("kind", ["kill", "error"])
def test_a_run_is_there_or_not_whatever_step_fails(tmp_path, every_fault, kind):
    path, resumed = tmp_path / "x", []

    def prepare():
        if path.exists():
            path.rename(tmp_path / f"done{len(resumed)}")

    for _ in every_fault(kind, lambda: create(path).close(), prepare):
        is_run = (path / "recipe.yaml").exists()
        with RunDirectory.open(path) if is_run else create(path):
            assert not list(path.rglob(".*"))
        resumed.append(is_run)
    assert len(resumed) > 11
    assert resumed == sorted(resumed)


# --- the lock ----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from sslcore.storage.run import RunDirectory
run = RunDirectory.create(sys.argv[1], recipe="", command=[], seed=0)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/a."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "a"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_second_writer_is_refused_and_told_of_the_first_and_readers_are_not(tmp_path, holder):
    begun = time.monotonic()
    with pytest.raises(RunLocked, match=rf"process {holder.pid} on .*since 20.*; wait .* another --run name"):
        RunDirectory.open(tmp_path / "a")
    with pytest.raises(RunLocked):
        create(tmp_path / "a")
    assert time.monotonic() - begun < 1
    assert read_run(tmp_path / "a")["status"] == "running"


def test_the_lock_of_a_killed_writer_is_taken_over_and_its_litter_cleared(tmp_path, holder):
    (tmp_path / "a" / "checkpoints" / ".step-00000001.12345678.surnia-new").mkdir(parents=True)
    (tmp_path / "a" / ".run.json.12345678.surnia-new").write_text("")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunDirectory.open(tmp_path / "a") as run:
        assert len(run.cleaned) == 2
        assert os.listdir(run.checkpoints) == []


def test_an_entry_of_a_dead_owner_names_nobody_even_if_its_number_lives_again(tmp_path):
    run = create(tmp_path / "a")
    entry = json.loads((run.path / "run.lock").read_text())
    (run.path / "run.lock").write_text(json.dumps(entry | {"started": "1"}))
    with pytest.raises(RunLocked, match="written by another process"):
        RunDirectory.open(run.path)
    for text in ("", "[]", '{"pid": "x"}', "\x1b[2J", '{"pid": 1, "since": "\\u001b[2J", "host": "elsewhere"}'):
        (run.path / "run.lock").write_text(text)
        with pytest.raises(RunLocked) as error:
            RunDirectory.open(run.path)
        assert "\x1b" not in str(error.value)
    run.close()


def test_the_same_process_is_refused_too_and_closing_frees(tmp_path):
    run = create(tmp_path / "a")
    with pytest.raises(RunLocked):
        RunDirectory.open(tmp_path / "a")
    run.close(), run.close()
    RunDirectory.open(tmp_path / "a").close()


def test_a_forked_worker_does_not_keep_the_lock_alive(tmp_path):
    run = create(tmp_path / "a")
    read, write = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(write)
        os.read(read, 1)  # until the test ends
        os._exit(0)
    # What the kernel does when this process is killed: its descriptor goes, without an unlock.
    os.close(run._lock._descriptor)
    run._lock._descriptor = None
    try:
        deadline = time.monotonic() + 5
        while True:
            try:
                RunDirectory.open(tmp_path / "a").close()
                break
            except RunLocked:  # the child may not have come to its first instruction yet
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        os.close(write)
        os.waitpid(worker, 0)
        os.close(read)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "a" / "run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match=r"cannot open .*run\.lock"):
        create(tmp_path / "a")
    assert (tmp_path / "precious").read_text() == "keep"


# --- metrics -----------------------------------------------------------------------------------------------------


def test_metrics_are_lines_of_json_and_come_back_with_nan(tmp_path):
    with create(tmp_path / "a") as run:
        assert read_metrics(run.path) == []
        run.log_metrics(1, loss=torch.tensor(2.5), rate=np.float32(0.5), n=3, split="val", ok=True)
        run.log_metrics(2, loss=float("nan"), low=float("-inf"), high=torch.tensor(float("inf")))
        with pytest.raises(ValueError, match="number or a text"):
            run.log_metrics(3, loss=[1])
    for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    first, second = read_metrics(tmp_path / "a")
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {"step": 1, "loss": 2.5, "rate": 0.5, "n": 3, "split": "val", "ok": True}
    assert math.isnan(second["loss"])
    assert (second["low"], second["high"]) == (-math.inf, math.inf)


def test_a_torn_last_line_is_left_out_and_then_cut(tmp_path):
    with create(tmp_path / "a") as run:
        run.log_metrics(1, loss=1.0)
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 2, "lo')
        assert [m["step"] for m in read_metrics(run.path)] == [1]
        run.log_metrics(3, loss=1.0)
        assert [m["step"] for m in read_metrics(run.path)] == [1, 3]


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path):
    with create(tmp_path / "a") as run:
        run.rewind_metrics(5)
        for step in range(6):
            run.log_metrics(step, loss=float("nan"))
        before = read_metrics(run.path)
        run.rewind_metrics(3)
        after = read_metrics(run.path)
        assert [m["step"] for m in after] == [0, 1, 2, 3]
        assert [m["time"] for m in after] == [m["time"] for m in before[:4]]
        assert all(math.isnan(m["loss"]) for m in after)


def test_readers_meet_only_whole_files_while_a_writer_writes(tmp_path):
    with create(tmp_path / "a") as run:
        done, problems = threading.Event(), []

        def read():
            while not done.is_set():
                try:
                    read_run(run.path), read_metrics(run.path)
                except Exception as error:
                    problems.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for step in range(30):
            run.log_metrics(step, loss=1.0)
            run.set_status("running")
        done.set(), reader.join()
        assert not problems


def test_light_modules_need_no_torch():
    code = (
        "import sys; from sslcore.storage import RunDirectory, read_image, StopSignals, write_text; "
        "assert not {'torch', 'torchvision', 'pytorch_lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    import sslcore.storage as storage

    assert all(getattr(storage, name) is not None for name in dir(storage))
    assert storage.write_text is files.write_text
    with pytest.raises(AttributeError):
        _ = storage.nonsense
