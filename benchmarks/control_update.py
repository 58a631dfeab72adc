"""What one update of CURL costs, beside the published code's structure.

    python benchmarks/control_update.py                       # 84 x 84 x 9, batch 128, MLP 1024; some minutes
    python benchmarks/control_update.py --threads 1 --json result.json
    python benchmarks/control_update.py --device cuda --rounds 30

All forms do the work of the same two updates (one with actor and targets, one without) on the same transitions, from
whole 100 x 100 observations on: crops included, replay not. They alternate within one process. The original's form is
written from what it computes: float32, every network encodes for itself (seven times in an update with the actor's
step), three optimiser steps for the encoder. It shares the layers' shapes with ours and nothing else.
"""

import argparse
import json
from collections.abc import Callable

import torch
from alternate import Forms, hardware, measure, table
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from rl import CURL
from rl.curl.networks import PixelActor, TwinQ
from rl.curl.precision import bf16_is_faster
from sslcore.nn import PixelEncoder

FRAMES, CROP, CHANNELS, ACTIONS = 100, 84, 9, 6


class Original:
    """The published update; `step` counts as there, so that every second one is longer."""

    def __init__(self, device: torch.device, width: int) -> None:
        self.encoder, self.q = PixelEncoder(CHANNELS).to(device), TwinQ(50, [width, width], ACTIONS).to(device)
        self.target, self.q_target = PixelEncoder(CHANNELS).to(device), TwinQ(50, [width, width], ACTIONS).to(device)
        self.actor = PixelActor(32 * 35 * 35, 50, [width, width], ACTIONS).to(device)
        self.w = torch.rand(50, 50, device=device, requires_grad=True)
        self.log_alpha = torch.tensor(-2.3, device=device, requires_grad=True)
        self.critic_optimizer = Adam([*self.encoder.parameters(), *self.q.parameters()], lr=1e-3)
        self.actor_optimizer = Adam(self.actor.parameters(), lr=1e-3)
        self.alpha_optimizer = Adam([self.log_alpha], lr=1e-4, betas=(0.5, 0.999))
        self.encoder_optimizer = Adam(self.encoder.parameters(), lr=1e-3)
        self.cpc_optimizer = Adam([*self.encoder.parameters(), self.w], lr=1e-3)
        self.step = 0

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(self.encoder.conv_features(obs / 255).detach())
        noise = torch.randn_like(mean)
        log_pi = (-0.5 * noise.pow(2) - log_std).sum(-1, keepdim=True) - 0.9189385 * ACTIONS
        pi = torch.tanh(mean + noise * log_std.exp())
        return pi, log_pi - torch.log(F.relu(1 - pi.pow(2)) + 1e-6).sum(-1, keepdim=True)

    def update(self, sample: ReplayBufferSamples) -> None:
        obs, next_obs, positive = (
            crop(x).float() for x in (sample.observations, sample.next_observations, sample.observations)
        )
        with torch.no_grad():
            action, log_pi = self.act(next_obs)
            q1, q2 = self.q_target(self.target(next_obs / 255), action)
            value = torch.min(q1, q2) - self.log_alpha.exp() * log_pi
            wanted = sample.rewards + (1 - sample.dones) * 0.99 * value
        q1, q2 = self.q(self.encoder(obs / 255), sample.actions)
        descend(F.mse_loss(q1, wanted) + F.mse_loss(q2, wanted), self.critic_optimizer)
        if self.step % 2 == 0:
            action, log_pi = self.act(obs)
            q1, q2 = self.q(self.encoder(obs / 255, detach=True), action)
            descend((self.log_alpha.exp().detach() * log_pi - torch.min(q1, q2)).mean(), self.actor_optimizer)
            descend((self.log_alpha.exp() * (-log_pi + ACTIONS).detach()).mean(), self.alpha_optimizer)
            follow(self.q_target, self.q, 0.01)
            follow(self.target, self.encoder, 0.05)
        with torch.no_grad():
            key = self.target(positive / 255)
        logits = self.encoder(obs / 255) @ (self.w @ key.T)
        logits = logits - logits.max(1)[0][:, None]
        labels = torch.arange(len(logits), device=logits.device)
        descend(F.cross_entropy(logits, labels), self.encoder_optimizer, self.cpc_optimizer)
        self.step += 1


