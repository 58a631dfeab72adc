"""A replay buffer as one would write it without a thought for memory, and made-up environments to fill both."""

from dataclasses import dataclass, field

import numpy as np
from gymnasium import spaces

from rl.replay import FrameReplayBuffer


def frame_buffer(buffer_size, shape=(3, 2, 3), stack=3, n_envs=1, action=None, **options):
    """A FrameReplayBuffer on the CPU for observations of `shape`."""
    pixels = spaces.Box(0, 255, shape, np.uint8)
    action = action or spaces.Box(-1, 1, (2,), np.float32)
    return FrameReplayBuffer(buffer_size, pixels, action, "cpu", n_envs, stack=stack, **{"seed": 0, **options})


@dataclass
class NaiveReplay:
    """Lists of whole transitions, one list an environment."""

    rows: int
    n_envs: int
    lists: list = field(init=False)

    def __post_init__(self):
        self.lists = [[] for _ in range(self.n_envs)]

    def add(self, obs, next_obs, action, reward, done, timeout):
        for i, transitions in enumerate(self.lists):
            if transitions and not transitions[-1]["end"]:
                transitions[-1]["end"] = not np.array_equal(transitions[-1]["next"], obs[i])
            new = {"obs": obs[i], "next": next_obs[i], "action": action[i], "reward": float(reward[i])}
            transitions.append({**new, "terminal": bool(done[i] and not timeout[i]), "end": bool(done[i])})
            del transitions[: -self.rows]  # the oldest goes

    def sample(self, env, age, n_steps, gamma):
        """Transition `age` of an environment, the oldest is 0: obs, action, next, done, reward, discount."""
        transitions, total, discount = self.lists[env][age:], 0.0, 1.0
        for transition in transitions[:n_steps]:
            total += discount * transition["reward"]
            discount *= gamma
            last = transition
            if transition["end"]:
                break
        first = transitions[0]
        return first["obs"], first["action"], last["next"], float(last["terminal"]), total, discount


class MadeUpEnvs:
    """Observations of several environments with episodes of random lengths, as SB3 hands them to a buffer.

    Pixels have few values, so that frames repeat by chance.
    """

    def __init__(self, rng, n_envs, stack, channels=1, side=2, values=3, start="repeat", mean_length=5, resets=0.0):
        self.rng, self.n_envs, self.stack, self.start, self.resets = rng, n_envs, stack, start, resets
        self.frame, self.values, self.mean_length = (channels, side, side), values, mean_length
        self.now = [self._first() for _ in range(n_envs)]

    @property
    def shape(self):
        return (self.stack * self.frame[0], *self.frame[1:])

    def _new(self):
        return self.rng.integers(self.values, size=self.frame, dtype=np.uint8)

    def _first(self):
        if self.start == "any":
            return np.concatenate([self._new() for _ in range(self.stack)])
        oldest = self._new()
        older = oldest if self.start == "repeat" else np.zeros_like(oldest)
        return np.concatenate([older] * (self.stack - 1) + [oldest])

    def step(self, terminal_in_infos=False):
        """(obs, next_obs, action, reward, done, infos), and the next_obs that is meant."""
        for i in np.flatnonzero(self.rng.random(self.n_envs) < self.resets):
            self.now[i] = self._first()
        obs = np.stack(self.now)
        meant = np.stack([np.concatenate([o[self.frame[0] :], self._new()]) for o in obs])
        done = self.rng.random(self.n_envs) < 1 / self.mean_length
        late = self.rng.random(self.n_envs) < 0.5
        infos, given = [{} for _ in done], meant.copy()
        self.now = list(meant)
        for i in np.flatnonzero(done):
            self.now[i] = self._first()
            infos[i] = {"TimeLimit.truncated": bool(late[i]), "terminal_observation": meant[i]}
            if terminal_in_infos:
                given[i] = self.now[i]
        action = self.rng.uniform(-1, 1, (self.n_envs, 2)).astype(np.float32)
        reward = self.rng.normal(size=self.n_envs).astype(np.float32)
        return (obs, given, action, reward, done, infos), meant


def fill(buffer, envs, steps, naive=None, terminal_in_infos=False):
    """Steps the environments and adds each step to the buffer and, if given, to the naive one."""
    for _ in range(steps):
        step, meant = envs.step(terminal_in_infos)
        buffer.add(*step)
        if naive is not None:
            obs, _, action, reward, done, infos = step
            timeout = [info.get("TimeLimit.truncated", False) for info in infos]
            naive.add(obs, meant, action, reward, done, timeout)


def everything(buffer):
    """All transitions, oldest first: the samples of all rows of environment 0, then of 1, ..."""
    start = buffer.pos if buffer.full else 0
    rows = (start + np.arange(buffer.size())) % buffer.buffer_size
    return buffer.transitions(np.tile(rows, buffer.n_envs), np.repeat(np.arange(buffer.n_envs), len(rows)))
