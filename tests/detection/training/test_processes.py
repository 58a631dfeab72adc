"""Two processes on the same global batch train what one does, and share evaluation."""

import os

import pytest
import torch
from support.drawn import drawn_recipe
from support.runs import assert_same_run, in_two, run_detection, take_part

from detection.openworld.head import OpenWorldHead
from detection.training.layout import read_json
from detection.training.processes import check_machine
from sslcore.errors import ConfigError, DataError, SurniaError
from sslcore.storage import load_checkpoint, read_run

SHORT = {
    "network": {"norm": "frozen"}, "first": {"steps": 2}, "later": {"steps": 2}, "finetune": {"steps": 1},
    "unknowns": {"start": 0.0}, "clustering": {"start": 0.0, "refresh": 1},
}  # fmt: skip


@pytest.mark.parametrize(("norm", "tolerance"), [("frozen", 1e-5), ("batch", 5e-5)])  # batch norm magnifies rounding
def test_two_processes_train_what_one_does(norm, tolerance, tmp_path, drawn):
    settings = {**SHORT, "network": {"norm": norm}}
    run_detection(tmp_path / "one", drawn_recipe(**settings), drawn)
    recipe = drawn_recipe(**settings, devices=2)
    in_two(take_part, tmp_path / "two", recipe, drawn)
    for place in ("1/train/checkpoints/step-00000002", "2/train/checkpoints/step-00000002", "2/model"):
        ours, theirs = (load_checkpoint(tmp_path / run / "tasks" / place).model for run in ("one", "two"))
        for name, value in ours.items():
            if value.is_floating_point():
                torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=tolerance, msg=f"{place} {name}")
            elif not name.endswith("_extra_state"):
                assert torch.equal(theirs[name], value), f"{place} {name}"
    one, two = (read_json(tmp_path / run / "tasks/2/results.json") for run in ("one", "two"))
    assert one["purity"] == two["purity"] and one["exemplars"] == two["exemplars"]
    assert one["purity"]["train"]["chosen"]["count"] == 2 * 4 * 2
    one, two = (read_json(tmp_path / run / "tasks/2/previous_train.json") for run in ("one", "two"))
    assert one["boxes"].keys() == two["boxes"].keys()
    for number, boxes in one["boxes"].items():
        torch.testing.assert_close(torch.tensor(two["boxes"][number]), torch.tensor(boxes), rtol=1e-3, atol=1e-3)
    assert any(one["boxes"].values())  # else what is known already would not have been put to the test
    one, two = (read_json(tmp_path / run / "tasks/2/detections.json") for run in ("one", "two"))
    assert [each["image_id"] for each in one] == [each["image_id"] for each in two]


def test_two_processes_that_were_stopped_end_alike(tmp_path, drawn):
    """Between two lines of the metrics, where each process has counted losses of its own."""
    recipe = drawn_recipe(**{**SHORT, "later": {"steps": 5}}, devices=2)
    in_two(take_part, tmp_path / "whole", recipe, drawn)
    in_two(take_part, tmp_path / "parts", recipe, drawn, None, {"at": (2, "train", 3)})
    in_two(take_part, tmp_path / "parts", recipe, drawn, None, {"resume": True})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_processes_that_look_at_images_have_the_same_detector(tmp_path, drawn):
    """Batch norms have met other images in each of them."""
    recipe = drawn_recipe(**{**SHORT, "network": {"norm": "batch"}}, tasks=1, devices=2)
    in_two(take_part, tmp_path / "two", recipe, drawn, tmp_path)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert any(name.endswith("running_mean") for name in ours)
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name


def test_logits_that_are_not_finite_in_one_process_end_both_with_the_same_sentence(tmp_path, drawn):
    in_two(_diverging, tmp_path / "run", drawn_recipe(**SHORT, devices=2), drawn)
    for rank in (0, 1):
        said = (tmp_path / f"{rank}.txt").read_text()
        assert said.startswith("the network's numbers are not finite in task 1, train, step 2: lower the stage's lr")
    assert read_run(tmp_path / "run")["status"] == "failed"


def test_an_error_in_one_process_ends_the_other_with_a_sentence(tmp_path, drawn):
    in_two(_diverging, tmp_path / "run", drawn_recipe(**SHORT, devices=2), drawn, "image 7 is damaged")
    assert (tmp_path / "1.txt").read_text() == "image 7 is damaged"
    assert (tmp_path / "0.txt").read_text().startswith("another process of this run ended with an error")


def _diverging(rank, port, path, recipe, data, reason=None):
    """In the second step of the second process something goes wrong; by default, its logits."""
    real, steps = OpenWorldHead.losses, []

    def losses(self, features, logits, labels):
        steps.append(1)
        if rank == 1 and len(steps) == 2:
            if reason:
                raise DataError(reason)
            logits = logits * torch.nan
        return real(self, features, logits, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenWorldHead, "losses", losses)
        try:
            take_part(rank, port, path, recipe, data)
        except SurniaError as error:
            (path.parent / f"{rank}.txt").write_text(str(error))
            os._exit(0)


def test_what_does_not_fit_the_machine_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        check_machine(drawn_recipe(precision="16", devices=3))
    assert "16 needs a CUDA GPU" in str(caught.value) and "4 does not divide among 3" in str(caught.value)
