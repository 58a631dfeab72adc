"""Environments for agents that see pixels. Names are loaded when they are first used; optional packages later still."""

import sys

from rl.envs.registration import register
from sslcore._lazy import attach

_HOME = {
    "dm_control": ("DMControl",),
    "doctor": ("doctor_lines",),
    "make": ("make_env", "make_vec_env"),
    "pixel_reach": ("PixelReach",),
    "pixel_stack": ("PixelStack",),
    "rendering": ("choose_renderer", "renderer"),
    "seeding": ("EpisodeSeeds", "episode_seed"),
    "settings": ("EnvSettings",),
    "workers": ("WatchedVecEnv",),
}

__all__, __getattr__, __dir__ = attach(__name__, _HOME)

# Whoever has gymnasium may ask it for our ids; whoever has not, as a recipe's check, must not wait for it.
if "gymnasium" in sys.modules:
    register()
