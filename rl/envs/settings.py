"""Which environment, and how it is seen. Imports nothing heavy, so that recipes can be checked at once."""

from typing import Annotated, Any

from pydantic import Field

from sslcore.settings import Count, Settings


class EnvSettings(Settings):
    """The environment, its frames and its action repeat."""

    name: str = "surnia/PixelReach-v0"
    """A gymnasium id, with the module that registers it as `my_package:Mine-v0`, or a task of dm_control as
    `cartpole-swingup`."""
    stack: Count = 3
    """Frames in one observation."""
    action_repeat: Count = 1
    """How often each action is done; rewards are summed."""
    size: Count | None = None
    """Side of the frames in pixels; without one, that of image observations, and 100 for rendered pictures."""
    camera: Annotated[int, Field(ge=0)] = 0
    """Which of a dm_control task's cameras."""
    fast_render: bool = False
    """dm_control without shadows and anti-aliasing: several times faster in software, but other pictures and scores."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of a gymnasium environment."""
