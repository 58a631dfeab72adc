"""From a recipe to environments and an agent."""

from typing import Any

from gymnasium.spaces import Box
from stable_baselines3.common.vec_env import VecEnv

from rl.curl import CURL
from rl.envs.make import make_vec_env
from rl.training.recipe import ControlRecipe, TrainingEnvs, crop_side
from sslcore.errors import ConfigError
from sslcore.training.machine import pick_device

_ITS_OWN = ("image_size", "storage", "ent_coef", "initial_ent_coef", "weights")
_NETWORK = ("net_arch", "features_dim", "conv_width", "conv_layers")


def make_envs(settings: TrainingEnvs, seed: int, count: int | None = None) -> VecEnv:
    """The recipe's environments, or `count` of them; close them.

    Raises:
        ConfigError, EnvWorkerError: one cannot be made.
    """
    watch = {"step_seconds": settings.step_seconds} if settings.workers == "processes" else None
    return make_vec_env(settings.one, count or settings.n_envs, seed, settings.workers, watch=watch)


def make_agent(recipe: ControlRecipe, env: VecEnv) -> CURL:
    """A new agent with an empty replay buffer.

    Raises:
        ConfigError: settings that do not go together, too little memory, no such device, actions that are no numbers.
    """
    if not isinstance(env.action_space, Box):
        raise ConfigError(
            f"env.name: {recipe.env.name} has actions of the kind {env.action_space}, and soft actor-critic needs "
            "continuous ones (a Box); take another environment"
        )
    if not env.action_space.is_bounded():
        raise ConfigError(
            f"env.name: {recipe.env.name} has actions without bounds, {env.action_space}, which cannot be scaled to "
            "[-1, 1]; give its action space finite ends"
        )
    agent = recipe.agent
    given: dict[str, Any] = agent.model_dump(exclude={*_ITS_OWN, *_NETWORK})
    storage = None if agent.storage == "auto" else agent.storage
    return CURL(
        env=env,
        image_size=image_size(recipe, env),
        ent_coef=f"auto_{agent.initial_ent_coef:g}" if agent.ent_coef == "auto" else agent.ent_coef,
        replay_buffer_kwargs={"storage_device": storage, "expected": recipe.agent_steps},
        policy_kwargs={name: getattr(agent, name) for name in _NETWORK},
        seed=recipe.seed,
        device=pick_device(recipe.device),
        **given,
    )


def image_size(recipe: ControlRecipe, env: VecEnv) -> int:
    """Side of the square that the networks see."""
    if recipe.agent.image_size is not None:
        return recipe.agent.image_size
    return crop_side(min((env.observation_space.shape or (0, 0, 0))[1:]))
