"""One update of CURL on SAC, as published (`faithful_update`) and with every view encoded once (`fused_update`).

Laskin, Srinivas and Abbeel, "CURL: Contrastive Unsupervised Representations for Reinforcement Learning", ICML 2020;
Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018. What differs between the two:

                        faithful                                    fused
    views encoded       7 times (5 without actor step)              4 times
    encoder             Adam for TD, two more for the contrast      one Adam for the sum of both losses
    query               encoded again after the critic's step       the features that the critic has learned from
    actor's input       encoded again after the critic's step       the same features of the convolutions
    keys                after the targets have moved                before they move

Nothing in here waits for the device: losses stay where they are.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.optim import Adam, Optimizer

from rl.curl.augmenting import Views
from rl.curl.networks import squashed_sample
from rl.curl.policy import CURLPolicy
from rl.curl.precision import autocast
from sslcore.losses import info_nce
from sslcore.ops.numerics import widened

Losses = dict[str, Tensor]


class Batch(NamedTuple):
    """What an update learns from; n transitions.

    Attributes:
        views: of observations and next observations.
        actions: (n, A) in [-1, 1].
        rewards: (n, 1), summed over the steps of an n-step return.
        discounts: (n, 1) weight of the next observation's return: 0 where the episode had ended.
        noise: (2, n, A) standard normal numbers for the actions at the next and at this observation.
    """

    views: Views
    actions: Float[Tensor, "n a"]
    rewards: Float[Tensor, "n 1"]
    discounts: Float[Tensor, "n 1"]
    noise: Float[Tensor, "2 n a"]


@dataclass
class AgentParts:
    """What of an agent an update changes, and how fast.

    Attributes:
        policy: the networks, with the optimisers of actor and critic. For `fused_update` the critic's also moves W.
        log_ent_coef: () or (1,) logarithm of the entropy coefficient.
        ent_coef_optimizer: None for a coefficient that stays as it is.
        target_entropy: what the learned coefficient keeps the policy's entropy at.
        contrast_optimizers: for `faithful_update`, the encoder's, and that of encoder and W.
        tau, encoder_tau: weights of the new in the targets' moving averages.
        bf16: whether the encoder multiplies in bfloat16. Returns, scores and losses are in float32 always.
    """

    policy: CURLPolicy
    log_ent_coef: Tensor
    ent_coef_optimizer: Optimizer | None
    target_entropy: float
    contrast_optimizers: tuple[Optimizer, ...] = field(default=())
    tau: float = 0.01
    encoder_tau: float = 0.05
    bf16: bool = False


def contrast_optimizers(policy: CURLPolicy, rate: float) -> tuple[Adam, Adam]:
    """The published code's: of the encoder, and of encoder and W, which step from one and the same gradient."""
    encoder, similarity = list(policy.critic.encoder.parameters()), list(policy.similarity.parameters())
    return Adam(encoder, lr=rate), Adam([*encoder, *similarity], lr=rate)


def faithful_update(parts: AgentParts, batch: Batch, *, move_actor: bool, move_targets: bool) -> Losses:
    """The published code's update: critic; actor and entropy; targets; contrast, with an optimiser step for each.

    Args:
        parts: what to update.
        batch: what from.
        move_actor: whether it is the turn of actor and entropy coefficient, in CURL every second time.
        move_targets: whether it is the targets' turn, in CURL every second time.

    Returns:
        {name: loss}, tensors without dimensions on the device.
    """
    critic, target, views = parts.policy.critic, parts.policy.critic_target, batch.views
    with torch.no_grad():
        action, log_prob = _act(parts, _convolve(parts, views.next), batch.noise[0])
        wanted = _td_target(parts, batch, _encode(parts, target.encoder, views.next), action, log_prob)
    td = _squared_errors(critic.q(_encode(parts, critic.encoder, views.anchor), batch.actions), wanted)
    _descend(td, critic.optimizer)
    losses = {"critic_loss": td}

    if move_actor:
        with torch.no_grad():
            conv_features = _convolve(parts, views.anchor)
        losses |= _improve_actor(parts, conv_features, batch.noise[1])
    if move_targets:
        _follow(parts)

    if views.positive is not None:
        query = _encode(parts, critic.encoder, views.anchor)
        contrast = _contrast(parts, query, _encode(parts, target.encoder, views.positive))
        _descend(contrast, *parts.contrast_optimizers)
        losses["contrastive_loss"] = contrast
    return losses


