"""Gymnasium ids of our environments.

`register` is an entry point of the group `gymnasium.envs`: gymnasium calls it while it is imported itself, in spawned
workers too, so nothing else may be imported here.
"""

PIXEL_REACH = "surnia/PixelReach-v0"


def register() -> None:
    """Tell gymnasium our ids; a second call changes nothing."""
    from gymnasium.envs.registration import register as add
    from gymnasium.envs.registration import registry

    if PIXEL_REACH not in registry:
        add(id=PIXEL_REACH, entry_point="rl.envs.pixel_reach:PixelReach")
