"""The schema of a control recipe: types, defaults and meanings of every setting.

Each part brings its own settings; here are the agent's and training's, and all of them together. A recipe names only
what is listed there, and nothing heavy is imported. The text under a field is its help on the command line.

Two units of time: an agent step is one decision; an environment step is one of the simulator, `env.action_repeat` of
them an agent step. A run's length and its events are in environment steps, in which scores are published; the agent's
own settings are in agent steps, in which CURL counts them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rl.envs.settings import EnvSettings
from sslcore.settings import Count, NonNegative, Positive, Settings, Whole, Widths

CROP_SHARE = 0.84  # CURL's 84 of 100 pixels
_LARGEST_SEED = 2**31

Seed = Annotated[int, Field(ge=0, lt=_LARGEST_SEED)]


class TrainingEnvs(EnvSettings):
    """The environment that the agent learns in, and how many of it."""

    n_envs: Count = 1
    """Environments that are stepped together; each decision of one of them is an agent step."""
    workers: Literal["here", "processes"] = "here"
    """Where they are stepped: one after the other in the training process, or each in a process of its own."""
    step_seconds: Positive = 60.0
    """With processes: an environment that takes longer for one step is taken to hang, and the run ends."""

    @property
    def one(self) -> EnvSettings:
        """Settings of a single environment."""
        return EnvSettings(**{name: getattr(self, name) for name in EnvSettings.model_fields})


class AgentSettings(Settings):
    """CURL on SAC. Defaults are those of the published code's examples; see `rl.CURL`."""

    aux: Literal["curl", "none"] = "curl"
    """The contrastive loss, or none: SAC on augmented pixels alone."""
    augmentation: Literal["crop", "shift", "none"] = "crop"
    """crop: squares at random places (CURL); shift: the centre moved by some pixels (DrQ)."""
    image_size: Count | None = None
    """Side of the square that the networks see; null: 0.84 of the frames, as CURL's 84 of 100."""
    shift_pad: Whole = 4
    """Pixels that `shift` moves at most."""
    update: Literal["fused", "faithful"] = "fused"
    """fused: every view is encoded once; faithful: the published code's three optimiser steps."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Numbers in the networks' matrix products; auto: whichever is faster here, with `faithful` always 32."""
    learning_rate: Positive = 1e-3
    """Of actor, critic, encoder and W."""
    batch_size: Count = 128
    """Transitions an update; the contrastive loss finds its negatives among them."""
    buffer_size: Count = 100_000
    """Transitions kept for replay."""
    storage: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the replay's frames are kept; auto: on the GPU if that leaves room for training."""
    learning_starts: Whole = 1000
    """Agent steps of random actions before the first update."""
    train_freq: Count = 1
    """Steps of every environment between updates."""
    gradient_steps: Annotated[int, Field(ge=-1)] = -1
    """Updates then; -1: as many as agent steps were taken."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Discount of an agent step."""
    n_steps: Count = 1
    """Agent steps whose rewards are summed before a return is bootstrapped."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Weight of the new in the moving average of the target's Q networks."""
    encoder_tau: Annotated[float, Field(gt=0, le=1)] = 0.05
    """The same for the target's encoder, which is the key encoder."""
    target_update_interval: Count = 2
    """Updates between moves of the targets."""
    actor_update_interval: Count = 2
    """Updates between steps of the actor."""
    ent_coef: Literal["auto"] | NonNegative = "auto"
    """SAC's entropy coefficient: learned, or a fixed number."""
    initial_ent_coef: Positive = 0.1
    """What a learned one starts from."""
    ent_coef_lr: Positive = 1e-4
    """Learning rate of a learned one."""
    target_entropy: Literal["auto"] | float = "auto"
    """Entropy that a learned one aims at; auto: minus the number of actions."""
    net_arch: Widths = [1024, 1024]
    """Widths of the hidden layers of actor and critics."""
    features_dim: Count = 50
    """Length of the encoder's features."""
    conv_width: Count = 32
    """Channels of each convolution."""
    conv_layers: Count = 4
    """Convolutions, of which the first has stride 2."""
    weights: str | None = None
    """Start the encoder from this run directory or weight file: a pretrained pixel_encoder, or another agent."""


