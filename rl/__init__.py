"""Control from pixels: CURL as a stable-baselines3 algorithm, its replay buffer, and environments.

Public names are loaded when they are first used, so that `import rl`, and with it the command line's checks, needs
neither torch nor stable-baselines3.
"""

from sslcore._lazy import attach

_HOME = {
    "curl": ("CURL", "CURLPolicy"),
    "replay": ("FrameReplayBuffer",),
    "envs": ("EpisodeSeeds", "EnvSettings", "PixelReach", "PixelStack", "make_env", "make_vec_env"),
}
_MODULES = {"archive", "curl", "envs", "replay"}

__all__, __getattr__, __dir__ = attach(__name__, _HOME, _MODULES)
