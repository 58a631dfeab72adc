"""PixelReach: a dot with inertia steers to a target, seen only as a small gray picture. Needs numpy and no renderer.

The task is made so that a learner needs what the frame stack holds. The dot keeps its velocity, walls send it back
without loss, and it starts in motion: one picture shows where the dot is but not where it goes, and who does not know
that cannot brake.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from rl.envs.registration import register

STEPS = 40
REACH = 0.12  # reward is given while the dot is closer to the target than this; the arena's side is 1
PUSH = 0.03  # velocity that a full action adds in one step
DRAG = 0.02  # share of the velocity lost in one step
START_SPEED = 0.05
WITHIN = 0.2, 0.8  # where the dot and the target start
BORDER = 1 / 7  # of the picture's side, so that a crop of 6/7 (42 to 36 pixels) keeps every centre in view
DOT = 0.08

_WHITE, _GRAY = 255.0, 110.0
_DOT_COLOUR, _TARGET_COLOUR, _FLOOR_COLOUR = (235, 130, 40), (70, 130, 160), (24, 27, 34)


class PixelReach(gym.Env[np.ndarray, np.ndarray]):
    """Steer a dot to a target and stay there: 40 steps, reward 1 in each that ends within reach (0.12 of the side).

    Observation: (size, size, 1) uint8, gray; the target is a dim disc of the radius within which reward is given, the
    dot a small bright one over it. Action: (2,) in [-1, 1], the push to the right and down; larger values are clipped.
    The episode is truncated after 40 steps and never terminates. Everything follows from the seed of `reset`.

    Args:
        size: side of the picture in pixels.
        render_mode: None, or "rgb_array": `render` then gives a (render_size, render_size, 3) picture in colour.
        render_size: its side in pixels.

    Attributes:
        position, velocity, target: (2,) float64, the state that the picture shows in part; for tests and controllers.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, size: int = 42, *, render_mode: str | None = None, render_size: int = 168) -> None:
        for name, pixels in (("size", size), ("render_size", render_size)):
            if pixels < 16:
                raise ValueError(f"{name} is the picture's side and must be at least 16 pixels, not {pixels}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        self.size, self.render_size, self.render_mode = size, render_size, render_mode
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.position = self.target = np.full(2, 0.5)
        self.velocity = np.zeros(2)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._step = 0
        self.target = self.np_random.uniform(*WITHIN, 2)
        self.position = self.np_random.uniform(*WITHIN, 2)
        angle = self.np_random.uniform(0.0, 2 * np.pi)
        self.velocity = START_SPEED * np.array([np.cos(angle), np.sin(angle)])
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        push = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self.velocity = (1 - DRAG) * self.velocity + PUSH * push
        self.position, self.velocity = _bounce(self.position + self.velocity, self.velocity)
        self._step += 1
        info = self._info()
        return self._observe(), float(info["distance"] < REACH), False, self._step >= STEPS, info

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            return None
        target, dot = self._discs(self.render_size)
        picture = _over(_over(np.array(_FLOOR_COLOUR, float), _TARGET_COLOUR, target), _DOT_COLOUR, dot)
        return np.rint(picture).astype(np.uint8)

    def _observe(self) -> np.ndarray:
        target, dot = self._discs(self.size)
        return np.rint(_over(_GRAY * target, (_WHITE,), dot)).astype(np.uint8)

    def _info(self) -> dict[str, float]:
        return {"distance": float(np.linalg.norm(self.position - self.target))}

    def _discs(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """How much of each pixel the target and the dot cover: two (size, size, 1) arrays in [0, 1]."""
        scale = size * (1 - 2 * BORDER)
        pixels = (np.arange(size) + 0.5 - size * BORDER) / scale  # arena coordinates of the pixels' centres
        discs = []
        for centre, radius in ((self.target, REACH), (self.position, DOT)):
            distance = np.hypot(pixels[None, :] - centre[0], pixels[:, None] - centre[1])
            # Soft edges, one pixel wide: motion by a part of a pixel changes the picture.
            discs.append(np.clip((radius - distance) * scale + 0.5, 0.0, 1.0)[..., None])
        return discs[0], discs[1]


def _bounce(position: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reflect at the walls 0 and 1. A wall that stopped the dot would tell a single frame the velocity."""
    outside = (position < 0) | (position > 1)
    reflected = np.where(position < 0, -position, np.where(position > 1, 2 - position, position))
    return np.clip(reflected, 0.0, 1.0), np.where(outside, -velocity, velocity)


def _over(below: np.ndarray, colour: tuple[float, ...], cover: np.ndarray) -> np.ndarray:
    return below * (1 - cover) + np.array(colour, float) * cover


register()
