import pytest
import torch
from support.agents import tiny_policy
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode

from rl.curl.augmenting import Views
from rl.curl.update import AgentParts, Batch, faithful_update, fused_update

RATE, ALPHA_RATE, TAU, ENCODER_TAU, TARGET_ENTROPY, N = 1e-3, 1e-4, 0.01, 0.05, -2.0, 6


def make_batch(seed, *, contrast=True):
    made = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (3, N, 2, 14, 14), dtype=torch.uint8, generator=made)
    numbers = torch.randn(N, 8, generator=made, dtype=torch.float64)
    discounts = 0.99 * (numbers[:, 3:4] < 1)
    views = Views(frames[0], frames[1], frames[2] if contrast else None)
    noise = numbers[:, 4:].reshape(N, 2, 2).transpose(0, 1)
    return Batch(views, numbers[:, :2].tanh(), numbers[:, 2:3], discounts, noise)


def make_agent(update, *, aux=True, learned=True):
    """In double precision: Adam's first steps have the gradients' signs, also of those that are all but zero."""
    policy = tiny_policy()
    for parameter in policy.parameters():  # offsets start at 0 and layer norms at 1, where mistakes do not show
        parameter.data += 0.1 * torch.randn_like(parameter)
    policy = policy.double()
    log_alpha = torch.full((1,), 0.1).double().log().requires_grad_(learned)
    encoder, similarity = list(policy.critic.encoder.parameters()), list(policy.similarity.parameters())
    contrast = ()
    if aux and update is fused_update:
        policy.critic.optimizer.add_param_group({"params": similarity})
    elif aux:
        contrast = Adam(encoder, lr=RATE), Adam([*encoder, *similarity], lr=RATE)
    optimizer = Adam([log_alpha], lr=ALPHA_RATE, betas=(0.5, 0.999)) if learned else None
    return AgentParts(policy, log_alpha, optimizer, TARGET_ENTROPY, contrast, TAU, ENCODER_TAU)


