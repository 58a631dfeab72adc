import csv
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from support.agents import FixedReplay, same_state, tiny_agent, tiny_env, tiny_envs, without_output

from rl import CURL, FrameReplayBuffer, PixelReach
from rl.curl import curl as module
from sslcore.errors import ConfigError

LOSSES = {"actor_loss", "critic_loss", "contrastive_loss", "ent_coef", "ent_coef_loss"}


def weights(agent):
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}


# --- learning as stable-baselines3's users do it ---------------------------------------------------------------------


@pytest.mark.parametrize("update", ["fused", "faithful"])
@pytest.mark.parametrize(
    ("aux", "augmentation"), [("curl", "crop"), ("none", "crop"), ("curl", "shift"), ("none", "none")]
)
def test_learns_in_all_its_forms_and_moves_every_weight_that_it_should(update, aux, augmentation):
    agent = tiny_agent(update=update, aux=aux, augmentation=augmentation)
    before = weights(agent)
    agent.learn(40)
    moved = {name for name, value in weights(agent).items() if not torch.equal(value, before[name])}
    stays = set() if aux == "curl" else {"similarity.weight"}
    assert moved == set(before) - stays and agent._n_updates == 20 and agent.num_timesteps == 40


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    runs = [tiny_agent(seed=seed).learn(40) for seed in (1, 1, 2)]
    assert same_state(weights(runs[0]), weights(runs[1])) and not same_state(weights(runs[0]), weights(runs[2]))


