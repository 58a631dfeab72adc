import contextlib

import numpy as np
import pytest
import torch
from support.agents import NETWORKS, same_state
from support.control import small_recipe, train
from torch.nn.functional import conv2d

from rl import CURL
from rl.envs import make_env
from rl.training.agents import make_agent, make_envs
from rl.training.encoders import export_encoder, of_a_still, over_frames, start_encoder, unnormalised
from sslcore.backbones import load_backbone
from sslcore.errors import CheckpointError, ConfigError
from sslcore.nn import build_backbone
from sslcore.storage import write_weights

SHAPE = {"width": 4, "layers": 2, "features": 6, "size": 14}
RAMP = torch.linspace(0, 1, 2 * 14 * 14).view(2, 1, 14, 14)


def agent_of(stack=2):
    env = make_env("surnia/PixelReach-v0", stack=stack, options={"size": 16})
    return CURL(env=env, image_size=14, buffer_size=50, policy_kwargs=NETWORKS, seed=0, device="cpu", precision="32")


def pretrained(path, channels=1, mean=0.3, std=0.2, **changes):
    """A file as pretraining exports it, and its network."""
    shape = {**SHAPE, **changes}
    network = build_backbone("pixel_encoder", in_channels=channels, **shape).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    settings = {"name": "pixel_encoder", **{name: shape[name] for name in ("width", "layers", "features")}}
    about = {"backbone": settings, "in_channels": channels, "mean": [mean] * channels, "std": [std] * channels}
    write_weights(path, network.state_dict(), {**about, "size": shape["size"], "prefix": ""})
    return network


# --- the first convolution ---------------------------------------------------------------------------------------


def test_normalisation_goes_into_the_weights():
    weight, bias, x = torch.randn(5, 3, 3, 3), torch.randn(5), torch.rand(2, 3, 8, 8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.1, 0.3)
    normalised = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    found = conv2d(x, *unnormalised(weight, bias, mean, std))
    assert torch.allclose(found, conv2d(normalised, weight, bias), atol=1e-4)


def test_a_stack_of_one_picture_is_that_picture():
    weight, x = torch.randn(5, 2, 3, 3), torch.rand(2, 2, 8, 8)
    spread = over_frames(weight, 3)
    assert torch.allclose(conv2d(x.repeat(1, 3, 1, 1), spread), conv2d(x, weight), atol=1e-5)
    assert torch.allclose(of_a_still(spread, 3), weight)
    moving = torch.randn(5, 6, 3, 3)
    assert torch.allclose(conv2d(x, of_a_still(moving, 3)), conv2d(x.repeat(1, 3, 1, 1), moving), atol=1e-4)


# --- into an agent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [1, 3])
def test_an_agent_sees_a_still_picture_as_pretraining_did(tmp_path, stack):
    network, agent = pretrained(tmp_path / "encoder.safetensors"), agent_of(stack)
    start_encoder(agent, tmp_path / "encoder.safetensors")
    expected = network((RAMP - 0.3) / 0.2)
    for owner in (agent.critic, agent.critic_target):
        assert torch.allclose(owner.encoder(RAMP.repeat(1, stack, 1, 1)), expected, atol=1e-4)


def test_gray_frames_for_an_encoder_of_colour(tmp_path):
    network, agent = pretrained(tmp_path / "encoder.safetensors", channels=3), agent_of(3)
    start_encoder(agent, tmp_path / "encoder.safetensors")
    expected = network((RAMP.expand(-1, 3, -1, -1) - 0.3) / 0.2)
    assert torch.allclose(agent.critic.encoder(RAMP.repeat(1, 3, 1, 1)), expected, atol=1e-4)


def test_an_agents_run_starts_another_agent_exactly(tmp_path):
    recipe = small_recipe(steps=60, evaluation={"every": 0, "episodes": 1, "clip": "none"})
    train(tmp_path / "run", recipe)
    with contextlib.closing(make_envs(recipe.env, 0)) as envs:
        agent = make_agent(recipe.model_copy(update={"seed": 5}), envs)
    loaded = start_encoder(agent, tmp_path / "run")
    assert loaded.stack == 2 and "trained with curl" in loaded.description
    first = CURL.load(tmp_path / "run" / "agent.zip", device="cpu")
    assert same_state(agent.critic.encoder.state_dict(), first.critic.encoder.state_dict())


def test_a_recipe_names_the_weights(tmp_path):
    network = pretrained(tmp_path / "encoder.safetensors")
    said, weights = [], {"agent": {"weights": str(tmp_path / "encoder.safetensors"), "learning_starts": 1000}}
    recipe = small_recipe(steps=8, evaluation={"every": 0, "episodes": 1, "clip": "none"}, **weights)
    outcome = train(tmp_path / "run", recipe, said=said)
    assert any(sentence.startswith("the encoder starts from pixel_encoder of") for sentence in said)
    # Nothing has been learned yet.
    found = outcome.agent.critic.encoder(RAMP.repeat(1, 2, 1, 1))
    assert torch.allclose(found, network((RAMP - 0.3) / 0.2), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 16}, r"made with 16, and agent.image_size is 14; .* views.size 14"),
        ({"width": 8}, r"made with 8, and agent.conv_width is 4"),
        ({"layers": 3}, r"made with 3, and agent.conv_layers is 2"),
        ({"features": 50}, r"made with 50, and agent.features_dim is 6"),
        ({"channels": 2}, r"takes frames of 2 channels, and those of this environment have 1"),
    ],
)
def test_encoders_of_another_shape_are_refused(tmp_path, changes, sentence):
    pretrained(tmp_path / "encoder.safetensors", **changes)
    agent = agent_of()
    before = {name: weight.clone() for name, weight in agent.policy.state_dict().items()}
    with pytest.raises(ConfigError, match=sentence):
        start_encoder(agent, tmp_path / "encoder.safetensors")
    assert same_state(before, dict(agent.policy.state_dict()))


def test_other_networks_and_missing_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no pixel_encoder"):
        start_encoder(agent_of(), "torchvision:resnet18")
    with pytest.raises(CheckpointError, match="there is no"):
        start_encoder(agent_of(), tmp_path / "nowhere")


# --- out of an agent ---------------------------------------------------------------------------------------------


def test_an_exported_encoder_is_a_backbone_for_single_frames(tmp_path):
    agent = agent_of(3)
    export_encoder(agent, tmp_path / "encoder.safetensors")
    loaded = load_backbone(tmp_path / "encoder.safetensors")
    assert (loaded.in_channels, loaded.size, loaded.dim, loaded.stack) == (1, 14, 6, 1)
    frame = np.random.default_rng(0).integers(0, 256, (14, 14), dtype=np.uint8)
    view = loaded.eval_view()(torch.from_numpy(frame)[None, None])
    still = torch.from_numpy(frame).expand(1, 3, 14, 14)
    assert torch.allclose(loaded.backbone(view), agent.critic.encoder(still), atol=1e-4)
    with pytest.raises(ConfigError, match="3 channels cannot be of 2 frames"):
        export_encoder(agent, tmp_path / "other.safetensors", stack=2)


def test_the_encoder_in_an_agents_run_wants_stacks(tmp_path):
    recipe = small_recipe(steps=8, evaluation={"every": 0, "episodes": 1, "clip": "none"})
    train(tmp_path / "run", recipe)
    with pytest.raises(CheckpointError, match="takes stacks of 2 frames, so it cannot be shown images: write"):
        load_backbone(tmp_path / "run").eval_view()
