"""The replay buffer for stacked frames. What it will take can be asked (`memory`) without torch."""

from sslcore._lazy import attach

__all__, __getattr__, __dir__ = attach(__name__, {"buffer": ("FrameReplayBuffer",)}, {"memory", "saving"})