class Original:
    """The published code's arithmetic on a dictionary of weights, one term at a time."""

    def __init__(self, agent):
        self.w = {k: v.clone().requires_grad_() for k, v in agent.policy.state_dict().items()}
        self.log_alpha = agent.log_ent_coef.detach().clone().requires_grad_()
        of_encoder = self.named("critic.encoder.")
        self.critic_optimizer = Adam(self.named("critic."), lr=RATE)
        self.actor_optimizer = Adam(self.named("actor."), lr=RATE)
        self.alpha_optimizer = Adam([self.log_alpha], lr=ALPHA_RATE, betas=(0.5, 0.999))
        self.encoder_optimizer = Adam(of_encoder, lr=RATE)
        self.cpc_optimizer = Adam([*of_encoder, self.w["similarity.weight"]], lr=RATE)

    def named(self, prefix):
        return [v for k, v in self.w.items() if k.startswith(prefix)]

    def convs(self, prefix, x):
        x = x.double() / 255
        for i in (0, 2):
            weight, bias = self.w[f"{prefix}.convs.{i}.weight"], self.w[f"{prefix}.convs.{i}.bias"]
            x = torch.relu(F.conv2d(x, weight, bias, stride=2 if i == 0 else 1))
        return x.reshape(len(x), -1)

    def head(self, prefix, h):
        h = h @ self.w[f"{prefix}.head.0.weight"].T + self.w[f"{prefix}.head.0.bias"]
        h = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return h * self.w[f"{prefix}.head.1.weight"] + self.w[f"{prefix}.head.1.bias"]

    def encode(self, prefix, x, detach=False):
        h = self.convs(prefix, x)
        return self.head(prefix, h.detach() if detach else h)

    def trunk(self, prefix, h):
        for i in (0, 2, 4):
            h = h @ self.w[f"{prefix}.{i}.weight"].T + self.w[f"{prefix}.{i}.bias"]
            h = torch.relu(h) if i < 4 else h
        return h

    def q(self, prefix, z, action):
        return [self.trunk(f"{prefix}.networks.{i}", torch.cat([z, action], 1)) for i in (0, 1)]

    def act(self, conv_features, noise):
        mu, log_std = self.trunk("actor.net", self.head("actor", conv_features)).chunk(2, -1)
        log_std = -10 + 0.5 * (2 - -10) * (torch.tanh(log_std) + 1)
        pi = mu + noise * log_std.exp()
        log_pi = (-0.5 * noise**2 - log_std).sum(-1, keepdim=True) - 0.5 * torch.log(torch.tensor(2 * torch.pi)) * 2
        pi = torch.tanh(pi)
        return pi, log_pi - torch.log(F.relu(1 - pi**2) + 1e-6).sum(-1, keepdim=True)

    def td(self, z, batch):
        with torch.no_grad():
            action, log_pi = self.act(self.convs("critic.encoder", batch.views.next), batch.noise[0])
            z_next = self.encode("critic_target.encoder.module", batch.views.next)
            q1, q2 = self.q("critic_target.q.module", z_next, action)
            wanted = batch.rewards + batch.discounts * (torch.min(q1, q2) - self.log_alpha.exp() * log_pi)
        q1, q2 = self.q("critic.q", z, batch.actions)
        return ((q1 - wanted) ** 2).mean() + ((q2 - wanted) ** 2).mean()

    def contrast(self, z_anchor, z_positive):
        logits = z_anchor @ (self.w["similarity.weight"] @ z_positive.T)
        logits = logits - logits.max(1)[0][:, None]
        return F.cross_entropy(logits, torch.arange(len(logits)))

    def step(self, loss, *optimizers):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    def actor_and_alpha(self, conv_features, batch):
        pi, log_pi = self.act(conv_features, batch.noise[1])
        q1, q2 = self.q("critic.q", self.head("critic.encoder", conv_features), pi)
        self.step((self.log_alpha.exp().detach() * log_pi - torch.min(q1, q2)).mean(), self.actor_optimizer)
        alpha_loss = (self.log_alpha.exp() * (-log_pi - TARGET_ENTROPY).detach()).mean()
        self.step(alpha_loss, self.alpha_optimizer)

    @torch.no_grad()
    def soft_update(self):
        for k, v in self.w.items():
            if k.startswith("critic_target."):
                tau = ENCODER_TAU if ".encoder." in k else TAU
                source = self.w[k.replace("critic_target.", "critic.").replace(".module.", ".")]
                v.copy_(tau * source + (1 - tau) * v)

    def update(self, batch, number):
        self.step(self.td(self.encode("critic.encoder", batch.views.anchor), batch), self.critic_optimizer)
        if number % 2 == 0:
            self.actor_and_alpha(self.convs("critic.encoder", batch.views.anchor).detach(), batch)
            self.soft_update()
        with torch.no_grad():
            z_positive = self.encode("critic_target.encoder.module", batch.views.positive)
        z_anchor = self.encode("critic.encoder", batch.views.anchor)
        self.step(self.contrast(z_anchor, z_positive), self.encoder_optimizer, self.cpc_optimizer)

    def fused(self, batch, number):
        """What the fused update is to be: the same losses, one gradient, one step; the actor on stale features."""
        h = self.convs("critic.encoder", batch.views.anchor)
        z = self.head("critic.encoder", h)
        with torch.no_grad():
            z_positive = self.encode("critic_target.encoder.module", batch.views.positive)
        self.critic_optimizer.zero_grad()
        self.w["similarity.weight"].grad = None
        (self.td(z, batch) + self.contrast(z, z_positive)).backward()
        self.critic_optimizer.step()
        self.w_optimizer.step()
        if number % 2 == 0:
            self.actor_and_alpha(h.detach(), batch)
            self.soft_update()


def assert_same_weights(agent, original):
    for name, value in agent.policy.state_dict().items():
        torch.testing.assert_close(value, original.w[name].detach(), rtol=1e-8, atol=1e-10, msg=lambda m, n=name: n + m)
    torch.testing.assert_close(agent.log_ent_coef, original.log_alpha)


def test_faithful_equals_the_original_over_several_updates():
    agent = make_agent(faithful_update)
    original = Original(agent)
    for number in range(5):
        even = number % 2 == 0
        faithful_update(agent, make_batch(number), move_actor=even, move_targets=even)
        original.update(make_batch(number), number)
    assert_same_weights(agent, original)


def test_fused_is_one_step_on_the_sum_of_the_original_losses():
    agent = make_agent(fused_update)
    original = Original(agent)
    original.w_optimizer = Adam([original.w["similarity.weight"]], lr=RATE)
    for number in range(5):
        even = number % 2 == 0
        fused_update(agent, make_batch(number), move_actor=even, move_targets=even)
        original.fused(make_batch(number), number)
    assert_same_weights(agent, original)