def crop(frames: Tensor) -> Tensor:
    tops, lefts = torch.randint(0, FRAMES - CROP, (2, len(frames))).tolist()
    cut = [x[:, top : top + CROP, left : left + CROP] for x, top, left in zip(frames, tops, lefts, strict=True)]
    return torch.stack(cut)


def descend(loss: Tensor, *optimizers: Adam) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


@torch.no_grad()
def follow(target: torch.nn.Module, source: torch.nn.Module, tau: float) -> None:
    for old, new in zip(target.parameters(), source.parameters(), strict=True):
        old.data.copy_(tau * new.data + (1 - tau) * old.data)


# --- ours --------------------------------------------------------------------------------------------------------


class Always:
    """A replay buffer that has one batch."""

    def __init__(self, sample: ReplayBufferSamples) -> None:
        self.batch = sample

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        return self.batch


def ours(sample: ReplayBufferSamples, device: torch.device, width: int, **settings: str) -> Callable[[], None]:
    """Two updates of an agent of ours."""
    agent = CURL(device=device, policy_kwargs={"net_arch": [width, width]}, _init_setup_model=False, **settings)
    agent.observation_space = spaces.Box(0, 255, (CHANNELS, FRAMES, FRAMES), "uint8")
    agent.action_space, agent.n_envs = spaces.Box(-1, 1, (ACTIONS,)), 1
    agent._setup_model()
    agent.set_logger(configure(None, []))
    agent.replay_buffer = Always(sample)  # type: ignore[assignment]
    return lambda: agent.train(2, len(sample.rewards))


def forms_of(sample: ReplayBufferSamples, device: torch.device, width: int, bf16: bool) -> Forms:
    """The first is what the others are divided by."""
    original = Original(device, width)

    def published() -> None:
        original.update(sample)
        original.update(sample)

    forms = {
        "fused, float32": ours(sample, device, width, update="fused", precision="32"),
        "faithful, float32": ours(sample, device, width, update="faithful", precision="32"),
        "original's structure, float32": published,
    }
    if bf16:
        forms["fused, bfloat16"] = ours(sample, device, width, update="fused", precision="bf16")
    return forms


def transitions(n: int, device: torch.device) -> ReplayBufferSamples:
    frames = torch.randint(0, 256, (2, n, CHANNELS, FRAMES, FRAMES), dtype=torch.uint8, device=device)
    numbers = torch.rand(n, ACTIONS + 1, device=device)
    ends = torch.zeros(n, 1, device=device)
    return ReplayBufferSamples(frames[0], numbers[:, 1:] * 2 - 1, frames[1], ends, numbers[:, :1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=1024, help="of the hidden layers of actor and Q networks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=240, help="stop after this long, but not before three rounds")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", choices=["auto", "yes", "no"], default="auto", help="auto: if the probe is for it")
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    bf16 = bf16_is_faster(device) if options.bf16 == "auto" else options.bf16 == "yes"
    print(f"{hardware(device)}; bfloat16 {'is' if bf16_is_faster(device) else 'is not'} faster here\n")
    forms = forms_of(transitions(options.batch, device), device, options.width, bf16)
    rows = measure(forms, rounds=options.rounds, device=device, items=2, seconds=options.seconds)
    title = f"Two updates, {CROP} x {CROP} x {CHANNELS}, batch {options.batch}, MLP {options.width}"
    print(table(title, rows))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"hardware": hardware(device), "title": title, "results": rows}, file, indent=2)


if __name__ == "__main__":
    main()
