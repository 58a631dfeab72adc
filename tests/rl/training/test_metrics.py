import errno

import pytest
from support.control import small_recipe, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from rl.curl import curl
from rl.training.learner import Learner
from rl.training.metrics import EnvStepsTensorBoard
from sslcore.errors import CheckpointError, SurniaError
from sslcore.storage import list_checkpoints, read_metrics, read_run


def board(run):
    """{name: [(step, value)]} of a run's TensorBoard files, as TensorBoard shows them."""
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def measured(run, name):
    return [(line["step"], pytest.approx(line[name])) for line in read_metrics(run) if name in line]


def test_tensorboard_and_metrics_agree_also_after_a_resume(tmp_path):
    recipe = small_recipe()
    train(tmp_path / "run", recipe, at=100)
    # A run that was killed goes on from its checkpoint at 60, and makes what came after again.
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    (newest / "manifest.json").unlink()
    train(tmp_path / "run", recipe, resume=True)
    shown = board(tmp_path / "run")
    for name in ("eval/mean_reward", "train/critic_loss", "train/contrastive_loss"):
        assert shown[name] == measured(tmp_path / "run", name) and len(shown[name]) > 2
    assert [step for step, _ in shown["eval/mean_reward"]] == [0, 80, 160, 240]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("at", [0, 2])
def test_a_disk_that_is_full_for_tensorboard_is_named(tmp_path, monkeypatch, at):
    real, written = RecordWriter.write, []

    def write(self, data):
        written.append(data)
        if len(written) > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    def write_three():
        board = EnvStepsTensorBoard(str(tmp_path / "run" / "tensorboard"), 2, after=-1)
        for step in range(3):
            board.write({"loss": 1.0}, {"loss": ()}, step)

    monkeypatch.setattr(RecordWriter, "write", write)
    with pytest.raises(CheckpointError, match=r"run/tensorboard: no space left on device; free some space"):
        write_three()
    assert len(written) == at + 1


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    ("checkpoint_every", "sentence"),
    [
        (1000, r"loss is (nan|-?inf) at environment step \d+: lower agent.learning_rate"),
        (60, r"weights are not finite any more at environment step 60, .*; lower agent.learning_rate"),
    ],
)
def test_what_is_not_finite_ends_the_run_with_a_sentence(tmp_path, checkpoint_every, sentence):
    recipe = small_recipe(agent={"learning_rate": 1e30}, checkpoint_every=checkpoint_every)
    with pytest.raises(SurniaError, match=sentence):
        train(tmp_path / "run", recipe)
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_the_precision_that_auto_came_to_is_in_the_run_and_stays(tmp_path, monkeypatch):
    recipe, said = small_recipe(agent={"precision": "auto"}, steps=160), []
    monkeypatch.setattr(curl, "bf16_is_faster", lambda device: True)
    train(tmp_path / "run", recipe, at=60, said=said)
    assert "precision bf16 on cpu, as agent.precision auto chose here" in said
    assert read_run(tmp_path / "run")["chosen"] == {"device": "cpu", "precision": "bf16"}
    monkeypatch.setattr(curl, "bf16_is_faster", lambda device: False)
    train(tmp_path / "run", recipe, resume=True)  # not measured anew: the numbers would be others
    assert read_run(tmp_path / "run")["chosen"]["precision"] == "bf16"
    said.clear()
    train(tmp_path / "other", small_recipe(steps=8), said=said)
    assert read_run(tmp_path / "other")["chosen"]["precision"] == "32"
    assert not [sentence for sentence in said if "precision" in sentence]


def test_what_is_shown_at_the_end_is_the_last_evaluation(tmp_path, monkeypatch):
    shown, real = [], Learner.__init__

    def listening(self, *args, show, **kwargs):
        real(self, *args, show=lambda steps, words: shown.append((steps, words)), **kwargs)

    monkeypatch.setattr(Learner, "__init__", listening)
    outcome = train(tmp_path / "run", small_recipe())
    last, best = outcome.results["score"], outcome.results["best_score"]
    assert shown[-1] == (240, f"last evaluation {last:.1f}  best {best:.1f}")


def test_the_replay_is_announced_for_what_the_run_can_fill(tmp_path):
    said = []
    outcome = train(tmp_path / "run", small_recipe(agent={"buffer_size": 20_000}), said=said, at=8)
    assert said[0].startswith("a replay buffer of 120 transitions ")  # 240 environment steps, two at a time
    assert outcome.agent.replay_buffer.buffer_size == 10_000  # of each of two environments, should it learn on
