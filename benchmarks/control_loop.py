"""Frames a second of the whole loop (environment, acting, replay, update), beside stable-baselines3's SAC from pixels.

    python benchmarks/control_loop.py                                # PixelReach at 42 pixels, an update a step
    python benchmarks/control_loop.py --threads 1 --json result.json
    python benchmarks/control_loop.py --recipe cartpole_swingup --steps 8 --transitions 2000 --seconds 600

All agents learn, in turn within one process, so that whatever else the machine does disturbs all alike. What is equal:
one environment, one update a step, batch size, size of the pictures that networks see, widths and number of layers
(except NatureCNN's, with which stable-baselines3's CnnPolicy comes), float32. What is not:

* CURL stores whole frames and crops three views a batch; SAC is given frames that are as small as the crops.
* CURL encodes four views an update and has one more loss; SAC's actor and critic each have an encoder of their own.
* CURL moves actor and targets in every second update, as published; SAC in every one.

The row "no contrast, no crops" does the work that SAC does, but for its schedule; "every update" takes over that too.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alternate import Forms, hardware, measure, table
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from apps.recipes import load_recipe
from rl.training.agents import image_size, make_agent, make_envs
from rl.training.recipe import ControlRecipe
from sslcore.nn import PixelEncoder

Agents = dict[str, Any]
PICTURES = {"pixelreach": ["--env.options={size: 42}", "--agent.image_size=36"]}
"""Larger pictures than the recipe's: NatureCNN's kernels do not fit into less than 36 pixels."""


class SameEncoder(BaseFeaturesExtractor):
    """Our encoder's layers in stable-baselines3's place for them; it divides by 255 itself."""

    def __init__(self, observation_space: spaces.Box, features_dim: int, layers: int, width: int) -> None:
        super().__init__(observation_space, features_dim)
        channels, side, _ = observation_space.shape
        self.encoder = PixelEncoder(channels, features_dim, layers, width, side)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.encoder(observations)


def ours(recipe: ControlRecipe, starts: int, every_update: bool = False, **changes: Any) -> Any:
    """An agent of the recipe with other settings, in its environment."""
    if every_update:
        changes |= {"actor_update_interval": 1, "target_update_interval": 1}
    settings = recipe.agent.model_copy(update={"learning_starts": starts, "precision": "32", **changes})
    changed = recipe.model_copy(update={"agent": settings})
    return make_agent(changed, make_envs(recipe.env, recipe.seed))


def theirs(recipe: ControlRecipe, starts: int, *, same_encoder: bool) -> SAC:
    """stable-baselines3's SAC with its CnnPolicy, in the same environment with smaller frames."""
    agent, envs = recipe.agent, small_envs(recipe)
    extractor: dict[str, Any] = {"features_extractor_kwargs": {"features_dim": agent.features_dim}}
    if same_encoder:
        layers = {"layers": agent.conv_layers, "width": agent.conv_width}
        extractor = {
            "features_extractor_class": SameEncoder,
            "features_extractor_kwargs": {"features_dim": agent.features_dim, **layers},
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so large a replay may not fit: it is not filled
        return SAC(
            "CnnPolicy",
            envs,
            learning_rate=agent.learning_rate,
            buffer_size=agent.buffer_size,
            learning_starts=starts,
            batch_size=agent.batch_size,
            gamma=agent.gamma,
            policy_kwargs={"net_arch": list(agent.net_arch), **extractor},
            seed=recipe.seed,
            device=recipe.device,
        )


def small_envs(recipe: ControlRecipe) -> VecEnv:
    """Environments whose frames are as large as the crops that CURL's networks see."""
    with_frames = make_envs(recipe.env, recipe.seed)
    side = image_size(recipe, with_frames)
    with_frames.close()
    if recipe.env.size is None:  # it draws its observations itself
        changes: dict[str, Any] = {"options": {**recipe.env.options, "size": side}}
    else:
        changes = {"size": side}
    return make_envs(recipe.env.model_copy(update=changes), recipe.seed)


def agents_of(recipe: ControlRecipe, starts: int) -> Agents:
    """The first is what the others are divided by."""
    plain = {"aux": "none", "augmentation": "none"}
    return {
        "CURL, fused": ours(recipe, starts),
        "CURL, faithful": ours(recipe, starts, update="faithful"),
        "CURL, no contrast, no crops": ours(recipe, starts, **plain),
        "the same, actor and targets every update": ours(recipe, starts, every_update=True, **plain),
        "SAC of stable-baselines3, our encoder's layers": theirs(recipe, starts, same_encoder=True),
        "SAC of stable-baselines3, NatureCNN": theirs(recipe, starts, same_encoder=False),
    }


def learning(agent: Any, steps: int) -> Callable[[], object]:
    return lambda: agent.learn(steps, log_interval=None, reset_num_timesteps=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", default="pixelreach", help="of configs/control, or a file")
    parser.add_argument("--steps", type=int, default=50, help="agent steps of one turn, each with an update")
    parser.add_argument("--transitions", type=int, default=500, help="in the replay before the first update")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=240, help="stop after this long, but not before three rounds")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    changes = ["--env.n_envs=1", "--agent.gradient_steps=1", "--agent.storage=cpu", f"--device={options.device}"]
    changes += PICTURES.get(options.recipe, [])
    recipe, _ = load_recipe(options.recipe, ControlRecipe, changes, folder="control")
    agents = agents_of(recipe, options.transitions)
    for agent in agents.values():
        learning(agent, options.transitions)()  # random steps, without updates
    forms: Forms = {name: learning(agent, options.steps) for name, agent in agents.items()}
    items = options.steps * recipe.env.action_repeat
    rows = measure(forms, rounds=options.rounds, device=device, items=items, seconds=options.seconds)
    side = agents["CURL, fused"].image_size
    title = (
        f"{options.steps} agent steps of {recipe.env.name}, {recipe.env.stack} frames, networks see {side} x {side}, "
        f"batch {recipe.agent.batch_size}; environment frames a second"
    )
    print(f"{hardware(device)}\n")
    print(table(title, rows))
    if options.json:
        options.json.write_text(json.dumps({"hardware": hardware(device), "title": title, "results": rows}, indent=2))


if __name__ == "__main__":
    main()
