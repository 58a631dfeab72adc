"""Gymnasium ids of our environments.

Gymnasium 1 has no entry points for environments any more (group `gymnasium.envs`), so an id is known once a module that
registers it has been imported: here `rl.CURL`, `rl.make_env`, or `rl.envs` after gymnasium. Where nothing of ours is,
as in workers that stable-baselines3 spawns, let the id name the module: `rl.envs.pixel_reach:surnia/PixelReach-v0`.
"""

PIXEL_REACH = "surnia/PixelReach-v0"


def register() -> None:
    """Tell gymnasium our ids; a second call changes nothing."""
    from gymnasium.envs.registration import register as add
    from gymnasium.envs.registration import registry

    if PIXEL_REACH not in registry:
        add(id=PIXEL_REACH, entry_point="rl.envs.pixel_reach:PixelReach")
