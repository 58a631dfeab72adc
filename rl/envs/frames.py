"""Channel-first uint8 frames out of what an environment observes or renders."""

from typing import Any

import gymnasium as gym
import numpy as np

from sslcore.errors import ConfigError, EnvWorkerError

RENDERED_SIZE = 100  # CURL's pictures, of which 84 x 84 are cropped


class FrameSource:
    """Where an environment's frames come from: its image observations, else its pictures.

    Args:
        env: the environment, not reset yet; nothing is called on it here.
        size: side that frames are resized to; None keeps that of observations and gives 100 to pictures.

    Attributes:
        shape: (c, h, w) of the frames.

    Raises:
        ConfigError: there are neither image observations nor pictures.
        EnvWorkerError: the observations are images of another type than uint8.
    """

    def __init__(self, env: gym.Env, size: int | None) -> None:
        self._env, self._size = env, size
        space = env.observation_space
        self._layout = _image_layout(space, env_name(env))
        if self._layout and space.shape is not None:
            c, h, w = _channel_first_shape(space.shape, self._layout)
            self._native = space.shape
            self.shape = (c, h, w) if size is None else (c, size, size)
        elif env.render_mode == "rgb_array":
            side = RENDERED_SIZE if size is None else size
            self.shape = (3, side, side)
        else:
            raise ConfigError(
                f"environment {env_name(env)} observes {space} and does not render: make it with "
                "render_mode='rgb_array', so that there are pictures to learn from"
            )

    def check(self, observation: Any) -> None:
        """ValueError if an observation holds numbers that are not finite, or is not the image that was announced."""
        if not _is_finite(observation):
            raise ValueError("the observation holds numbers that are not finite")
        if self._layout:
            image = np.asarray(observation)
            _check_type("the observation", image)
            if image.shape != self._native:
                raise ValueError(f"the observation has shape {image.shape}, but {self._native} was announced")

    def frame(self, observation: Any) -> np.ndarray:
        """The (c, h, w) uint8 frame of the present moment; ValueError says what is wrong with the picture."""
        image = np.asarray(observation if self._layout else self._env.render())
        if not self._layout:
            _check_type("the picture", image)
            if image.ndim != 3 or image.shape[-1] != 3:
                raise ValueError(f"the picture has shape {image.shape}, but an rgb_array is (height, width, 3)")
        return _resized(_channel_first(image, self._layout or "hwc"), *self.shape[1:])


def _check_type(what: str, image: np.ndarray) -> None:
    if image.dtype != np.uint8:
        raise ValueError(f"{what} is of type {image.dtype}, but images must be uint8 from 0 to 255")


def env_name(env: gym.Env) -> str:
    """The id an environment was made by, else its class."""
    return env.spec.id if env.spec is not None else str(getattr(env.unwrapped, "name", type(env.unwrapped).__name__))


def _is_finite(observation: Any) -> bool:
    """False if an array, or one in a dict or tuple, holds NaN or infinity."""
    if isinstance(observation, dict):
        return all(_is_finite(value) for value in observation.values())
    if isinstance(observation, tuple):
        return all(_is_finite(value) for value in observation)
    array = np.asarray(observation)
    return not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())


def _image_layout(space: gym.Space, name: str) -> str | None:
    """ "hw", "hwc" or "chw" of image observations; None for anything else, whose pictures are taken instead."""
    if not isinstance(space, gym.spaces.Box):
        return None
    if len(space.shape) == 3 and space.dtype != np.uint8:
        raise EnvWorkerError(f"environment {name} observes images of type {space.dtype}; they must be uint8, 0 to 255")
    if space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return None
    if len(space.shape) == 2:
        return "hw"
    # Channels are the shorter end: 3 x 84 x 84 or 84 x 84 x 3, and 9 x 84 x 84 of an inner stack.
    return "chw" if space.shape[0] < space.shape[2] else "hwc"


def _channel_first_shape(shape: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    if layout == "hw":
        return 1, shape[0], shape[1]
    return (shape[0], shape[1], shape[2]) if layout == "chw" else (shape[2], shape[0], shape[1])


def _channel_first(image: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hw":
        return image[None]
    return image if layout == "chw" else np.ascontiguousarray(image.transpose(2, 0, 1))


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """(c, height, width); Pillow's bilinear filter widens when it shrinks, so that thin things do not vanish."""
    if frame.shape[1:] == (height, width):
        return frame
    from PIL import Image

    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in frame]
    return np.stack([np.asarray(plane) for plane in planes])