def fused_update(parts: AgentParts, batch: Batch, *, move_actor: bool, move_targets: bool) -> Losses:
    """One backward and one Adam step for critic, encoder and W; the actor reads the same features of the convolutions.

    Arguments and result as for `faithful_update`.
    """
    critic, target = parts.policy.critic, parts.policy.critic_target
    anchor, ahead = _as_input(parts, batch.views.anchor), batch.views.next
    positive = [] if batch.views.positive is None else [batch.views.positive]
    with torch.no_grad():
        seen = _as_input(parts, torch.cat([ahead, *positive]))
        of_next, *keys = _encode(parts, target.encoder, seen).split(len(ahead))
        action, log_prob = _act(parts, _convolve(parts, seen[: len(ahead)]), batch.noise[0])
        wanted = _td_target(parts, batch, of_next, action, log_prob)

    conv_features = _convolve(parts, anchor)
    features = _head(parts, critic.encoder, conv_features)
    td = _squared_errors(critic.q(features, batch.actions), wanted)
    losses = {"critic_loss": td}
    for key in keys:
        losses["contrastive_loss"] = _contrast(parts, features, key)
    _descend(torch.stack(list(losses.values())).sum(), critic.optimizer)

    if move_actor:
        losses |= _improve_actor(parts, conv_features.detach(), batch.noise[1])
    if move_targets:
        _follow(parts)
    return losses


# --- the parts ---------------------------------------------------------------------------------------------------


def _td_target(parts: AgentParts, batch: Batch, features: Tensor, action: Tensor, log_prob: Tensor) -> Tensor:
    """(n, 1) r + gamma (min Q'(s', a') - alpha log pi(a' | s'))."""
    q = torch.min(*parts.policy.critic_target.q(features, action))
    return batch.rewards + batch.discounts * (q - parts.log_ent_coef.exp() * log_prob)


def _squared_errors(found: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
    return torch.stack([mse_loss(q, wanted) for q in found]).sum()  # without stable-baselines3's 1/2, as published


def _improve_actor(parts: AgentParts, conv_features: Tensor, noise: Tensor) -> Losses:
    """Step actor and entropy coefficient; `conv_features` carry no gradient, so that the actor moves nothing else."""
    critic, alpha = parts.policy.critic, parts.log_ent_coef.exp()
    action, log_prob = _act(parts, conv_features, noise)
    with torch.no_grad():
        features = _head(parts, critic.encoder, conv_features)
    loss = (alpha.detach() * log_prob - torch.min(*critic.q(features, action))).mean()
    _descend(loss, parts.policy.actor.optimizer)
    losses = {"actor_loss": loss, "ent_coef": alpha}
    if parts.ent_coef_optimizer is not None:
        losses["ent_coef_loss"] = (alpha * (-log_prob - parts.target_entropy).detach()).mean()
        _descend(losses["ent_coef_loss"], parts.ent_coef_optimizer)
    return losses


def _contrast(parts: AgentParts, query: Tensor, key: Tensor) -> Tensor:
    similarity = parts.policy.similarity
    return info_nce(query, key.detach(), temperature=1.0, similarity=similarity, gather=False)


def _follow(parts: AgentParts) -> None:
    """The targets' moving averages; sslcore's momentum is the weight of the old."""
    critic, target = parts.policy.critic, parts.policy.critic_target
    target.encoder.update(critic.encoder, 1 - parts.encoder_tau)  # type: ignore[operator]
    target.q.update(critic.q, 1 - parts.tau)  # type: ignore[operator]


def _descend(loss: Tensor, *optimizers: Optimizer) -> None:
    """A step of each optimiser from one gradient, which is computed for their weights only."""
    weights = [w for optimizer in optimizers for group in optimizer.param_groups for w in group["params"]]
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward(inputs=list(dict.fromkeys(weights)))
    for optimizer in optimizers:
        optimizer.step()


# --- what may run in bfloat16 ------------------------------------------------------------------------------------


def _as_input(parts: AgentParts, frames: Shaped[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Bytes to floats from 0 to 1 in the layout and type that convolutions are fastest in; bytes fit in bfloat16."""
    encoder: Any = parts.policy.critic.encoder
    dtype = torch.bfloat16 if parts.bf16 else encoder.dtype
    return frames.to(dtype, memory_format=torch.channels_last).div_(255)


def _convolve(parts: AgentParts, frames: Tensor) -> Tensor:
    """(n, p) output of the critic's convolutions."""
    encoder: Any = parts.policy.critic.encoder
    with autocast(frames.device, parts.bf16):
        return encoder.conv_features(frames)


def _head(parts: AgentParts, owner: Any, conv_features: Tensor) -> Tensor:
    """(n, d) float32 features that the head of an encoder or of the actor makes of (n, p)."""
    with autocast(conv_features.device, parts.bf16):
        return widened(owner.head(conv_features))


def _encode(parts: AgentParts, encoder: Any, frames: Tensor) -> Tensor:
    """(n, d) float32 features of (n, c, size, size) frames."""
    with autocast(frames.device, parts.bf16):
        return widened(encoder(frames))


def _act(parts: AgentParts, conv_features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(n, A) actions of the current policy and their (n, 1) log densities."""
    actor = parts.policy.actor
    return squashed_sample(*actor.distribution(_head(parts, actor, conv_features)), noise)
