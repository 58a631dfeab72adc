import io
import json
import warnings
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from support.agents import FixedReplay, same_state, tiny_agent, tiny_env, tiny_envs, without_output

from rl import CURL, CURLPolicy, archive
from rl.described import describe, restore
from sslcore.errors import CheckpointError, ConfigError


def through_json(value):
    return restore(json.loads(json.dumps(describe(value), allow_nan=False)))


def everything(agent):
    """All that training changes."""
    return agent.get_parameters(), agent.state()["variables"], agent.state()["counts"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An archive of an agent that has learned a little; its tests do not change it."""
    path = tmp_path_factory.mktemp("archive") / "agent.zip"
    tiny_agent().learn(26).save(path)
    return path


# --- the same agent again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"update": "faithful"}, {"aux": "none", "ent_coef": 0.2}, {"seed": None}])
def test_save_load_and_continue_gives_the_same_actions_and_the_same_updates(settings, tmp_path):
    agent = without_output(tiny_agent(**settings)).learn(30)
    agent.save(tmp_path / "agent")
    torch.manual_seed(7), np.random.seed(7)  # nothing may hang on global generators
    again = without_output(CURL.load(tmp_path / "agent", env=tiny_env(), device="cpu"))
    assert same_state(everything(again), everything(agent))

    seen = np.random.default_rng(0).integers(0, 256, (5, *agent.observation_space.shape), dtype=np.uint8)
    for deterministic in (True, False, False):
        ours, theirs = (a.predict(seen, deterministic=deterministic)[0] for a in (agent, again))
        assert np.array_equal(ours, theirs)
    assert np.array_equal(agent.action_space.sample(), again.action_space.sample())

    for each in (agent, again):
        each.replay_buffer = FixedReplay()
        each.train(3, 8)
    assert same_state(everything(again), everything(agent))


@pytest.mark.parametrize("kind", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_noise_of_actions_goes_on_and_leaves_the_global_generator_alone(tmp_path, kind, n_envs):
    noise = kind(np.zeros(2), np.full(2, 0.3))
    before = repr(np.random.get_state())
    agent = tiny_agent(tiny_envs(n_envs), action_noise=noise, seed=3)
    seeded = repr(np.random.get_state())  # stable-baselines3 seeds it
    agent.learn(30)
    assert repr(np.random.get_state()) == seeded != before
    agent.save(tmp_path / "agent")
    np.random.seed(7)
    again = CURL.load(tmp_path / "agent", env=tiny_envs(n_envs), device="cpu", force_reset=False)
    for _ in range(3):
        ours, theirs = (a._sample_action(0, a.action_noise, n_envs)[0] for a in (agent, again))
        assert np.array_equal(ours, theirs)
        np.random.seed(8)
    other = CURL.load(tmp_path / "agent", env=tiny_envs(n_envs), device="cpu", force_reset=False, seed=5)
    assert not np.array_equal(ours, other._sample_action(0, other.action_noise, n_envs)[0])


def test_learning_goes_on_in_the_environment_where_it_was(tmp_path):
    agent = tiny_agent().learn(30)
    agent.save(tmp_path / "agent.zip")
    agent.save_replay_buffer(tmp_path / "buffer")
    again = CURL.load(tmp_path / "agent.zip", env=tiny_env(), device="cpu", force_reset=False)
    assert np.array_equal(again._last_obs, agent._last_obs)
    again.load_replay_buffer(tmp_path / "buffer")
    again.set_env(tiny_env())
    assert again._last_obs is None
    again.learn(10, reset_num_timesteps=False)
    assert (again.num_timesteps, again._n_updates, again.replay_buffer.size()) == (40, 20, 40)


def test_an_agent_without_environment_acts_and_has_no_buffer_until_it_learns(saved):
    agent = CURL.load(saved, device="cpu")
    assert agent.replay_buffer is None and agent.predict(tiny_env().reset()[0])[0].shape == (2,)
    with pytest.raises(ConfigError, match="environment to learn in"):
        agent.learn(1)
    agent.set_env(tiny_env())
    assert agent.learn(5).replay_buffer.size() == 5


def test_another_number_of_environments_and_other_settings_on_load(saved):
    agent = CURL.load(saved, env=tiny_envs(3), device="cpu", learning_rate=5e-4, gamma=0.5, custom_objects={"tau": 0.5})
    agent.learn(30)
    assert (agent.n_envs, agent.gamma, agent.tau, agent.replay_buffer.n_envs) == (3, 0.5, 0.5, 3)
    assert agent.actor.optimizer.param_groups[0]["lr"] == 5e-4


def test_the_probe_is_not_asked_again(monkeypatch, tmp_path):
    from rl.curl import curl

    monkeypatch.setattr(curl, "bf16_is_faster", lambda device: True)
    tiny_agent(precision="auto").save(tmp_path / "agent")
    monkeypatch.setattr(curl, "bf16_is_faster", lambda device: False)
    assert CURL.load(tmp_path / "agent", device="cpu").bf16
    assert not CURL.load(tmp_path / "agent", device="cpu", precision="32").bf16


def test_open_files_and_the_same_bytes_for_the_same_agent(tmp_path):
    agent, file = tiny_agent(), io.BytesIO()
    agent.save(file)
    agent.save(str(tmp_path / "new" / "folder" / "agent"))
    assert (tmp_path / "new" / "folder" / "agent.zip").read_bytes() == file.getvalue()
    assert same_state(CURL.load(file, device="cpu").get_parameters(), agent.get_parameters())


def test_set_parameters_from_an_archive(saved):
    agent = tiny_agent(seed=5)
    agent.set_parameters(saved)
    assert same_state(agent.get_parameters(), CURL.load(saved, device="cpu").get_parameters())


def test_the_policy_of_an_agents_archive_can_be_loaded_alone(saved):
    seen, _ = tiny_env().reset(seed=0)
    alone, whole = CURLPolicy.load(saved, device="cpu"), CURL.load(saved, device="cpu")
    assert np.array_equal(alone.predict(seen, deterministic=True)[0], whole.predict(seen, deterministic=True)[0])


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_truncated_archive_is_refused_wherever_it_ends(saved, tmp_path):
    data = saved.read_bytes()
    for length in [0, 1, 100, *range(1000, len(data), len(data) // 15), len(data) - 1]:
        (tmp_path / "agent.zip").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"agent\.zip"):
            CURL.load(tmp_path / "agent.zip", device="cpu")


def test_a_changed_byte_in_the_content_is_noticed(saved, tmp_path):
    data = saved.read_bytes()
    for place in range(60, len(data) - 400, len(data) // 25):
        changed = bytearray(data)
        changed[place] ^= 0x10
        (tmp_path / "agent.zip").write_bytes(changed)
        with pytest.raises(CheckpointError):
            CURL.load(tmp_path / "agent.zip", device="cpu")


def rewritten(saved, path, change=lambda about: None, **options):
    """The archive with its JSON changed."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", **options) as new:
        about = json.loads(old.read("agent.json"))
        change(about)
        new.writestr("agent.json", json.dumps(about))
        new.writestr("tensors.safetensors", old.read("tensors.safetensors"))
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda a: a.update(format="other"), "not an archive"),
        (lambda a: a.update(schema=99), "another version"),
        (lambda a: a.pop("state"), "not an archive"),
        (lambda a: a["about"].pop("observation_space"), "agent that can be made"),
        (lambda a: a["about"]["settings"].update(gamma={"module": "os"}), "does not know"),
        (lambda a: a["about"]["settings"].update(surprise=1), "settings that this version lacks"),
        (lambda a: a["about"]["settings"].update(batch_size="many"), "agent that can be made"),
        (lambda a: a["about"]["settings"].update(image_size=10**6), "larger than the frames"),
        (
            lambda a: a["about"]["settings"]["policy_kwargs"]["dict"].update(conv_width=5),
            r"conv.*of shape \[4, 2, 3, 3\]",
        ),
        (lambda a: a["about"]["settings"].update(update="faithful"), "cpc_optimizer"),
        (lambda a: a["about"].update({"policy class": "Mine"}), "policy_class="),
        (lambda a: a["state"]["dict"].pop("acting"), "agent that can be made"),
    ],
)
def test_a_foreign_or_differently_shaped_archive_is_refused_with_a_sentence(saved, tmp_path, change, sentence):
    path = rewritten(saved, tmp_path / "agent.zip", change)
    with pytest.raises(CheckpointError, match=sentence):
        CURL.load(path, device="cpu")


