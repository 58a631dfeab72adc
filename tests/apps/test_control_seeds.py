"""Several seeds in processes of their own; what trains them is a stand-in."""

import os
import signal
import sys
import threading
import time

import pytest

from apps import control_seeds
from apps.control_seeds import seed_runs, train_seeds, with_threads
from rl.training.recipe import ControlRecipe

TRAINING = """
import signal, sys, time
from pathlib import Path
from sslcore.storage import RunDirectory
recipe, how, folder = sys.argv[1:]
text = Path(recipe).read_text()
seed = int(next(line for line in text.splitlines() if line.startswith("seed: "))[6:])
opened = RunDirectory.create(folder, recipe=text, command=[], seed=seed) if how == "new" else RunDirectory.open(folder)
with opened as run:
    if seed == 1 and how == "new":
        print("a sentence"); print("the reason"); sys.exit(3)
    if seed == 7 and how == "new":
        signal.signal(signal.SIGTERM, lambda *_: (run.set_status("stopped"), sys.exit(143)))
        Path(folder, "ready").touch()
        time.sleep(60)
    run.log_metrics(100, how=how)
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    def command(recipe, folder, *, resume):
        return [sys.executable, "-c", TRAINING, str(recipe), "old" if resume else "new", str(folder)]

    monkeypatch.setattr(control_seeds, "training_command", command)


def train(path, **settings):
    looks = []
    seeds, code = train_seeds(
        ControlRecipe(steps=100, **settings), path, lambda seeds: looks.append([s.exit_code for s in seeds]), poll=0.02
    )
    return seeds, code, looks


def test_each_seed_is_a_run_of_its_own(tmp_path):
    seeds, code, looks = train(tmp_path, seed=2, seeds=3, parallel=2)
    assert code == 0
    assert [seed.recipe.seed for seed in seeds] == [2, 3, 4]
    assert seed_runs(tmp_path) == [tmp_path / "seeds" / f"seed-{i}" for i in (2, 3, 4)]
    assert looks[-1] == [0, 0, 0]
    # Never three at a time: the third waits for one of the others.
    text = (tmp_path / "seeds" / "seed-3" / "recipe.yaml").read_text()
    assert "\nseed: 3\n" in text and "\nseeds: 1\n" in text


def test_one_that_fails_does_not_stop_the_others(tmp_path):
    seeds, code, _ = train(tmp_path, seeds=3)
    assert code == 1
    assert [seed.exit_code for seed in seeds] == [0, 3, 0]
    assert seeds[1].failed and seeds[1].last_words() == "a sentence\nthe reason"

    # Going on: what is finished is left alone, what failed goes on in its directory.
    before = (seeds[0].folder / "metrics.jsonl").read_text()
    seeds, code, _ = train(tmp_path, seeds=3)
    assert code == 0
    assert (seeds[0].folder / "metrics.jsonl").read_text() == before
    assert '"how": "old"' in (seeds[1].folder / "metrics.jsonl").read_text()


def test_a_signal_is_passed_on_and_nothing_begins_after_it(tmp_path):
    def interrupt():
        while not (tmp_path / "seeds" / "seed-7" / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=interrupt)
    other.start()
    seeds, code, _ = train(tmp_path, seed=7, seeds=2)
    other.join()
    assert code == 130
    assert [seed.exit_code for seed in seeds] == [143, None]
    assert seed_runs(tmp_path) == [tmp_path / "seeds" / "seed-7"]


def test_a_run_of_one_seed_is_its_own(tmp_path):
    assert seed_runs(tmp_path) == [tmp_path]


def test_threads_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert with_threads(ControlRecipe(seeds=5, parallel=2)).threads == 4
    assert with_threads(ControlRecipe(seeds=2, parallel=20)).threads == 4
    assert with_threads(ControlRecipe(seeds=5, parallel=2, threads=3)).threads == 3