class EvaluationSettings(Settings):
    """Evaluation in an environment of its own, always on the same episodes."""

    every: Whole = 10_000
    """Environment steps between evaluations; 0: only at the end."""
    episodes: Count = 10
    """Episodes whose returns are averaged."""
    seed: Seed = 12_345
    """Of these episodes, and none of training; the same for every run, so that agents are compared on the same ones."""
    envs: Count = 1
    """Environments that play them side by side; another number plays other episodes."""
    clip: Literal["gif", "mp4", "none"] = "gif"
    """Form of the clip of the best episode so far. mp4 is smaller and needs PyAV."""


class ControlRecipe(Settings):
    """Everything that determines the training of an agent."""

    env: TrainingEnvs = TrainingEnvs()
    agent: AgentSettings = AgentSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    steps: Count = 100_000
    """Environment steps of the whole run: agent steps times `env.action_repeat`."""
    seed: Seed = 0
    """Determines initial weights, episodes, actions, replay, crops."""
    seeds: Count = 1
    """Agents to train, with the seeds `seed`, `seed` + 1, ...; with more than one, each has a run directory within."""
    parallel: Count = 1
    """How many of them at a time, each in a process of its own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks are; auto: on a GPU if there is one."""
    threads: Whole = 0
    """CPU threads a process; 0: torch's choice."""
    log_every: Count = 1000
    """Environment steps between lines of losses and returns in the metrics."""
    checkpoint_every: Count = 10_000
    """Environment steps between checkpoints; one is also written at the end and when the run is stopped."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints kept, each with the replay buffer of its moment; frames that did not change are shared."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = [*self._size_problems(), *self._time_problems()]
        if self.agent.aux == "curl" and self.agent.batch_size == 1:
            problems.append("agent.batch_size must be above 1 with aux curl, whose negatives are the rest of the batch")
        if self.seed + self.seeds > _LARGEST_SEED:
            problems.append(f"seed + seeds must not be above {_LARGEST_SEED}")
        if self.evaluation.seed in range(self.seed, self.seed + self.seeds):
            trained = self.seed if self.seeds == 1 else f"{self.seed} to {self.seed + self.seeds - 1}"
            problems.append(
                f"evaluation.seed {self.evaluation.seed} is also a seed of training ({trained}), on whose episodes the "
                "agent learns; take another"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _size_problems(self) -> list[str]:
        size, image = self.env.size, self.agent.image_size
        if size is None or image is None or image < size:
            return []
        if image > size:
            return [f"agent.image_size must not be above env.size ({size}), not {image}"]
        if self.agent.augmentation == "crop":
            return [f"agent.image_size must be below env.size ({size}) to leave room for crops: {crop_side(size)}"]
        return []

    def _time_problems(self) -> list[str]:
        if self.steps % self.env_steps_at_once:
            lower = self.steps // self.env_steps_at_once * self.env_steps_at_once
            return [
                f"steps must be a multiple of {self.env_steps_at_once} (env.n_envs times env.action_repeat), such as "
                f"{lower or self.env_steps_at_once}, not {self.steps}"
            ]
        return []

    @property
    def env_steps_at_once(self) -> int:
        """Environment steps of one step of all environments."""
        return self.env.n_envs * self.env.action_repeat

    @property
    def agent_steps(self) -> int:
        """Agent steps of the whole run, over all environments."""
        return self.steps // self.env.action_repeat

    def for_each_seed(self) -> list["ControlRecipe"]:
        """A recipe for each of the seeds, which trains that one alone."""
        return [self.model_copy(update={"seed": self.seed + i, "seeds": 1, "parallel": 1}) for i in range(self.seeds)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return self.model_dump(mode="json")


def crop_side(frame_side: int) -> int:
    """Side of the square that the networks see of a frame, if nobody says."""
    return round(CROP_SHARE * frame_side)
