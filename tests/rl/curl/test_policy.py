import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from support.agents import ACTIONS, PIXELS, tiny_policy
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rl import CURLPolicy
from rl.curl.networks import PixelActor, squashed_sample
from sslcore.errors import CheckpointError, ConfigError


def observations(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *PIXELS.shape), dtype=np.uint8)


def test_squashed_sample_has_the_density_of_the_squashed_gaussian():
    mean, log_std, noise = torch.rand(3, 5, 2, dtype=torch.float64) - 0.5
    action, log_prob = squashed_sample(mean, log_std, noise)
    pre = mean + log_std.exp() * noise
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    torch.testing.assert_close(action, pre.tanh())
    expected = squashed.log_prob(pre.tanh()).sum(1, keepdim=True)
    torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-4)  # but for the 1e-6 in the published code


def test_squashed_sample_stays_finite_where_actions_saturate():
    mean = torch.full((1, 1), 50.0, requires_grad=True)
    action, log_prob = squashed_sample(mean, torch.zeros(1, 1), torch.zeros(1, 1))
    log_prob.sum().backward()
    assert action.item() == 1 and log_prob.isfinite() and mean.grad.isfinite()


def test_standard_deviations_reach_from_minus_10_to_2_in_the_logarithm():
    actor = PixelActor(3, 4, [], 1)
    for raw, expected in ((-100.0, -10.0), (0.0, -4.0), (100.0, 2.0)):
        actor.net[0].weight.data.zero_()
        actor.net[0].bias.data[:] = torch.tensor([0.0, raw])
        assert actor(torch.randn(2, 3))[1].flatten().tolist() == pytest.approx([expected] * 2)


def test_predict_sees_the_centre_only():
    policy, seen = tiny_policy(), observations(3)
    edges = seen.copy()
    edges[:, :, 0], edges[:, :, :, -1] = 255 - seen[:, :, 0], 0
    actions, _ = policy.predict(seen, deterministic=True)
    assert np.array_equal(actions, policy.predict(edges, deterministic=True)[0])
    edges[:, :, 8, 8] ^= 255
    assert not np.array_equal(actions, policy.predict(edges, deterministic=True)[0])


def test_predict_takes_one_observation_and_stays_in_the_action_space():
    policy = CURLPolicy(PIXELS, spaces.Box(2, 6, (2,), np.float32), lambda _: 1e-3, image_size=14, conv_layers=2)
    one, _ = policy.predict(observations(1)[0], deterministic=True)
    several = np.concatenate([policy.predict(observations(4, seed))[0] for seed in range(20)])
    assert one.shape == (2,) and several.min() >= 2 and several.max() <= 6 and several.std() > 0.1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (lambda seen: seen.astype(np.float32) / 255, "an array of float32"),
        (lambda seen: seen * np.nan, "an array of float64"),
        (lambda seen: seen.astype(int), "an array of int64"),
        (torch.from_numpy, "a Tensor"),
        (lambda seen: {"pixels": seen}, "a dict"),
        (np.ndarray.tolist, "a list"),
    ],
)
def test_predict_takes_bytes_alone(given, named):
    """Floats would be taken as they are, 255 times as large or small as what the encoder has learned from."""
    with pytest.raises(ValueError, match=f"was given {named}, and sees arrays of uint8 from 0 to 255"):
        tiny_policy().predict(given(observations(2)))


def test_predict_refuses_other_shapes():
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        tiny_policy().predict(observations(2)[:, :, :10])


def test_drawn_actions_follow_from_the_seed_and_not_from_global_generators():
    policy, seen = tiny_policy(), observations(2)
    policy.seed_noise(3)
    first = policy.predict(seen)[0]
    assert not np.array_equal(first, policy.predict(seen)[0])
    torch.manual_seed(99)
    policy.seed_noise(3)
    assert np.array_equal(first, policy.predict(seen)[0])


def test_the_target_starts_as_the_critic_and_its_encoder_is_the_only_other_one():
    policy = tiny_policy()
    frames, actions = torch.as_tensor(observations(2)), torch.zeros(2, 2)
    for q, target in zip(policy.critic(frames, actions), policy.critic_target(frames, actions), strict=True):
        assert q.shape == (2, 1) and torch.equal(q, target) and q.requires_grad and not target.requires_grad
    convolutions = [m for m in policy.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 4  # two layers, critic and target: the actor has none of its own


def test_a_deep_copy_acts_alike():
    policy, seen = tiny_policy(), observations(2)
    assert np.array_equal(copy.deepcopy(policy).predict(seen)[0], policy.predict(seen)[0])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("share_features_extractor", "serves the actor, without gradient"),
        ("features_extractor_class", "conv_width and conv_layers"),
        ("use_sde", "noise anew"),
        ("feature_dim", "did you mean 'features_dim'"),
    ],
)
def test_arguments_of_other_policies_are_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=reason):
        tiny_policy(**{name: True})


@pytest.mark.parametrize(
    ("space", "actions", "sentence"),
    [
        (spaces.Box(0, 1, (2, 16, 16), np.float32), ACTIONS, "uint8 images"),
        (spaces.Box(0, 255, (16, 16), np.uint8), ACTIONS, "PixelStack"),
        (spaces.Dict(a=PIXELS), ACTIONS, "uint8 images"),
        (spaces.Box(0, 255, (2, 13, 16), np.uint8), ACTIONS, "larger than the frames, 13 x 16"),
        (PIXELS, spaces.Discrete(3), "continuous"),
    ],
)
def test_spaces_that_do_not_suit_are_refused_with_a_sentence(space, actions, sentence):
    with pytest.raises(ConfigError, match=sentence):
        CURLPolicy(space, actions, lambda _: 1e-3, image_size=14)


def test_frames_too_small_for_the_convolutions_are_refused():
    with pytest.raises(ConfigError, match="too small for 9 convolutions"):
        tiny_policy(conv_layers=9)


def test_save_and_load_the_policy_alone(tmp_path):
    policy = tiny_policy(net_arch={"pi": [4], "qf": [5, 6]})
    policy.save(tmp_path / "policy")
    again, seen = CURLPolicy.load(tmp_path / "policy", device="cpu"), observations(2)
    assert np.array_equal(policy.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0])
    assert again.net_arch == {"pi": [4], "qf": [5, 6]} and again.observation_space == PIXELS
    (tmp_path / "policy").write_bytes((tmp_path / "policy").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="damaged"):
        CURLPolicy.load(tmp_path / "policy")