def test_keys_of_the_log_are_those_of_sac_and_the_contrastive_loss(tmp_path):
    agent = tiny_agent(tensorboard_log=str(tmp_path / "board"))
    agent.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    agent.learn(120, log_interval=1)
    rows = list(csv.DictReader((tmp_path / "progress.csv").open()))
    wanted = {f"train/{name}" for name in LOSSES | {"n_updates", "learning_rate"}}
    assert wanted | {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps"} <= set(rows[-1])
    assert all(np.isfinite(float(rows[-1][key])) for key in wanted)
    assert int(rows[-1]["train/n_updates"]) == 120 - 21  # the last dump is before the last update


def test_losses_are_means_over_the_updates_since_somebody_looked():
    agent = without_output(tiny_agent())
    agent.replay_buffer = FixedReplay()
    agent._means.add({"critic_loss": torch.tensor(1.0)})
    agent._means.add({"critic_loss": torch.tensor([3.0]), "actor_loss": torch.tensor(5.0)})
    assert agent.logger.name_to_value == {"train/critic_loss": 2.0, "train/actor_loss": 5.0}
    agent.train(3, 8)
    assert agent._logger.name_to_value["train/critic_loss"] == 2.0  # nothing is fetched until asked for
    assert agent.logger.name_to_value["train/critic_loss"] not in (2.0, 0.0)


def test_callbacks_progress_bar_and_checkpoints(tmp_path):
    agent = tiny_agent(tiny_envs(2), gradient_steps=-1)
    evaluation = EvalCallback(
        Monitor(tiny_env()), n_eval_episodes=1, eval_freq=25, best_model_save_path=str(tmp_path / "best"), verbose=0,
        log_path=str(tmp_path),
    )  # fmt: skip
    checkpoints = CheckpointCallback(25, str(tmp_path), name_prefix="agent", save_replay_buffer=True)
    agent.learn(80, callback=[evaluation, checkpoints], progress_bar=True, log_interval=1)
    best = CURL.load(tmp_path / "best" / "best_model", device="cpu")
    assert best.num_timesteps == 50 and best.replay_buffer is None
    again = CURL.load(tmp_path / "agent_50_steps.zip", env=tiny_envs(2), device="cpu")
    again.load_replay_buffer(tmp_path / "agent_replay_buffer_50_steps.pkl")
    assert again.replay_buffer.size() == 24  # rows of two environments; the callback comes before the 25th is added
    assert evaluate_policy(agent, Monitor(tiny_env()), n_eval_episodes=1)[0] >= 0


@pytest.mark.parametrize("kind", [ReplayBuffer, NStepReplayBuffer, FrameReplayBuffer])
def test_takes_every_replay_buffer_of_whole_observations(kind):
    n_steps = 1 if kind is ReplayBuffer else 3
    agent = tiny_agent(replay_buffer_class=kind, n_steps=n_steps).learn(30)
    assert type(agent.replay_buffer) is kind and agent.replay_buffer.size() == 30
    assert (agent.replay_buffer.sample(4).discounts is None) == (n_steps == 1)


def test_the_default_buffer_knows_stack_seed_and_steps():
    buffer = tiny_agent(
        tiny_envs(2), n_steps=3, gamma=0.9, replay_buffer_kwargs={"storage_device": "cpu"}
    ).replay_buffer
    assert (buffer.stack, buffer.n_steps, buffer.gamma, buffer.n_envs, buffer.buffer_size) == (2, 3, 0.9, 2, 250)
    stacked = VecFrameStack(DummyVecEnv([lambda: PixelReach(size=16)]), 3)  # channels last, as stable-baselines3 stacks
    agent = tiny_agent(stacked).learn(30)
    assert agent.replay_buffer.stack == 3 and agent.observation_space.shape == (3, 16, 16)
    assert tiny_agent(DummyVecEnv([lambda: PixelReach(size=16)])).replay_buffer.stack == 1


def test_a_buffer_without_n_steps_is_not_given_them_in_silence():
    with pytest.raises(ConfigError, match="no n-step returns"):
        tiny_agent(replay_buffer_class=ReplayBuffer, n_steps=3)


def test_discounts_of_n_step_returns_and_ends_of_episodes_reach_the_batch():
    agent = tiny_agent(gamma=0.5)
    sample = FixedReplay().samples
    batch = agent._batch(sample, agent._augmenting())
    assert torch.equal(batch.discounts, 0.5 * (1 - sample.dones)) and 0 < sample.dones.sum() < 8
    discounts = torch.full((8, 1), 0.125)
    batch = agent._batch(sample._replace(discounts=discounts), agent._augmenting())
    assert torch.equal(batch.discounts, 0.125 * (1 - sample.dones))


def test_a_schedule_moves_every_rate_but_that_of_the_entropy():
    agent = tiny_agent(learning_rate=LinearSchedule(1e-3, 0.0, 1.0), update="faithful", ent_coef_lr=3e-4).learn(40)
    rates = {o.param_groups[0]["lr"] for o in agent._scheduled_optimizers()}
    assert len(agent._scheduled_optimizers()) == 4 and rates == {0.0}
    assert agent.ent_coef_optimizer.param_groups[0]["lr"] == 3e-4


def test_intervals_count_updates_across_calls_of_train(monkeypatch):
    turns = []

    def update(agent, batch, *, move_actor, move_targets):
        turns.append((move_actor, move_targets))
        return {}

    monkeypatch.setattr(module, "fused_update", update)
    agent = without_output(tiny_agent(actor_update_interval=2, target_update_interval=3))
    agent.replay_buffer = FixedReplay()
    for _ in range(6):
        agent.train(1, 8)
    assert turns == [(True, True), (False, False), (True, False), (False, True), (True, False), (False, False)]


def test_set_env_goes_on_with_the_same_agent():
    agent = tiny_agent().learn(30)
    agent.set_env(tiny_env())
    agent.learn(10, reset_num_timesteps=False)
    assert agent.num_timesteps == 40 and agent._n_updates == 20


def test_action_noise_and_other_bounds_of_actions():
    env = gym.wrappers.RescaleAction(tiny_env(), np.full(2, -3, np.float32), np.full(2, 5, np.float32))
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
    agent = tiny_agent(env, action_noise=noise).learn(30)
    stored = agent.replay_buffer.actions[:30]
    assert np.abs(stored).max() <= 1
    action, _ = agent.predict(agent.env.reset())
    assert agent.action_space.contains(action[0])


def test_parameters_go_from_one_agent_to_another():
    ours, theirs = tiny_agent(seed=1).learn(30), tiny_agent(seed=2)
    theirs.set_parameters(ours.get_parameters())
    assert same_state(weights(ours), weights(theirs))
    assert {"policy", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer"} == set(ours.get_parameters())
    faithful = tiny_agent(update="faithful").get_parameters()
    assert {"encoder_optimizer", "cpc_optimizer"} < set(faithful)
    with pytest.raises(ValueError, match="do not match"):
        theirs.set_parameters({"policy": ours.policy.state_dict()})


def test_the_users_dictionaries_are_left_alone():
    networks, options = {"conv_layers": 2}, {"storage_device": "cpu"}
    tiny_agent(policy_kwargs=networks, replay_buffer_kwargs=options, n_steps=2)
    assert networks == {"conv_layers": 2} and options == {"storage_device": "cpu"}


# --- what cannot be meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"aux": "yes"}, 'aux must be one of "curl", "none"'),
        ({"update": "fast"}, '"fused", "faithful"'),
        ({"tau": 0}, "tau is the weight of the new"),
        ({"encoder_tau": 1.5}, "encoder_tau is the weight of the new"),
        ({"actor_update_interval": 0}, "at least 1"),
        ({"batch_size": 1}, "negatives"),
        ({"image_size": 16}, 'no room in frames of 16 x 16.*image_size=13.*"shift"'),
        ({"image_size": 84}, "larger than the frames"),
        ({"ent_coef": "auto_x"}, "ent_coef"),
        ({"ent_coef": "auto_-1"}, "ent_coef"),
        ({"policy": "CnnPolicy"}, "one policy"),
        ({"policy_kwargs": {"share_features_extractor": True}}, "nothing to choose"),
        ({"policy_kwargs": {"use_sde": True}}, "use_sde"),
        ({"policy_kwargs": {"image_size": 12}}, "argument of CURL itself"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_a_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiny_agent(**settings)


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        tiny_agent(aux="x", tau=0, shift_pad=-1)
    assert len(caught.value.problems) == 3


def test_the_id_of_our_environment_is_known_wherever_the_algorithm_is():
    code = (
        "from rl import CURL\n"
        "agent = CURL(env='surnia/PixelReach-v0', image_size=36, buffer_size=9, policy_kwargs={'net_arch': [8]})\n"
        "print(agent.observation_space.shape)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "(1, 42, 42)"


def test_an_environment_is_needed_and_it_must_show_pictures():
    with pytest.raises(ConfigError, match="needs an environment"):
        CURL()

    class Numbers(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))

    with pytest.raises(ConfigError, match="PixelStack"):
        CURL(env=Numbers())


# --- precision -------------------------------------------------------------------------------------------------------


def test_precision_is_what_the_probe_says_for_fused_and_float32_for_faithful(monkeypatch):
    monkeypatch.setattr(module, "bf16_is_faster", lambda device: True)
    assert tiny_agent(precision="auto").bf16 and not tiny_agent(precision="auto", update="faithful").bf16
    assert not tiny_agent(precision="32").bf16 and tiny_agent(precision="bf16", update="faithful").bf16
    monkeypatch.setattr(module, "bf16_is_faster", lambda device: False)
    assert not tiny_agent(precision="auto").bf16


def test_the_probe_takes_the_faster_one(monkeypatch):
    from rl.curl import precision

    for seconds, faster in (({True: 1.0, False: 2.0}, True), ({True: 1.0, False: 1.1}, False)):
        monkeypatch.setattr(precision, "_seconds", lambda conv, x, *, bf16, s=seconds: s[bf16])
        precision.bf16_is_faster.cache_clear()
        assert precision.bf16_is_faster(torch.device("cpu")) is faster
    precision.bf16_is_faster.cache_clear()


def test_the_probe_runs_here():
    from rl.curl.precision import bf16_is_faster

    assert bf16_is_faster(torch.device("cpu")) in (True, False)
