"""Whether what an archive holds, and what `load` is told to replace, fits an agent."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import TensorDict
from torch import nn
from torch.optim import Optimizer

from rl import archive
from rl.curl.settings import SETTINGS, WEIGHTS_HANG_ON
from rl.described import describe
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import CheckpointError, ConfigError

OVERRIDES = (*SETTINGS, "policy_class")
"""What `load` can be given in place of what is stored."""


def parameters_of(agent: SAC, path: archive.Place, state: Mapping[str, Any], *, exact_match: bool) -> TensorDict:
    """The state dicts of an archive under the names of `get_parameters`, seen to fit the agent.

    Raises:
        CheckpointError: they do not.
    """
    parameters = {"policy": state["policy"], **state["optimizers"]}
    wanted = {name: _part(agent, name) for name in agent._get_torch_save_params()[0]}
    if exact_match and set(parameters) != set(wanted):
        odd = ", ".join(sorted(set(parameters) ^ set(wanted)))
        raise CheckpointError(
            f"{archive.shown(path)} does not fit this agent: only one of them has {odd}; give both the same aux, "
            "update and ent_coef"
        )
    fitting = {}
    for name, part in wanted.items():
        if name not in parameters:
            continue
        if isinstance(part, Optimizer):
            archive.check_optimizer(path, name, part, parameters[name])
        elif exact_match and isinstance(part, nn.Module):
            archive.check_shapes(path, name, part.state_dict(), parameters[name])
        fitting[name] = parameters[name]
    return fitting


def _part(agent: SAC, name: str) -> Any:
    part: Any = agent
    for step in name.split("."):
        part = getattr(part, step)
    return part


def check_replaced(replaced: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise a ConfigError for settings that `load` cannot replace."""
    problems = []
    for name, value in replaced.items():
        if name not in OVERRIDES:
            problems.append(f"load knows no setting {name!r}{did_you_mean(name, OVERRIDES)}")
        elif name in WEIGHTS_HANG_ON and describe(value, name) != stored.get(name):
            problems.append(
                f"{name} cannot change on load, for the stored weights and optimisers hang on it; make a new agent"
            )
    if problems:
        raise ConfigError(*problems)