def test_moments_of_other_shapes_are_refused_though_torch_takes_them(saved):
    agent = CURL.load(saved, device="cpu")
    state = archive.read(saved).state["optimizers"]["actor.optimizer"]
    archive.check_optimizer(saved, "actor.optimizer", agent.actor.optimizer, state)
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg"][:1]
    with pytest.raises(CheckpointError, match="belongs to other weights"):
        archive.check_optimizer(saved, "actor.optimizer", agent.actor.optimizer, state)


def test_a_failed_set_parameters_changes_nothing(saved):
    agent = tiny_agent(policy_kwargs={"net_arch": [8, 9], "features_dim": 6, "conv_width": 4, "conv_layers": 2})
    before = {k: v.clone() for k, v in agent.policy.state_dict().items()}
    with pytest.raises(CheckpointError, match="does not fit this agent"):
        agent.set_parameters(saved)
    assert same_state(before, agent.policy.state_dict())


def test_other_files_are_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        CURL.load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="compressed"):
        CURL.load(rewritten(saved, tmp_path / "small.zip", compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme", "hello")
    with pytest.raises(CheckpointError, match="not an archive of an agent"):
        CURL.load(tmp_path / "other.zip")


def test_what_must_be_unpickled_needs_trust(tmp_path):
    agent = tiny_agent().learn(26)
    SAC.save(agent, tmp_path / "pickled.zip")
    SAC.save_replay_buffer(agent, tmp_path / "buffer.pkl")
    for refused in (CURL.load, tiny_agent().set_parameters):
        with pytest.raises(CheckpointError, match="trust=True"):
            refused(tmp_path / "pickled.zip")
    with pytest.raises(CheckpointError, match="trust=True"):
        agent.load_replay_buffer(tmp_path / "buffer.pkl")
    again = CURL.load(tmp_path / "pickled.zip", env=tiny_env(), device="cpu", trust=True)
    assert same_state(again.get_parameters(), agent.get_parameters()) and again.learn(3)


def test_a_space_that_no_memory_holds_is_refused(saved, tmp_path):
    with zipfile.ZipFile(saved) as archived, zipfile.ZipFile(tmp_path / "vast.zip", "w") as vast:
        header = json.loads(archived.read("agent.json"))
        header["about"]["observation_space"]["box"]["shape"] = [1 << 24, 1 << 24, 1 << 24]
        vast.writestr("agent.json", json.dumps(header))
        vast.writestr("tensors.safetensors", archived.read("tensors.safetensors"))
    with pytest.raises(CheckpointError, match="does not hold an agent that can be made"):
        CURL.load(tmp_path / "vast.zip", device="cpu")


def test_settings_that_the_weights_hang_on_and_unknown_ones_are_refused(saved):
    with pytest.raises(ConfigError) as caught:
        CURL.load(saved, update="faithful", image_size=12, gama=0.9)
    assert len(caught.value.problems) == 3 and "did you mean 'gamma'" in str(caught.value)
    assert CURL.load(saved, update="fused", device="cpu").update == "fused"


def test_an_environment_with_other_spaces_is_refused_as_in_stable_baselines3(saved):
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        CURL.load(saved, env=tiny_env(stack=3))


def test_a_failed_save_leaves_the_old_archive(saved, tmp_path, monkeypatch):
    path = tmp_path / "agent.zip"
    path.write_bytes(saved.read_bytes())
    for step in range(1, 6):
        monkeypatch.setenv("SURNIA_FAULT", f"error:{step}")
        with pytest.raises(CheckpointError, match="space"):
            tiny_agent(seed=3).save(path)
        if path.read_bytes() != saved.read_bytes():
            break  # renamed already: only the folder was left to flush
    monkeypatch.delenv("SURNIA_FAULT")
    assert step >= 4 and CURL.load(path, device="cpu") and [p.name for p in tmp_path.iterdir()] == ["agent.zip"]


# --- settings as JSON ------------------------------------------------------------------------------------------------


def test_plain_values_come_back():
    for value in (None, True, 3, 0.1, float("inf"), "x", [1, [2.5]], (1, "step"), {"pi": [4], "qf": (5,)}):
        again = through_json(value)
        assert again == value and type(again) is type(value)


def test_boxes_come_back():
    low = np.array([-1, 0.1, -np.inf], np.float32)
    for box in (spaces.Box(0, 255, (3, 4, 4), np.uint8), spaces.Box(low, low + 2, dtype=np.float32)):
        assert through_json(box) == box


def test_schedules_come_back():
    linear = through_json(FloatSchedule(LinearSchedule(1.0, 0.25, 0.5)))
    assert [linear(x) for x in (1.0, 0.75, 0.5, 0.1)] == [1.0, 0.625, 0.25, 0.25]
    assert through_json(ConstantSchedule(0.5)) == 0.5


def test_a_schedule_of_ones_own_keeps_its_value_and_says_so(tmp_path):
    agent = tiny_agent(learning_rate=lambda remaining: 1e-3 * remaining)
    agent._current_progress_remaining = 0.5
    agent.save(tmp_path / "agent")
    with pytest.warns(UserWarning, match=r"lambda.*0.0005.*learning_rate="):
        assert CURL.load(tmp_path / "agent", device="cpu").lr_schedule(1.0) == 5e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CURL.load(tmp_path / "agent", device="cpu", learning_rate=lambda remaining: 1e-3 * remaining)


def test_noise_of_actions_comes_back():
    normal = NormalActionNoise(np.zeros(2), np.array([0.1, 0.2]))
    again = through_json(VectorizedActionNoise(normal, 3))
    assert again.n_envs == 3 and again.base_noise._sigma.tolist() == [0.1, 0.2]
    wandering = through_json(
        OrnsteinUhlenbeckActionNoise(np.ones(2), np.ones(2), 0.3, 0.5, initial_noise=np.ones(2), dtype=np.float64)
    )
    assert (wandering._theta, wandering._dt, wandering._mu.tolist()) == (0.3, 0.5, [1, 1])
    assert wandering.noise_prev.tolist() == [1, 1] and wandering().dtype == np.float64


def test_something_else_is_left_out_by_name(tmp_path):
    class Mine(NormalActionNoise):
        pass

    agent = tiny_agent(action_noise=Mine(np.zeros(2), np.ones(2)))
    with pytest.raises(CheckpointError, match=r"exclude=\['action_noise'\]"):
        agent.save(tmp_path / "agent")
    agent.save(tmp_path / "agent", exclude=["action_noise"])
    assert CURL.load(tmp_path / "agent", device="cpu").action_noise is None
    with pytest.raises(ConfigError, match="pickles"):
        agent.save(tmp_path / "agent", include=["replay_buffer"])
