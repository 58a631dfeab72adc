"""What stable-baselines3's users know as save, load and set_parameters, without pickles."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import check_for_correct_spaces, get_device, get_system_info

from rl import archive
from rl.curl import buffers
from rl.curl.fitting import OVERRIDES, check_replaced, parameters_of
from rl.curl.settings import SETTINGS
from rl.curl.state import ExactSAC
from rl.described import describe, restore
from sslcore.errors import CheckpointError, ConfigError

Self = TypeVar("Self", bound="SafeSAC")


class SafeSAC(ExactSAC):
    """SAC whose archives are JSON and safetensors in a zip, and are checked before they are believed.

    An archive holds settings and `state`, so that an agent that is loaded acts and learns on as the one that was saved
    would have. The replay buffer has files of its own.
    """

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the agent to a file; to a path at once or not at all.

        Args:
            path: where to; ".zip" is added to a name without suffix.
            exclude: settings to leave out, such as an action_noise of one's own class; load has its default then.
            include: not possible without pickles.

        Raises:
            CheckpointError: a setting cannot be stored, or the file not be written; an older one is untouched.
            ConfigError: something is to be included.
        """
        if include:
            raise ConfigError(
                f"include={list(include)} would need pickles, which archives are free of; save_replay_buffer "
                "writes the replay buffer"
            )
        left_out = set(exclude or ())
        progress = self._current_progress_remaining
        settings = {name: getattr(self, name) for name in SETTINGS if name not in left_out}
        about = {
            "class": type(self).__name__,
            "policy class": self.policy_class.__name__,
            "policy": describe(self.policy._get_constructor_parameters()),
            "device": self.device.type,
            "observation_space": describe(self.observation_space),
            "action_space": describe(self.action_space),
            "settings": {name: describe(value, name, progress=progress) for name, value in settings.items()},
        }
        archive.write(path, archive.Archive(about, self.state()))

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> Self:
        """The agent that `save` wrote; arguments as in stable-baselines3.

        Args:
            path: the archive, with or without its ".zip".
            env: what to learn on in; none is needed to act, and no replay buffer is made without one.
            device: where to.
            custom_objects, kwargs: settings that replace the stored ones.
            force_reset: whether learning on begins with a reset of the environment.
            trust: also load archives of stable-baselines3 itself, which can run any code when they are read.

        Raises:
            CheckpointError: the archive is missing, damaged, foreign, of other shapes, or needs `trust`.
            ConfigError: a setting is unknown, or one that the stored weights hang on.
            ValueError: the environment's spaces are not the agent's.
        """
        if trust and archive.needs_unpickling(path):
            with archive.reading(path):
                return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if print_system_info:
            get_system_info()
        found = archive.read(path, device=get_device(device))
        replaced = {k: v for k, v in (custom_objects or {}).items() if k in OVERRIDES} | kwargs
        agent = cls._built(path, found, env, device, replaced)
        same_device = found.about.get("device") == agent.device.type
        agent.continue_from(found.state, path, same_device=same_device, replaced=replaced)
        if env is not None and force_reset:
            agent._last_obs = None
        return agent

    @classmethod
    def _built(
        cls: type[Self],
        path: archive.Place,
        found: archive.Archive,
        env: GymEnv | None,
        device: torch.device | str,
        replaced: dict[str, Any],
    ) -> Self:
        """An agent with the archive's settings and weights of its own."""
        with archive.reading(path):
            stored = {name: restore(value) for name, value in found.about["settings"].items() if name not in replaced}
            unknown = set(stored) - set(SETTINGS)
            if unknown:
                raise CheckpointError(f"{archive.shown(path)} has settings that this version lacks: {sorted(unknown)}")
            spaces = {name: restore(found.about[name]) for name in ("observation_space", "action_space")}
            n_envs = int(found.state["counts"]["n_envs"])
            policy_class, stored_settings = found.about["policy class"], found.about["settings"]
        check_replaced(replaced, stored_settings)
        policy = replaced.pop("policy_class", cls.policy_aliases.get(policy_class))
        if policy is None:
            raise CheckpointError(
                f"{archive.shown(path)} was saved with a policy class of its own, {policy_class!r}: give it to "
                "load(..., policy_class=...)"
            )
        if env is not None:
            env = cls._wrap_env(env, int(stored.get("verbose", 0)))
            check_for_correct_spaces(env, spaces["observation_space"], spaces["action_space"])
            n_envs = env.num_envs
        agent = cls(policy, env, device=device, _init_setup_model=False)  # type: ignore[arg-type]
        agent.__dict__.update(stored | replaced | spaces | {"n_envs": n_envs})
        if replaced:
            agent._setup_model()  # what is wrong now is the caller's
        else:
            with archive.reading(path):
                agent._setup_model()
        return agent

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """As in stable-baselines3; nothing is changed if an archive does not fit.

        Raises:
            CheckpointError: an archive that is missing, damaged, foreign or of other shapes.
        """
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        found = archive.read(load_path_or_dict, device=self.device)
        with archive.reading(load_path_or_dict):
            parameters = parameters_of(self, load_path_or_dict, found.state, exact_match=exact_match)
            super().set_parameters(parameters, exact_match, device)

    def save_replay_buffer(self, path: str | Path | io.BufferedIOBase) -> None:
        """Write the replay buffer: a `FrameReplayBuffer` as a folder of its own, others as stable-baselines3 does."""
        if isinstance(path, str | Path) and isinstance(self.replay_buffer, buffers.FrameReplayBuffer):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.replay_buffer.save_to(path)
        else:
            super().save_replay_buffer(path)

    def load_replay_buffer(
        self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True, *, trust: bool = False
    ) -> None:
        """Continue from what `save_replay_buffer` wrote.

        Args:
            path: a folder of a `FrameReplayBuffer`; a pickle only if it is trusted.
            truncate_last_traj: as in stable-baselines3.
            trust: read pickles, too, which can run any code.

        Raises:
            CheckpointError: it is missing, damaged, foreign, of other shapes, or needs `trust`.
        """
        if isinstance(path, str | Path) and not Path(path).is_file():
            if self.replay_buffer is None:
                self.replay_buffer = buffers.make(self)
            if not isinstance(self.replay_buffer, buffers.FrameReplayBuffer):
                raise CheckpointError(
                    f"{archive.shown(path)} is for an agent whose replay buffer is a FrameReplayBuffer, and this "
                    f"one's is a {type(self.replay_buffer).__name__}"
                )
            self.replay_buffer.restore_from(path)
        elif trust:
            super().load_replay_buffer(path, truncate_last_traj)
        else:
            raise CheckpointError(
                f"{archive.shown(path)} must be unpickled, which can run any code in it: if you know where it "
                "comes from, load it with trust=True"
            )
