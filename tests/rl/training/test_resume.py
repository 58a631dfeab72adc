"""A run that was stopped or killed anywhere ends like one that was not, bit for bit."""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
from support.agents import same_state
from support.control import assert_same_run, kill, metrics, replay_content, small_recipe, stop, train

from rl import CURL, PixelReach, make_vec_env
from rl.replay import saving
from rl.training import agents, learner
from rl.training.agents import make_agent, make_envs
from rl.training.checkpoints import AgentCheckpoints
from rl.training.evaluation import PlayedEpisodes
from sslcore.errors import CheckpointError, EnvWorkerError
from sslcore.storage import RunDirectory, files, list_checkpoints, load_checkpoint, verify_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    outcome = train(run, small_recipe())
    assert not outcome.stopped and outcome.env_steps == outcome.steps == 240
    return run


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """One that was stopped at 176 steps; the checkpoint before is that of 120."""
    run = tmp_path_factory.mktemp("runs") / "parts"
    train(run, small_recipe(), at=176)
    return run


def test_stopped_twice_and_resumed(tmp_path, whole):
    run = tmp_path / "parts"
    first = train(run, small_recipe(), at=28)  # before the first update
    assert first.stopped and first.exit_code == 128 + signal.SIGTERM and first.steps == 28
    second = train(run, small_recipe(), resume=True, at=120)  # half-way
    assert second.stopped and second.steps == 92
    third = train(run, small_recipe(), resume=True)
    assert not third.stopped and third.steps == 120 and third.env_steps == 240
    assert_same_run(whole, run)


@pytest.mark.parametrize("number", [0, 2, 3])  # at the very beginning, half-way and at the end
def test_stopped_while_it_is_evaluated(tmp_path, whole, monkeypatch, number):
    run, real, calls = tmp_path / "parts", learner.evaluate_agent, []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) == number + 1:
            stop()
        return real(*args, **kwargs)

    monkeypatch.setattr(learner, "evaluate_agent", stopping)
    outcome = train(run, small_recipe())
    assert outcome.stopped and outcome.env_steps == 80 * number and len(calls) == number + 1
    train(run, small_recipe(), resume=True)
    assert_same_run(whole, run)


def test_killed_without_warning(tmp_path, whole):
    run = tmp_path / "killed"
    for number, at in enumerate([48, 100, 236]):
        child = multiprocessing.get_context("fork").Process(
            target=train, args=(run, small_recipe()), kwargs={"resume": number > 0, "at": at, "action": kill}
        )
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    train(run, small_recipe(), resume=True)
    assert_same_run(whole, run)


