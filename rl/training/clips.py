"""Episodes as moving pictures: gif through Pillow, mp4 through PyAV."""

import importlib.util
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rl.envs.dm_control import looks_like_a_task
from rl.envs.make import make_env
from rl.envs.settings import EnvSettings
from rl.training.evaluation import Episode
from sslcore.errors import ConfigError
from sslcore.storage import write_bytes

_SIDE = 240  # of dm_control's pictures in clips: its state does not hang on the size that is drawn
_FASTEST = 30.0  # pictures a second that are worth their bytes


def check_clips(form: str) -> None:
    """ConfigError if clips of this form cannot be made here: better now than after an hour."""
    if form not in ("gif", "mp4"):
        raise ConfigError(f"clips are gif or mp4, not {form!r}")
    if form == "mp4" and importlib.util.find_spec("av") is None:
        raise ConfigError("mp4 clips need PyAV: pip install 'surnia[control]', or take gif")


def record_clip(settings: EnvSettings, episode: Episode, path: str | Path, *, seed: int) -> Path:
    """Play an episode of `evaluate_agent` again and write it as a clip.

    Nothing was drawn for it while it was evaluated; its actions and the seed give the same episode.

    Args:
        settings: of its environment.
        episode: which.
        path: the file, `*.gif` or `*.mp4`; replaced if it exists.
        seed: what `evaluate_agent` was given.

    Raises:
        ConfigError: no such form of clips, or its package is missing.
        EnvWorkerError: the environment failed.
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    check_clips(path.suffix.removeprefix("."))
    size = max(_SIDE, settings.size or 0) if looks_like_a_task(settings.name) else settings.size
    # `VecEnv.seed` counts up over the environments.
    env = make_env(settings.model_copy(update={"size": size}), seed=seed + episode.env, index=episode.env)
    try:
        frames = _play_again(env, episode)
        rate = float(env.unwrapped.metadata.get("render_fps") or _FASTEST) / settings.action_repeat
    finally:
        env.close()
    write_clip(path, frames, frames_per_second=rate)
    return path


def _play_again(env: gym.Env, episode: Episode) -> list[np.ndarray]:
    for _ in range(episode.number + 1):
        observation, _ = env.reset()
    frames = [_picture(env, observation)]
    for action in episode.actions:
        observation, *_ = env.step(action)
        frames.append(_picture(env, observation))
    return frames


def _picture(env: gym.Env, observation: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: what the environment draws for people, else its newest frame."""
    picture = env.render() if env.render_mode == "rgb_array" else None
    if isinstance(picture, np.ndarray):
        return picture
    frame = observation[-env.get_wrapper_attr("frame_channels") :]
    return np.ascontiguousarray(np.broadcast_to(frame.transpose(1, 2, 0), (*frame.shape[1:], 3)))


def write_clip(path: str | Path, frames: Sequence[np.ndarray], *, frames_per_second: float) -> None:
    """Write (h, w, 3) uint8 pictures as a clip, atomically; the suffix says which form.

    Faster than 30 a second, pictures are left out and the clip lasts as long.

    Raises:
        ConfigError: no such form, or its package is missing.
        CheckpointError: the file cannot be written.
    """
    path = Path(path)
    check_clips(path.suffix.removeprefix("."))
    every = max(1, round(frames_per_second / _FASTEST))
    chosen, rate = frames[::every], frames_per_second / every
    write_bytes(path, _gif(chosen, rate) if path.suffix == ".gif" else _mp4(chosen, rate))


def _gif(frames: Sequence[np.ndarray], rate: float) -> bytes:
    from PIL import Image

    first, *rest = (Image.fromarray(frame).quantize(64) for frame in frames)
    buffer = io.BytesIO()
    # Times in a gif are hundredths of a second.
    duration = max(20, round(100 / rate) * 10)
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    return buffer.getvalue()


def _mp4(frames: Sequence[np.ndarray], rate: float) -> bytes:
    import av

    height, width = (side - side % 2 for side in frames[0].shape[:2])  # colours are stored for squares of 2 x 2
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
