"""CURL as an algorithm of stable-baselines3.

Laskin, Srinivas and Abbeel, "CURL: Contrastive Unsupervised Representations for Reinforcement Learning", ICML 2020, on
Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. Defaults are those of the published code.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch.optim import Adam, Optimizer

from rl.curl import buffers
from rl.curl.action_noise import NoiseDraws
from rl.curl.augmenting import Augmentation, Augmenting
from rl.curl.networks import PixelActor, PixelCritic
from rl.curl.policy import CURLPolicy
from rl.curl.precision import bf16_is_faster
from rl.curl.saving import SafeSAC
from rl.curl.settings import check_settings, initial_ent_coef
from rl.curl.update import AgentParts, Batch, contrast_optimizers, faithful_update, fused_update
from rl.envs.registration import register
from sslcore.errors import ConfigError
from sslcore.random import hash_seed
from sslcore.training.running_means import RunningMeans

_UPDATING = 2  # the stream of random numbers; the policy's is another

register()  # so that an agent's `env` can be the id of one of ours


class CURL(SafeSAC):
    """SAC from pixels with a contrastive loss between two augmented views of each observation.

    To be used as stable-baselines3's SAC is. Of what it draws nothing comes from global generators: crops and noise of
    an update are functions of the seed and the update's number; the policy, and `action_noise`, have generators of
    their own, whose states `save` keeps.

    Args:
        policy: "CURLPolicy", or a class that inherits from it.
        env: observations are uint8 images (k*c, h, w), such as `rl.PixelStack` gives.
        learning_rate: of actor, critic, encoder and W; a number or a schedule.
        buffer_size: transitions kept, over all environments.
        learning_starts: steps of random actions before the first update.
        batch_size: transitions an update; the contrastive loss finds its negatives among them.
        tau, encoder_tau: weights of the new in the moving averages of the target's Q networks and of its encoder,
            which is the key encoder too.
        gamma, train_freq, gradient_steps, action_noise: as in SAC.
        replay_buffer_class, replay_buffer_kwargs: None for `rl.FrameReplayBuffer`; any whose observations are whole.
        n_steps: steps of a return before it is bootstrapped.
        ent_coef: "auto_0.1" learns the entropy coefficient from 0.1 on; a number keeps it.
        ent_coef_lr: learning rate of the entropy coefficient.
        target_update_interval, actor_update_interval: updates between the steps of the targets, and of the actor.
        target_entropy: "auto" for minus the number of actions.
        aux: "curl", or "none" for SAC on augmented pixels alone, which is RAD.
        augmentation: "crop" to image_size at random places, "shift" of the centre by up to shift_pad pixels (DrQ), or
            "none". The centre is what acting and evaluation see, so that the networks are the same for all three.
        update: "fused" encodes every view once; "faithful" follows the published code (see `rl.curl.update`).
        image_size: side of the square that the networks see; to crop, it must be smaller than the frames.
        precision: of convolutions and what follows them: "32", "bf16", or "auto" for what is faster here ("faithful"
            then takes "32"). Returns, scores and losses are in float32 always.
        stats_window_size, tensorboard_log, verbose, seed, device: as in SAC.
        policy_kwargs: net_arch, features_dim, conv_width, conv_layers (see `CURLPolicy`).

    Raises:
        ConfigError: settings or spaces that do not go together; one sentence for each.

    Example:
        >>> model = CURL(env=make_env("surnia/PixelReach-v0", seed=0), image_size=36).learn(10_000)
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"CURLPolicy": CURLPolicy}
    policy: CURLPolicy  # type: ignore[assignment]
    actor: PixelActor  # type: ignore[assignment]
    critic: PixelCritic  # type: ignore[assignment]
    critic_target: PixelCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[CURLPolicy] = "CURLPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 100_000,
        learning_starts: int = 1000,
        batch_size: int = 128,
        tau: float = 0.01,
        encoder_tau: float = 0.05,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        n_steps: int = 1,
        ent_coef: str | float = "auto_0.1",
        ent_coef_lr: float = 1e-4,
        target_update_interval: int = 2,
        actor_update_interval: int = 2,
        target_entropy: str | float = "auto",
        *,
        aux: Literal["curl", "none"] = "curl",
        augmentation: Augmentation = "crop",
        update: Literal["fused", "faithful"] = "fused",
        image_size: int = 84,
        shift_pad: int = 4,
        precision: Literal["auto", "32", "bf16"] = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy, env, learning_rate,  # type: ignore[arg-type]
            buffer_size, learning_starts, batch_size, tau, gamma, train_freq, gradient_steps, action_noise,
            replay_buffer_class=replay_buffer_class, replay_buffer_kwargs=dict(replay_buffer_kwargs or {}),
            n_steps=n_steps, ent_coef=ent_coef, target_update_interval=target_update_interval,
            target_entropy=target_entropy, stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}), verbose=verbose, seed=seed, device=device,
            _init_setup_model=False,
        )  # fmt: skip
        if not (policy_kwargs or {}).get("use_sde"):
            self.policy_kwargs.pop("use_sde", None)  # stable-baselines3 puts it in
        self.encoder_tau, self.ent_coef_lr, self.actor_update_interval = encoder_tau, ent_coef_lr, actor_update_interval
        self.aux, self.augmentation, self.update = aux, augmentation, update
        self.image_size, self.shift_pad, self.precision = image_size, shift_pad, precision
        self.random_seed: int | None = None
        self.bf16 = False
        self.encoder_optimizer: Adam | None = None
        self.cpc_optimizer: Adam | None = None
        self._means, self._noise_draws = RunningMeans(), NoiseDraws()
        if _init_setup_model:
            self._setup_model()

    # --- setting up --------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        if not hasattr(self, "observation_space"):
            raise ConfigError("CURL needs an environment to be built for: give env=...; load needs none")
        check_settings(self.__dict__, self.observation_space)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        if self.random_seed is None:
            self.random_seed = int(torch.randint(1 << 62, ()))
        self._convert_train_freq()
        policy: Any = self.policy_class
        self.policy = policy(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            image_size=self.image_size,
            **self.policy_kwargs,
        ).to(self.device)
        self.policy.seed_noise(self.random_seed)
        self._noise_draws.seed(self.random_seed)
        self._create_aliases()
        if self.aux == "curl" and self.update == "fused":
            self.critic.optimizer.add_param_group({"params": list(self.policy.similarity.parameters())})
        elif self.aux == "curl":
            self.encoder_optimizer, self.cpc_optimizer = contrast_optimizers(self.policy, self.lr_schedule(1))
        self._setup_entropy()
        self._update_noise = torch.Generator(self.device)
        if self.precision != "auto":
            self.bf16 = self.precision == "bf16"
        else:
            self.bf16 = self.update == "fused" and bf16_is_faster(self.device)
        if self.env is not None and self.replay_buffer is None:
            # Without environment nothing is collected: an agent that is loaded to be evaluated needs no such memory.
            self.replay_buffer = buffers.make(self)

    def _setup_entropy(self) -> None:
        if self.target_entropy == "auto":
            self.target_entropy = -float(math.prod(self.action_space.shape or ()))
        self.target_entropy = float(self.target_entropy)
        value, learned = initial_ent_coef(self.ent_coef)
        if learned:
            self.log_ent_coef = torch.full((1,), math.log(value), device=self.device, requires_grad=True)
            self.ent_coef_optimizer = Adam([self.log_ent_coef], lr=self.ent_coef_lr, betas=(0.5, 0.999))
        else:
            self.ent_coef_tensor = torch.tensor(value, device=self.device)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise ConfigError(f'CURL has one policy, "CURLPolicy", and no {policy_name!r}')
        return self.policy_aliases[policy_name]

    # --- learning ----------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 128) -> None:
        """Update `gradient_steps` times from the replay buffer; what is logged stays on the device until then."""
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        rate = self.lr_schedule(self._current_progress_remaining)
        for optimizer in self._scheduled_optimizers():
            update_learning_rate(optimizer, rate)
        parts, augmenting = self._parts(), self._augmenting()
        update = fused_update if self.update == "fused" else faithful_update
        for _ in range(gradient_steps):
            sample = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            losses = update(
                parts,
                self._batch(sample, augmenting),
                move_actor=self._n_updates % self.actor_update_interval == 0,
                move_targets=self._n_updates % self.target_update_interval == 0,
            )
            self._means.add(losses)
            self._n_updates += 1
        self._logger.record("train/learning_rate", rate)
        self._logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _batch(self, sample: ReplayBufferSamples, augmenting: Augmenting) -> Batch:
        assert self.random_seed is not None
        self._update_noise.manual_seed(hash_seed(self.random_seed, self._n_updates, _UPDATING))
        noise = torch.randn(2, *sample.actions.shape, generator=self._update_noise, device=self.device)
        discounts = self.gamma if sample.discounts is None else sample.discounts
        views = augmenting(sample.observations, sample.next_observations, self._n_updates)
        return Batch(views, sample.actions, sample.rewards, (1 - sample.dones) * discounts, noise)

    def _parts(self) -> AgentParts:
        """What an update sees of this; made anew each time, because users set `tau` and the like as they go."""
        contrast = (self.encoder_optimizer, self.cpc_optimizer)
        return AgentParts(
            self.policy,
            self.ent_coef_tensor.log() if self.log_ent_coef is None else self.log_ent_coef,
            self.ent_coef_optimizer,
            float(self.target_entropy),
            contrast_optimizers=tuple(optimizer for optimizer in contrast if optimizer is not None),
            tau=self.tau,
            encoder_tau=self.encoder_tau,
            bf16=self.bf16,
        )

    def _augmenting(self) -> Augmenting:
        assert self.random_seed is not None
        contrast = self.aux == "curl"
        return Augmenting(
            self.augmentation, self.image_size, pad=self.shift_pad, seed=self.random_seed, contrast=contrast
        )

    def _scheduled_optimizers(self) -> list[Optimizer]:
        optimizers = [self.actor.optimizer, self.critic.optimizer, self.encoder_optimizer, self.cpc_optimizer]
        return [optimizer for optimizer in optimizers if optimizer is not None]

    @property
    def logger(self) -> Logger:
        """stable-baselines3's logger; asking for it brings the losses since the last time over from the device."""
        for name, mean in self._means.take().items():
            self._logger.record(f"train/{name}", mean)
        return self._logger

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "CURL",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ConfigError("CURL needs an environment to learn in: give it to load(..., env=...), or by set_env")
        if self.replay_buffer is None:
            self.replay_buffer = buffers.make(self)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def learn(  # type: ignore[override]
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "CURL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> "CURL":
        """As SAC's."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
