"""The replay buffer that an agent makes for its environment."""

from typing import Any

from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack

from rl.replay.buffer import FrameReplayBuffer
from sslcore.errors import ConfigError


def make(agent: Any) -> ReplayBuffer:
    """An empty one, of the agent's class (None: `FrameReplayBuffer`) and with its n-step returns.

    Raises:
        ConfigError: the class does not sum rewards over n steps, or its memory does not suffice.
    """
    kind = agent.replay_buffer_class or FrameReplayBuffer
    wanted = dict(agent.replay_buffer_kwargs)
    if issubclass(kind, FrameReplayBuffer | NStepReplayBuffer):
        wanted = {"n_steps": agent.n_steps, "gamma": agent.gamma} | wanted
    elif agent.n_steps > 1:
        raise ConfigError(
            f"{kind.__name__} has no n-step returns: take n_steps=1, or leave replay_buffer_class to FrameReplayBuffer"
        )
    if issubclass(kind, FrameReplayBuffer):
        wanted = {"stack": frames_in_a_stack(agent.env), "seed": agent.random_seed} | wanted
    buffer = kind(
        agent.buffer_size,
        agent.observation_space,
        agent.action_space,
        device=agent.device,
        n_envs=agent.n_envs,
        **wanted,
    )
    if agent.verbose >= 1 and isinstance(buffer, FrameReplayBuffer):
        print(buffer.memory)
    return buffer


def frames_in_a_stack(env: VecEnv | None) -> int:
    """Frames in an observation: what `PixelStack` or `VecFrameStack` says; else 1, an observation being a frame."""
    layer = env
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecFrameStack):
            return layer.stacked_obs.n_stack
        layer = layer.venv
    # Asked first: a worker process of stable-baselines3 dies of an attribute that is not there.
    return int(layer.get_attr("stack")[0]) if layer is not None and layer.has_attr("stack") else 1
