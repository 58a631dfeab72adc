"""Whole runs: exact resume after stops and kills, accumulation, dry arithmetic, and what a run says and refuses."""

import multiprocessing
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from support.recipes import small_recipe

from sslcore.errors import CheckpointError, ConfigError, DataError, SurniaError
from sslcore.pretrain import run as run_module
from sslcore.pretrain.build import build, check_fit
from sslcore.pretrain.data import ImageArray
from sslcore.pretrain.history import read_history
from sslcore.pretrain.loop import Plan
from sslcore.pretrain.methods import REGISTRY
from sslcore.pretrain.run import pretrain
from sslcore.storage import RunDirectory, load_checkpoint, newest_checkpoint, read_run


def directory(path, recipe, resume=False):
    if resume:
        return RunDirectory.open(path)
    return RunDirectory.create(path, recipe="method: {}\n", command=["test"], seed=recipe.seed)


class At(pl.Callback):
    """Does something to its own process after optimiser step `step`."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action()


def run(path, recipe, pictures, *, resume=False, at=None, action=None):
    with directory(path, recipe, resume) as opened, pytest.MonkeyPatch.context() as patch:
        if at is not None:
            real = run_module.build_trainer
            patch.setattr(
                run_module,
                "build_trainer",
                lambda r, p, callbacks, done: real(r, p, [At(at, action), *callbacks], done),
            )
        return pretrain(recipe, opened, images=pictures, resume=resume, quiet=True)


def final_state(path):
    found = newest_checkpoint(path / "checkpoints")
    loaded = load_checkpoint(found)
    return found.name, loaded.model, loaded.train["optimizer_states"][0]["state"]


def assert_equal_bits(a, b):
    name_a, model_a, optimizer_a = a
    name_b, model_b, optimizer_b = b
    assert name_a == name_b and model_a.keys() == model_b.keys()
    for key in model_a:
        assert torch.equal(model_a[key], model_b[key]), key
    for index, state in optimizer_a.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizer_b[index][key])), (index, key)


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_run_that_was_stopped_twice_ends_with_the_weights_of_one_that_was_not(name, tmp_path, pictures):
    recipe = small_recipe(name)
    run(tmp_path / "whole", recipe, pictures)
    first = run(tmp_path / "parts", recipe, pictures, at=3, action=stop)  # in the middle of an epoch
    assert first.stopped and first.steps == 3
    second = run(tmp_path / "parts", recipe, pictures, resume=True, at=10, action=stop)  # at an epoch's end
    assert second.stopped and second.steps == 7
    assert not run(tmp_path / "parts", recipe, pictures, resume=True).stopped
    assert_equal_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))


def test_three_kills_without_warning_change_nothing(tmp_path, pictures):
    recipe = small_recipe("moco", accumulate=1, optimizer={"name": "adamw", "lr": 0.01, "lr_batch": 0})
    run(tmp_path / "whole", recipe, pictures)
    context = multiprocessing.get_context("fork")
    for number, at in enumerate((3, 8, 13)):
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        child = context.Process(
            target=run, args=(tmp_path / "killed", recipe, pictures),
            kwargs={"resume": number > 0, "at": at, "action": kill},
        )  # fmt: skip
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    run(tmp_path / "killed", recipe, pictures, resume=True)
    assert_equal_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))


def test_accumulated_steps_stop_only_between_optimiser_steps_and_resume_exactly(tmp_path, pictures):
    recipe = small_recipe("simclr", accumulate=2, batch_size=8, epochs=4)
    run(tmp_path / "whole", recipe, pictures)
    assert run(tmp_path / "parts", recipe, pictures, at=4, action=stop).steps == 4
    run(tmp_path / "parts", recipe, pictures, resume=True)
    assert_equal_bits(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))


def test_a_finished_run_that_is_resumed_trains_no_further(tmp_path, pictures):
    recipe = small_recipe(epochs=1)
    run(tmp_path / "run", recipe, pictures)
    before = final_state(tmp_path / "run")
    assert run(tmp_path / "run", recipe, pictures, resume=True).steps == 0
    assert_equal_bits(before, final_state(tmp_path / "run"))


def test_ctrl_c_twice_ends_the_run_but_not_the_process_and_works_afterwards(tmp_path, pictures):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", small_recipe(), pictures, at=2, action=twice)
    assert read_run(tmp_path / "run")["status"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_bf16_runs_on_a_cpu(tmp_path, pictures):
    outcome = run(tmp_path / "run", small_recipe(precision="bf16", epochs=1), pictures)
    assert outcome.losses and all(loss == loss for _, loss in outcome.losses)


@pytest.mark.parametrize(
    "network",
    [
        {"backbone": {"name": "pixel_encoder", "width": 4}},
        {"backbone": {"name": "tiny", "width": 4}, "sync_batchnorm": True},
    ],
)
def test_two_processes_through_lightning_end_where_one_does_and_both_stop_when_one_is_asked(
    network, tmp_path, pictures
):
    """A network whose norms do not mix samples, or those of all processes; the first writes, the second takes part."""
    recipe = small_recipe("moco", **network, epochs=2, devices=2, optimizer={"name": "sgd", "lr": 0.05, "lr_batch": 0})
    run(tmp_path / "one", recipe.model_copy(update={"devices": 1}), pictures)

    def in_two(resume, at):
        context = multiprocessing.get_context("fork")
        port = 20_000 + os.getpid() % 20_000 + resume
        both = [
            context.Process(target=take_part, args=(r, port, tmp_path / "two", recipe, pictures, resume, at))
            for r in (0, 1)
        ]
        for process in both:
            process.start()
        for process in both:
            process.join(90)
        return [process.exitcode for process in both]

    assert in_two(False, at=3) == [7, 7]  # stopped together, although only the second was asked
    assert newest_checkpoint(tmp_path / "two" / "checkpoints").name == "step-00000003"
    assert in_two(True, at=None) == [0, 0]
    (name, ours, _), (name_two, theirs, _) = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    assert name == name_two == "step-00000010"
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=1e-5, msg=key)


def take_part(rank, port, path, recipe, pictures, resume, at):
    """One of two processes, as a launcher starts them; leaves with 7 when stopped."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", NODE_RANK="0")
    os.environ.update(GROUP_RANK="0", TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if rank == 0:
        outcome = run(path, recipe, pictures, resume=resume)
    else:
        with pytest.MonkeyPatch.context() as patch:
            real = run_module.build_trainer
            patch.setattr(run_module, "build_trainer", lambda r, p, cb, done: real(r, p, [At(at, stop), *cb], done))
            outcome = pretrain(recipe, path, images=pictures, resume=resume, quiet=True)
    os._exit(7 if outcome.stopped else 0)


def test_the_plan_counts_updates():
    recipe = small_recipe(batch_size=8, accumulate=2, epochs=3)
    plan = Plan(recipe, images=45)
    assert (plan.steps_per_epoch, plan.updates, plan.batches, plan.updates_per_epoch) == (5, 7, 14, 2.5)
    assert Plan(recipe.model_copy(update={"max_steps": 4}), images=45).batches == 8


def test_without_a_run_directory_nothing_is_written(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = pretrain(small_recipe(epochs=1), None, images=pictures, quiet=True)
    assert outcome.steps == 5 and list(tmp_path.iterdir()) == []


def test_the_outcome_is_ready_to_be_used(pictures):
    """In evaluation mode, with the preprocessing of the run: the features of a picture do not depend on its company."""
    outcome = pretrain(small_recipe(epochs=1), None, images=pictures, quiet=True)
    assert not outcome.module.method.encoder.training
    some = outcome.features(pictures.images[:5])
    assert some.shape == (5, outcome.module.method.encoder.dim) and not some.requires_grad
    torch.testing.assert_close(outcome.features(pictures.images)[:5], some, rtol=1e-4, atol=1e-5)
    assert "Conv2d" not in repr(outcome)


def test_a_resumed_run_logs_what_the_uninterrupted_one_logs(tmp_path, pictures):
    recipe = small_recipe(epochs=5)  # 25 steps: a window of 20 and one of 5
    run(tmp_path / "whole", recipe, pictures)
    run(tmp_path / "parts", recipe, pictures, at=13, action=stop)
    run(tmp_path / "parts", recipe, pictures, resume=True)
    whole, parts = (read_history(tmp_path / name).terms["loss"] for name in ("whole", "parts"))
    assert [step for step, _ in whole] == [1, 20, 25] and parts == whole


def test_training_teaches_classes_that_are_easy_to_see(tmp_path, pictures):
    recipe = small_recipe("supcon", epochs=8, probe={"every_epochs": 8, "neighbours": 5})
    with directory(tmp_path / "run", recipe) as opened:
        outcome = pretrain(recipe, opened, images=pictures, probe_images=pictures, quiet=True)
    assert outcome.knn[-1][1] > 0.9
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "knn_accuracy" in lines and "images_per_second" in lines and "rank_me" in lines


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_no_checkpoint_of_it(tmp_path, pictures):
    recipe = small_recipe(optimizer={"name": "sgd", "lr": 3e38, "lr_batch": 0}, epochs=6, checkpoint_every=1)
    with pytest.raises(SurniaError, match=r"loss is (nan|inf|-inf) before step 20 .* lower optimizer.lr"):
        run(tmp_path / "run", recipe, pictures)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is None  # the very first update ruined the weights


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tmp_path, pictures):
    recipe = small_recipe(epochs=2)
    run(tmp_path / "run", recipe, pictures)
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        (checkpoint / "model.safetensors").write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound"):
        run(tmp_path / "run", recipe, pictures, resume=True)


def test_a_run_without_a_checkpoint_begins_anew_and_says_so(tmp_path, pictures):
    recipe, said = small_recipe(epochs=1), []
    directory(tmp_path / "run", recipe).close()
    with directory(tmp_path / "run", recipe, resume=True) as opened:
        outcome = pretrain(recipe, opened, images=pictures, resume=True, quiet=True, say=said.append)
    assert outcome.steps == 5 and "begins anew" in said[0]


def test_checkpoints_after_the_one_that_is_resumed_stand_in_nobodys_way(tmp_path, pictures):
    recipe = small_recipe(epochs=2, checkpoint_every=4)
    run(tmp_path / "run", recipe, pictures)  # leaves 8 and 10
    newest = tmp_path / "run" / "checkpoints" / "step-00000010"
    (newest / "model.safetensors").write_bytes(b"?")
    again = recipe.model_copy(update={"checkpoint_every": 9, "keep_checkpoints": 2})
    assert run(tmp_path / "run", again, pictures, resume=True, at=9, action=stop).steps == 1
    names = sorted(path.name for path in newest.parent.iterdir())
    assert names == ["step-00000008", "step-00000009", "step-00000010.damaged"]


def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path, pictures):
    run(tmp_path / "wide", small_recipe(epochs=1), pictures)
    recipe = small_recipe(backbone={"name": "tiny", "width": 6, "weights": str(tmp_path / "wide")})
    with pytest.raises(
        ConfigError, match=r"backbone.weights: .* is another network .*\(4, 3, 3, 3\) there and \(6, 3, 3, 3\)"
    ):
        build(recipe, pictures)
    same = small_recipe(backbone={"name": "tiny", "width": 4, "weights": str(tmp_path / "wide")}, seed=9)
    started = build(same, pictures).method.encoder.state_dict()
    trained = final_state(tmp_path / "wide")[1]
    assert all(torch.equal(value, trained[f"method.encoder.{key}"]) for key, value in started.items())


