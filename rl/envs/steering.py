"""A hand-written controller of PixelReach that reads the state which agents must see in pictures: what can be reached.

It is a measure for agents, and tells tests that the task can be solved.
"""

import numpy as np

from rl.envs.pixel_reach import PUSH, PixelReach

POSITION_GAIN, VELOCITY_GAIN = 0.3, 0.5


def steer(env: PixelReach, position_gain: float = POSITION_GAIN, velocity_gain: float = VELOCITY_GAIN) -> np.ndarray:
    """The push towards the target, less what brakes the dot: a proportional-derivative controller.

    Args:
        env: as it stands; nothing in it is changed.
        position_gain: share of the way to the target that is wanted as additional velocity.
        velocity_gain: share of the velocity that is braked; without it the dot goes far past the target.

    Returns:
        (2,) action in [-1, 1].
    """
    wanted = position_gain * (env.target - env.position) - velocity_gain * env.velocity
    return np.clip(wanted / PUSH, -1.0, 1.0)
