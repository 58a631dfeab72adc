"""Agents that are as small as they can be, and what they learn from."""

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv

from rl import CURL, CURLPolicy, PixelReach, PixelStack

PIXELS = spaces.Box(0, 255, (2, 16, 16), np.uint8)  # two gray frames
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
NETWORKS = {"net_arch": [8, 8], "features_dim": 6, "conv_width": 4, "conv_layers": 2}


def tiny_env(stack=2):
    return PixelStack(PixelReach(size=16), stack=stack)


def tiny_envs(n):
    return DummyVecEnv([tiny_env] * n)


def tiny_agent(env=None, **settings):
    small = {"image_size": 14, "batch_size": 8, "buffer_size": 500, "learning_starts": 20, "policy_kwargs": NETWORKS}
    return CURL(env=env or tiny_env(), **{**small, "seed": 0, "device": "cpu", "precision": "32", **settings})


def tiny_policy(image_size=14, **arguments):
    return CURLPolicy(PIXELS, ACTIONS, lambda _: 1e-3, image_size=image_size, **{**NETWORKS, **arguments})


class FixedReplay:
    """Always the same made-up transitions: what a batch is made of then hangs on the agent alone."""

    def __init__(self, n=8, seed=0):
        made = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (2, n, *PIXELS.shape), dtype=torch.uint8, generator=made)
        numbers = torch.rand(n, 4, generator=made)
        dones = (numbers[:, 3:] > 0.7).float()
        self.samples = ReplayBufferSamples(frames[0], numbers[:, :2] * 2 - 1, frames[1], dones, numbers[:, 2:3])

    def sample(self, batch_size, env=None):
        return self.samples


def without_output(agent):
    """The agent with a logger, which `train` needs outside of `learn`."""
    agent.set_logger(configure(None, []))
    return agent


def same_state(ours, theirs):
    """Whether two nested states are equal bit for bit."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same_state(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same_state, ours, theirs))
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    return ours == theirs