@pytest.mark.parametrize("update", [faithful_update, fused_update])
def test_losses_are_those_of_the_original_and_agree_between_the_two(update):
    agent = make_agent(update)
    original, batch = Original(agent), make_batch(0)
    losses = update(agent, batch, move_actor=True, move_targets=False)
    td = original.td(original.encode("critic.encoder", batch.views.anchor), batch)
    torch.testing.assert_close(losses["critic_loss"].detach(), td.detach())
    assert set(losses) == {"critic_loss", "actor_loss", "ent_coef", "ent_coef_loss", "contrastive_loss"}
    assert losses["ent_coef"].item() == pytest.approx(0.1)


@pytest.mark.parametrize("update", [faithful_update, fused_update])
def test_the_actor_moves_nothing_of_the_critic(update):
    """Two agents that differ in whether the actor had its turn have the same critics."""
    with_actor, without = make_agent(update, aux=False), make_agent(update, aux=False)
    without.policy.load_state_dict(with_actor.policy.state_dict())
    before = {k: v.clone() for k, v in with_actor.policy.actor.state_dict().items()}
    for agent, moves in ((with_actor, True), (without, False)):
        update(agent, make_batch(0, contrast=False), move_actor=moves, move_targets=False)
    for ours, theirs in zip(with_actor.policy.critic.parameters(), without.policy.critic.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for name, value in with_actor.policy.actor.state_dict().items():
        assert not torch.equal(value, before[name]), name
        assert torch.equal(without.policy.actor.state_dict()[name], before[name])


@pytest.mark.parametrize("update", [faithful_update, fused_update])
def test_without_contrast_the_similarity_stays_and_without_learning_the_entropy_does(update):
    agent = make_agent(update, aux=False, learned=False)
    before = agent.policy.similarity.weight.clone()
    losses = update(agent, make_batch(0, contrast=False), move_actor=True, move_targets=True)
    assert set(losses) == {"critic_loss", "actor_loss", "ent_coef"}
    assert torch.equal(agent.policy.similarity.weight, before) and agent.log_ent_coef.exp().item() == pytest.approx(0.1)


@pytest.mark.parametrize("update", [faithful_update, fused_update])
def test_targets_move_only_when_it_is_their_turn_and_take_no_gradient(update):
    agent = make_agent(update)
    target = agent.policy.critic_target
    before = {k: v.clone() for k, v in target.state_dict().items()}
    update(agent, make_batch(0), move_actor=False, move_targets=False)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    update(agent, make_batch(1), move_actor=False, move_targets=True)
    assert not any(torch.equal(v, before[k]) for k, v in target.state_dict().items())
    assert all(p.grad is None for p in target.parameters())


@pytest.mark.parametrize("update", [faithful_update, fused_update])
def test_bfloat16_changes_the_losses_by_little_and_no_weight_type(update):
    losses = {}
    for bf16 in (False, True):
        torch.manual_seed(0)
        agent = make_agent(update)
        agent.policy.float()
        agent.log_ent_coef = agent.log_ent_coef.detach().float()
        agent.ent_coef_optimizer, agent.bf16 = None, bf16
        batch = make_batch(0)
        batch = Batch(batch.views, *(x.float() for x in batch[1:]))
        losses[bf16] = update(agent, batch, move_actor=True, move_targets=True)
        assert {p.dtype for p in agent.policy.parameters()} == {torch.float32}
    for name, loss in losses[True].items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, losses[False][name], rtol=0.1, atol=0.05, msg=lambda m, n=name: n + m)
        assert name in ("ent_coef",) or not torch.equal(loss, losses[False][name]), f"{name} was not in bfloat16"


class NoReadBack(TorchDispatchMode):
    """Refuses to bring a value to the host, but for Adam's step counters, which are kept there."""

    def __init__(self, agent):
        super().__init__()
        policy = agent.policy
        self.optimizers = policy.actor.optimizer, policy.critic.optimizer, agent.ent_coef_optimizer
        self.optimizers += agent.contrast_optimizers

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            counters = {s["step"].data_ptr() for o in self.optimizers for s in o.state.values()}
            assert args[0].data_ptr() in counters, "a value was read back inside of an update"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("update", [faithful_update, fused_update])
def test_no_value_is_read_back_inside_of_an_update(update):
    agent, batch = make_agent(update), make_batch(0)
    with NoReadBack(agent):
        update(agent, batch, move_actor=True, move_targets=True)
    with pytest.raises(AssertionError, match="read back"), NoReadBack(agent):
        batch.rewards.sum().item()