def test_what_was_best_after_the_last_checkpoint_is_forgotten_with_it(tmp_path, monkeypatch):
    """Killed after a better evaluation than the checkpoint knows of: what is resumed has the best of then."""
    real = learner.evaluate_agent

    def better_each_time(*args, **kwargs):
        found = real(*args, **kwargs)
        scored = [dataclasses.replace(e, score=float(len(calls))) for e in found.episodes]
        calls.append(args)
        return PlayedEpisodes(tuple(scored))

    monkeypatch.setattr(learner, "evaluate_agent", better_each_time)
    calls, run, whole = [], tmp_path / "killed", tmp_path / "whole"
    child = multiprocessing.get_context("fork").Process(
        target=train, args=(run, small_recipe()), kwargs={"at": 100, "action": kill}
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert CURL.load(run / "best.zip", device="cpu").num_timesteps == 40  # at 80 environment steps
    clip = (run / "best.gif").read_bytes()
    calls, said = [None], []
    outcome = train(run, small_recipe(), resume=True, at=68, said=said)
    assert "the run goes on after environment step 60" in said
    assert outcome.results["best_score"] == 0.0
    calls = []
    assert train(whole, small_recipe(), at=68).results == outcome.results
    best, other = (CURL.load(place / "best.zip", device="cpu") for place in (run, whole))
    assert best.num_timesteps == other.num_timesteps == 0
    assert same_state(best.policy.state_dict(), other.policy.state_dict())
    assert (run / "best.gif").read_bytes() == (whole / "best.gif").read_bytes() != clip


def test_a_best_agent_of_before_the_first_checkpoint_is_forgotten(tmp_path):
    run = tmp_path / "run"
    train(run, small_recipe(), at=28)
    for folder in ("checkpoints", "replay", "best"):
        shutil.rmtree(run / folder)
    with RunDirectory.open(run) as opened, contextlib.closing(make_envs(small_recipe().env, 0)) as envs:
        assert AgentCheckpoints(opened, keep=2).resume(make_agent(small_recipe(), envs), print) is None
    assert not (run / "best.zip").exists() and not (run / "best.gif").exists()


def test_killed_again_and_again_while_files_change(tmp_path, whole):
    run, codes = tmp_path / "killed", []
    while 0 not in codes and len(codes) < 20:
        child = multiprocessing.get_context("fork").Process(target=_faulty, args=(run, 301))
        child.start()
        child.join(60)
        codes.append(child.exitcode)
    assert codes[-1] == 0 and len(codes) > 3 and set(codes[:-1]) == {137}
    assert_same_run(whole, run)


def _faulty(run, operation):
    os.environ["SURNIA_FAULT"] = f"kill:{operation}"
    train(run, small_recipe(), resume=(run / "recipe.yaml").exists())


def test_killed_at_any_point_of_saving_there_is_a_checkpoint_to_go_on_from(tmp_path, parts):
    run, recipe = tmp_path / "run", small_recipe()
    shutil.copytree(parts, run)
    found = []
    for operation in range(1, 400, 17):
        with RunDirectory.open(run) as opened, contextlib.closing(make_envs(recipe.env, 0)) as envs:
            agent, kept = make_agent(recipe, envs), AgentCheckpoints(opened, keep=2)
            progress = kept.resume(agent, print)
            child = multiprocessing.get_context("fork").Process(target=_save, args=(kept, agent, progress, operation))
            child.start()
            child.join(60)
        found.append((progress.env_steps, child.exitcode))
        if child.exitcode == 0:
            break
    steps = [step for step, _ in found]
    assert steps == sorted(steps) and found[-1][1] == 0 and len(found) > 8 and steps[-1] > steps[0]
    assert not [path for path in (run / "replay").iterdir() if path.name.startswith(".")]


def _save(kept, agent, progress, operation):
    os.environ["SURNIA_FAULT"] = f"kill:{operation}"
    kept.save(agent, progress._replace(env_steps=progress.env_steps + 1))
    os._exit(0)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, whole, monkeypatch):
    run, real = tmp_path / "full", learner.AgentCheckpoints.save

    def save(self, agent, progress):
        if progress.env_steps == 180:
            monkeypatch.setenv("SURNIA_FAULT", "error:9")
        return real(self, agent, progress)

    monkeypatch.setattr(learner.AgentCheckpoints, "save", save)
    with pytest.raises(CheckpointError, match=r"no space left on device; free some space on that disk"):
        train(run, small_recipe())
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000060", "step-00000120"]
    assert train(run, small_recipe(), resume=True).steps == 120
    assert_same_run(whole, run)


def test_an_environment_that_fails_leaves_the_last_checkpoint(tmp_path, whole, monkeypatch):
    run, real = tmp_path / "failed", PixelReach.step

    def step(self, action):
        result = real(self, action)
        broken.append(None)
        return (*result[:1], float("nan"), *result[2:]) if len(broken) == 250 else result

    broken = []
    monkeypatch.setattr(PixelReach, "step", step)
    with pytest.raises(EnvWorkerError, match=r"surnia/PixelReach-v0, step \d+ of its episode: the reward is nan"):
        train(run, small_recipe())
    monkeypatch.undo()
    assert list_checkpoints(run / "checkpoints")
    train(run, small_recipe(), resume=True)
    assert_same_run(whole, run)


def be_killed(*result):
    kill()


def hang(*result):
    time.sleep(1000)


@pytest.mark.parametrize(
    ("workers", "how", "says"),
    [
        ("here", lambda image, *rest: (image / np.float32(255), *rest), r"step \d+ of .*: .* float32, but .* uint8"),
        ("here", lambda image, *rest: (image[1:], *rest), r"step \d+ of its episode: .* shape \(15, 16, 1\), but"),
        ("processes", be_killed, r"process of worker 0 \(surnia/PixelReach-v0\) died at 'step': ended by SIGKILL"),
        ("processes", hang, r"worker 0 \(surnia/PixelReach-v0\) did not answer 'step' within 5 seconds"),
    ],
    ids=["float images", "wrong shape", "crashed worker", "hanging worker"],
)
def test_what_environments_do_wrong_leaves_the_last_checkpoint(tmp_path, whole, monkeypatch, workers, how, says):
    run, real, armed = tmp_path / "failed", PixelReach.step, multiprocessing.get_context("fork").Event()

    def step(self, action):
        result = real(self, action)
        return how(*result) if armed.is_set() else result

    def forked(*arguments, watch):
        # So that they have the step above.
        return make_vec_env(*arguments, watch=None if watch is None else {**watch, "start_method": "fork"})

    monkeypatch.setattr(PixelReach, "step", step)
    monkeypatch.setattr(agents, "make_vec_env", forked)
    with pytest.raises(EnvWorkerError, match=says):
        train(run, small_recipe(env={"workers": workers, "step_seconds": 5}), at=160, action=armed.set)
    monkeypatch.undo()
    newest = list_checkpoints(run / "checkpoints")[-1]
    assert newest.name == "step-00000120"
    verify_checkpoint(newest)
    saving.verify(run / "replay" / newest.name)
    if how is be_killed:  # whose run's other processes ended with it
        assert train(run, small_recipe(), resume=True).steps == 120
        assert_same_run(whole, run)


