"""What the stages of a chain are allowed to see."""

import shutil
from dataclasses import replace

import pytest
import torch
from support.drawn import TASKS, draw_set, drawn_recipe, open_drawn, without
from support.runs import run_detection, without_times

from detection.training.layout import read_json
from sslcore.storage import load_checkpoint


def recipe(**decision):
    """Learns enough for a decision to be fitted: anchors as large as the objects are, and a high rate."""
    return drawn_recipe(first={"steps": 30, "lr": 0.05}, network={"anchors": [16, 22, 28]}, decision=decision)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """More validation images than elsewhere."""
    return open_drawn(draw_set(tmp_path_factory.mktemp("drawn"), val=24))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, labelled):
    """A run that stands before the fit of its first task's decision."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run_detection(folder, recipe(), labelled, until=(1, "train"))
    return folder


@pytest.mark.parametrize("fit", ["known", "oracle"])
def test_the_decision_is_fitted_on_no_label_of_a_future_class_but_the_oracles(tmp_path, labelled, trained, fit):
    """The oracle shows that such labels would make a difference here."""
    unlabelled = replace(labelled, val=without(labelled.val, *TASKS.future(1), "grey"))
    assert 0 < len(unlabelled.val.boxes) < len(labelled.val.boxes)
    energies, states = [], []
    for name, data in (("labelled", labelled), ("unlabelled", unlabelled)):
        shutil.copytree(trained, tmp_path / name)
        run_detection(tmp_path / name, recipe(fit=fit), data, resume=True, until=(1, "fit"))
        energies.append(without_times(read_json(tmp_path / name / "tasks/1/energies.json")))
        states.append(load_checkpoint(tmp_path / name / "tasks/1/model").model)
    assert energies[0]["kind"] == "densities" and energies[0]["fit"] == fit and energies[0]["cost"]["images"] == 24
    same = all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert (energies[0] == energies[1], same) == (fit == "known", fit == "known")
    assert (energies[1]["unknown_count"] == 0) == (fit == "oracle")
