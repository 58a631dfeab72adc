import os
import signal
import time
from functools import partial

import numpy as np
import pytest

from rl.envs import EpisodeSeeds, PixelReach, PixelStack, WatchedVecEnv, make_env, make_vec_env
from sslcore.errors import CheckpointError, ConfigError, EnvWorkerError

ACTIONS = np.zeros((2, 2), np.float32)


class Failing(PixelReach):
    """Does `what` in step 3."""

    def __init__(self, what=None):
        super().__init__(size=16)
        self.what = what

    def step(self, action):
        if self._step == 2 and self.what:
            self.what()
        return super().step(action)


class Slow(Failing):
    """Does `what` in each step."""

    def step(self, action):
        self.what()
        return PixelReach.step(self, action)


def hang():
    time.sleep(1000)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(3)


def quarrel():
    raise RuntimeError("the simulation exploded")


def watched(*whats, **settings):
    # Forked: these classes are known in this process only, and nothing needs to be imported again.
    makers = [partial(lambda what: PixelStack(Failing(what)), what) for what in whats]
    return WatchedVecEnv(makers, start_method="fork", **settings)


def step_to_the_end(env):
    env.reset()
    for _ in range(3):
        env.step(ACTIONS)


@pytest.fixture
def closing():
    opened = []
    yield lambda env: opened.append(env) or env
    for env in opened:
        env.close()
        assert not any(process.is_alive() for process in env.processes)


def test_steps_like_environments_of_this_process(closing):
    apart = closing(WatchedVecEnv([partial(make_env, "surnia/PixelReach-v0", seed=1, index=i) for i in range(2)],
                                  start_method="fork"))  # fmt: skip
    here = closing_here = make_vec_env("surnia/PixelReach-v0", 2, seed=1)
    np.testing.assert_array_equal(apart.reset(), here.reset())
    rng = np.random.default_rng(0)
    for _ in range(45):  # over the end of the first episodes
        actions = rng.uniform(-1, 1, (2, 2)).astype(np.float32)
        ours, theirs = apart.step(actions), here.step(actions)
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[2], theirs[2])
        assert [info["TimeLimit.truncated"] for info in ours[3]] == [info["TimeLimit.truncated"] for info in theirs[3]]
    assert apart.env_method("state") == here.env_method("state")
    assert apart.get_attr("stack") == [3, 3]
    closing_here.close()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            quarrel,
            "worker 1: environment Failing, step 2 of its episode: step raised RuntimeError: the sim",
        ),
        (be_killed, "the process of worker 1 died at 'step': ended by SIGKILL"),
        (leave, "the process of worker 1 died at 'step': it left with exit code 3"),
    ],
)
def test_a_lost_worker_is_named_with_what_happened(what, says, closing):
    env = closing(watched(None, what))
    with pytest.raises(EnvWorkerError, match=says):
        step_to_the_end(env)


def test_a_hanging_worker_is_stopped(closing):
    env = closing(watched(hang, None, step_seconds=0.5))
    begun = time.monotonic()
    with pytest.raises(EnvWorkerError, match=r"worker 0 did not answer 'step' within 0.5 seconds"):
        step_to_the_end(env)
    env.close()
    assert time.monotonic() - begun < 30


def test_playing_an_episode_again_may_take_as_long_as_its_steps(closing):
    slow = partial(time.sleep, 0.3)
    makers = [lambda: EpisodeSeeds(PixelStack(Slow(slow)), seed=0)]
    env = closing(WatchedVecEnv(makers, start_method="fork", step_seconds=1.0))
    env.reset()
    for _ in range(5):
        env.step(ACTIONS[:1])
    [state] = env.env_method("state")
    begun = time.monotonic()
    env.env_method("restore", state)
    assert time.monotonic() - begun > 1.0 and env.env_method("state") == [state]


def test_a_worker_that_died_between_steps_is_noticed(closing):
    env = closing(watched(None, None))
    env.reset()
    env.processes[1].kill()
    env.processes[1].join()
    with pytest.raises(EnvWorkerError, match="worker 1 died at 'step'"):
        env.step(ACTIONS)


def test_the_workers_traceback_is_kept(closing):
    env = closing(watched(quarrel, None))
    with pytest.raises(EnvWorkerError) as caught:
        step_to_the_end(env)
    assert "in quarrel" in caught.value.__notes__[0]


def test_our_own_errors_keep_their_kind(closing):
    env = closing(WatchedVecEnv([partial(make_env, "surnia/PixelReach-v0")], start_method="fork"))
    env.reset()
    [state] = env.env_method("state")
    with pytest.raises(CheckpointError, match=r"worker 0: .* came out differently"):
        env.env_method("restore", {**state, "checksum": 1})
    with pytest.raises(ConfigError, match=r"worker 0: .* could not be made"):
        WatchedVecEnv([partial(make_env, "surnia/PixelReech-v0")], start_method="fork")


def test_an_environment_that_cannot_be_made_ends_them_all():
    def refuse():
        raise FileNotFoundError("no such arena")

    with pytest.raises(EnvWorkerError, match="reach: raised FileNotFoundError: no such arena"):
        WatchedVecEnv([PixelReach, refuse], names=["a", "reach"], start_method="fork")


def test_workers_survive_an_interrupt_of_the_group(closing):
    """A run that is told to stop still finishes its step; Ctrl-C reaches every process of the terminal."""
    env = closing(watched(None, None))
    env.reset()
    for process in env.processes:
        assert os.getpgid(process.pid) == process.pid
        os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    env.step(ACTIONS)


def test_closing_twice_and_in_the_middle_of_a_step():
    env = watched(hang, None)
    env.reset()
    env.step(ACTIONS), env.step(ACTIONS)
    env.step_async(ACTIONS)
    env.processes[0].kill()
    env.close()
    env.close()


def test_spawned_workers_find_our_environment(closing):
    env = closing(make_vec_env("surnia/PixelReach-v0", 1, seed=2, workers="processes", watch={"start_method": "spawn"}))
    np.testing.assert_array_equal(env.reset(), make_vec_env("surnia/PixelReach-v0", 1, seed=2).reset())
