"""Frames of an environment as an image folder, to pretrain an encoder on."""

import contextlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rl.envs.make import make_env
from rl.envs.settings import EnvSettings
from rl.training.evaluation import Act, random_actions
from sslcore.errors import ConfigError
from sslcore.storage import files, folders
from sslcore.storage.messages import show_path

REWARDED, UNREWARDED = "rewarded", "unrewarded"


def record_frames(
    settings: EnvSettings, folder: str | Path, *, count: int, seed: int, agent: Any = None, by_reward: bool = False
) -> Path:
    """Write the newest frame of each observation as a PNG: for `surnia pretrain`, or labelled for `surnia evaluate`.

    Args:
        settings: of the environment; frames are as an agent sees them, before any crop.
        folder: new or empty.
        count: how many frames.
        seed: of the episodes and of random actions.
        agent: whose actions are taken, drawn as in training; None: uniformly random ones.
        by_reward: in two subfolders, by whether the reward of the step to the frame was above 0; the first frame of an
            episode, which no step led to, is left out then.

    Raises:
        ConfigError: the folder holds something, or frames are of other than one or three channels.
        EnvWorkerError: the environment failed.
        CheckpointError: a file cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{show_path(folder)} is not empty; name a new folder for the frames")
    with contextlib.closing(make_env(settings, seed=seed)) as env:
        channels = env.get_wrapper_attr("frame_channels")
        if channels not in (1, 3):
            raise ConfigError(f"frames of {channels} channels cannot be written as pictures")
        for name in (REWARDED, UNREWARDED) if by_reward else (".",):
            folders.make_folder(folder / name)
        seen = _observations(env, agent, random_actions(env.action_space, seed))
        if by_reward:
            seen = ((observation, reward) for observation, reward in seen if reward is not None)
        for number, (observation, reward) in enumerate(itertools.islice(seen, count)):
            place = folder / (REWARDED if reward and reward > 0 else UNREWARDED) if by_reward else folder
            files.write_bytes(place / f"{number:07d}.png", _png(observation[-channels:]))
    return folder


def _observations(env: gym.Env, agent: Any, by_lot: Act) -> Iterator[tuple[np.ndarray, float | None]]:
    """Observations of one episode after the other, with the reward of the step to each; None for the first ones."""
    while True:
        observation, _ = env.reset()
        yield observation, None
        ended = False
        while not ended:
            action = by_lot(observation[None])[0] if agent is None else agent.predict(observation)[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            yield observation, float(reward)
            ended = terminated or truncated


def _png(frame: np.ndarray) -> bytes:
    """Of a (c, h, w) frame of one or three channels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame[0] if len(frame) == 1 else np.ascontiguousarray(frame.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()
