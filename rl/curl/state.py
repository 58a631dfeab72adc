"""What an agent goes on from exactly: weights, optimisers, counters, and the state of whatever it draws from."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.noise import ActionNoise
from torch import Tensor
from torch.optim import Adam

from rl import archive
from rl.curl.action_noise import NoiseDraws
from rl.curl.fitting import parameters_of
from rl.curl.policy import CURLPolicy
from sslcore.training.running_means import RunningMeans

_COUNTS = (
    "num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_episode_num",
    "_current_progress_remaining", "n_envs", "random_seed",
)  # fmt: skip
_LAST = ("_last_obs", "_last_episode_starts", "_last_original_obs")


class ExactSAC(SAC):
    """SAC that draws nothing from global generators and goes on from its state as if nothing had happened.

    The replay buffer has a state of its own.
    """

    policy: CURLPolicy  # type: ignore[assignment]
    precision: str
    bf16: bool
    random_seed: int | None
    encoder_optimizer: Adam | None
    cpc_optimizer: Adam | None
    _means: RunningMeans
    _noise_draws: NoiseDraws

    def set_random_seed(self, seed: int | None = None) -> None:
        """As in stable-baselines3, and for what the algorithm draws itself."""
        super().set_random_seed(seed)
        if seed is not None:
            self.random_seed = seed
            self._noise_draws.seed(seed)
            if hasattr(self, "policy"):
                self.policy.seed_noise(seed)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if action_noise is None:
            return super()._sample_action(learning_starts, None, n_envs)
        with self._noise_draws.drawing():
            return super()._sample_action(learning_starts, action_noise, n_envs)

    def state(self) -> dict[str, Any]:
        """All that learning goes on from but settings and replay buffer; what `sslcore.storage.pack` takes."""
        episodes: Iterable[Mapping[str, Any]] = self.ep_info_buffer or ()
        noise = self.action_noise
        return {
            "policy": self.policy.state_dict(),
            "optimizers": {name: state for name, state in self.get_parameters().items() if name != "policy"},
            "variables": {name: getattr(self, name).detach() for name in self._get_torch_save_params()[1]},
            "counts": {name: getattr(self, name) for name in _COUNTS},
            "last": {name: getattr(self, name) for name in _LAST},
            "episodes": [{k: float(e[k]) for k in ("r", "l", "t") if k in e} for e in episodes],
            "successes": [float(success) for success in self.ep_success_buffer or ()],
            "means": self._means.state(),
            "bf16": self.bf16,
            "acting": self.policy.noise.get_state(),
            "random actions": self.action_space.np_random.bit_generator.state,
            "action noise": None if noise is None else self._noise_draws.state(noise),
        }

    def continue_from(
        self,
        state: Mapping[str, Any],
        place: archive.Place,
        *,
        same_device: bool = True,
        replaced: Iterable[str] = (),
    ) -> None:
        """Go on from what `state` gave, in an agent of the same settings.

        Args:
            state: tensors on the CPU or the agent's device.
            place: where it was read, for messages.
            same_device: whether it comes from a device of this kind; else precision "auto" stays as measured here.
            replaced: settings that are others than the saved agent's; what hangs on them is not taken over.

        Raises:
            CheckpointError: it does not fit this agent.
        """
        with archive.reading(place):
            self._continue_from(place, state, set(replaced), same_device)

    def _continue_from(
        self, place: archive.Place, state: Mapping[str, Any], replaced: set[str], same_device: bool
    ) -> None:
        self.set_parameters(parameters_of(self, place, state, exact_match=True))
        for name, value in state["variables"].items():
            ours = getattr(self, name, None)
            if isinstance(ours, Tensor):  # another ent_coef may have been given
                ours.data.copy_(value)
        keep = {"n_envs"} | ({"random_seed"} if "seed" in replaced else set())
        for name in _COUNTS:
            if name not in keep:
                setattr(self, name, state["counts"][name])
        for name in _LAST:
            setattr(self, name, state["last"][name])
        self.ep_info_buffer = deque(state["episodes"], maxlen=self._stats_window_size)
        self.ep_success_buffer = deque(state["successes"], maxlen=self._stats_window_size)
        self._means.restore(state["means"], self.device)
        if self.precision == "auto" and "update" not in replaced and same_device:
            self.bf16 = bool(state["bf16"])  # not measured anew: the numbers would be others
        if "seed" not in replaced:
            self.policy.noise.set_state(state["acting"])
            self.action_space.np_random.bit_generator.state = state["random actions"]
            if state.get("action noise") is not None and "action_noise" not in replaced:
                self._noise_draws.restore(self.action_noise, state["action noise"])

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        own = ("encoder_optimizer", "cpc_optimizer")
        return [*state_dicts, *(name for name in own if getattr(self, name) is not None)], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_means", "_noise_draws", "_update_noise"]