def test_a_replay_that_was_not_written_whole_costs_no_checkpoint(tmp_path, parts, monkeypatch):
    """The disk loses a byte of the newest replay: what is older and sound is not deleted for it."""
    run, recipe, real = tmp_path / "run", small_recipe(), files.write_new
    shutil.copytree(parts, run)
    before = sorted(path.name for path in run.glob("*/step-*"))

    def wrong(path, chunks):
        written = real(path, chunks)
        if path.name == "transitions.safetensors":
            os.truncate(path, written.size - 1)
        return written

    monkeypatch.setattr(files, "write_new", wrong)
    with RunDirectory.open(run) as opened, contextlib.closing(make_envs(recipe.env, 0)) as envs:
        agent, kept = make_agent(recipe, envs), AgentCheckpoints(opened, keep=2)
        progress = kept.resume(agent, print)
        with pytest.raises(CheckpointError, match=r"does not give back .* transitions\.safetensors: check"):
            kept.save(agent, progress._replace(env_steps=180))
    assert sorted(path.name for path in run.glob("*/step-*")) == before and len(before) == 6


@pytest.mark.parametrize("lost", ["checkpoints/{}/train.safetensors", "replay/{}/frames-00000.bin", "replay/{}"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole, parts, lost):
    run, said = tmp_path / "run", []
    shutil.copytree(parts, run)
    newest = list_checkpoints(run / "checkpoints")[-1].name
    assert newest == "step-00000176"
    path = run / lost.format(newest)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        content = path.read_bytes()
        path.unlink()  # not written into: the checkpoint before may share it
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert train(run, small_recipe(), resume=True, said=said).steps == 120
    assert any("skipped step-00000176" in sentence for sentence in said)
    assert "the run goes on after environment step 120" in said
    assert_same_run(whole, run)


@pytest.mark.parametrize("lost", ["best", "best/step-00000176/best.zip"])
def test_a_best_agent_that_is_lost_does_not_end_the_run(tmp_path, whole, parts, lost):
    run, said = tmp_path / "run", []
    shutil.copytree(parts, run)
    if (run / lost).is_dir():
        shutil.rmtree(run / lost)
    else:
        (run / lost).unlink()
        (run / lost).write_bytes(b"?")
    outcome = train(run, small_recipe(), resume=True, said=said)
    assert outcome.steps == 64 and any("the best agent of step-00000176 is lost" in sentence for sentence in said)
    assert outcome.results["best_score"] == outcome.results["score"]
    assert CURL.load(run / "best.zip", device="cpu").num_timesteps == 120
    assert metrics(run)[:-1] == metrics(whole)[:-1]


def test_no_sound_checkpoint_is_an_error_and_none_a_new_beginning(tmp_path, whole):
    run, said = tmp_path / "run", []
    train(run, small_recipe(), at=60)
    shutil.rmtree(run / "replay")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound"):
        train(run, small_recipe(), resume=True)
    shutil.rmtree(run / "checkpoints")
    assert train(run, small_recipe(), resume=True, said=said).steps == 240
    assert "the run was ended before its first checkpoint: it begins anew" in said
    assert_same_run(whole, run)


def test_learning_on_is_as_if_it_had_been_asked_for_at_once(tmp_path):
    """Memory was taken for the first half alone; what is learned does not hang on it."""
    half, whole = (small_recipe(agent={"buffer_size": 1000}, steps=steps) for steps in (120, 240))
    train(tmp_path / "on", half)
    train(tmp_path / "on", whole, resume=True)
    train(tmp_path / "whole", whole)
    ours, theirs = (tmp_path / name for name in ("on", "whole"))
    newest = "step-00000240"
    a, b = (load_checkpoint(run / "checkpoints" / newest) for run in (ours, theirs))
    assert same_state(a.model, b.model)
    assert replay_content(ours / "replay" / newest) == replay_content(theirs / "replay" / newest)


def test_a_finished_run_has_nothing_left_to_do(tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    outcome = train(run, small_recipe(), resume=True)
    assert outcome.steps == 0 and not outcome.stopped and outcome.results["complete"]
    assert_same_run(whole, run)


def test_other_settings_are_refused(tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for changes, sentence in (
        ({"env": {"n_envs": 1}}, r"of other sizes|another number of environments"),
        ({"agent": {"net_arch": [9]}}, r"does not fit this agent"),
        ({"agent": {"aux": "none"}}, r"does not fit this agent"),
        ({"agent": {"buffer_size": 90}}, r"of other sizes"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            train(run, small_recipe(**changes), resume=True)