def test_a_run_that_sits_at_chance_says_so_once_and_names_the_term(pictures):
    recipe = small_recipe("pcl", epochs=6, optimizer={"name": "sgd", "lr": 1e-12, "lr_batch": 0})
    said = []
    frozen = build(recipe, pictures).method.chance(8)
    assert set(frozen) == {"instance", "prototype"}
    outcome = pretrain(recipe, None, images=pictures, quiet=True, say=said.append)
    assert set(outcome.terms) == {"loss", "instance", "prototype"}
    assert len(said) == len({sentence.split(" has ")[0] for sentence in said})


def test_unlabelled_images_do_not_count_for_a_method_that_needs_labels(pictures):
    labels = torch.where(torch.arange(45) < 6, pictures.labels, -1)
    some = ImageArray(images=pictures.images, labels=labels, classes=pictures.classes)
    with pytest.raises(DataError, match="6 images are fewer than one batch of 8"):
        build(small_recipe("supcon"), some)


def test_a_second_split_that_cannot_be_used_is_named_and_one_that_is_not_there_is_no_news(tmp_path, pictures):
    def said_about(folder):
        said = []
        recipe = small_recipe(epochs=1, data={"path": str(folder)}, probe={"every_epochs": 1})
        outcome = pretrain(recipe, None, images=pictures, quiet=True, say=said.append)
        assert outcome.knn == []
        return said

    for name in "ab":
        (tmp_path / "plain" / name).mkdir(parents=True)
        (tmp_path / "split" / "train" / name).mkdir(parents=True)
        for folder in (tmp_path / "plain" / name, tmp_path / "split" / "train" / name):
            Image.new("RGB", (8, 8)).save(folder / "0.png")
    (tmp_path / "split" / "val" / "c").mkdir(parents=True)  # a class that training does not know
    Image.new("RGB", (8, 8)).save(tmp_path / "split" / "val" / "c" / "0.png")
    assert said_about(tmp_path / "plain") == []
    (sentence,) = said_about(tmp_path / "split")
    assert sentence.startswith("training goes on without the kNN probe: ")


def test_a_batch_that_is_larger_than_the_set_is_refused(pictures):
    with pytest.raises(DataError, match="45 images are fewer than one batch of 64; set batch_size to 45 or less"):
        build(small_recipe(batch_size=64), pictures)


def test_what_does_not_fit_is_told_all_at_once(pictures):
    unlabelled = ImageArray(images=pictures.images)
    recipe = small_recipe("supcon", precision="16", devices=3)
    with pytest.raises(ConfigError) as caught:
        check_fit(recipe, unlabelled)
    said = "\n".join(caught.value.problems)
    for part in (
        "supcon needs labels",
        "16 needs a CUDA GPU",
        "8 does not divide among 3 processes",
    ):
        assert part in said
    with pytest.raises(ConfigError, match="a process's batch of 8 does not divide into 3 equal parts"):
        check_fit(small_recipe("moco", method={"norm_splits": 3}), pictures)
    with pytest.raises(ConfigError, match="20 batches make an optimiser step, and 3 epochs have only 15"):
        check_fit(small_recipe(accumulate=20), pictures)
    with pytest.raises(ConfigError, match="50 clusters need more images than the 45"):
        check_fit(small_recipe("pcl", method={"clusters": [4, 50]}), pictures)
