"""Groups that another detector found are learnt, with a word, where it knew the same; else they are refused."""

import shutil

import pytest
import torch
from support.drawn import TASKS

from detection.discovery import FoundBy, collect_unknowns
from detection.structures import UNKNOWN, Detections
from detection.training.layout import Layout
from detection.training.origin import check_origin
from sslcore.errors import ConfigError
from sslcore.storage.checkpoint import weights_hash

FIRST, BOTH = ("red", "green"), ("red", "green", "blue", "yellow")


@pytest.fixture
def said(tmp_path, whole, drawn):
    """What is said of a collection when a run (the whole one, or another place) is to learn it."""

    def said(known, path, weights, run=whole[0]):
        found_by = FoundBy(str(path), weights) if weights else None
        (tmp_path / "pictures").mkdir(exist_ok=True)
        shutil.copy(drawn.test.path(0), tmp_path / "pictures")
        unknowns = collect_unknowns(_whole_picture, tmp_path / "pictures", known=known, found_by=found_by)
        return check_origin(unknowns, tmp_path / "unknowns", run, TASKS, 2)

    return said


def _whole_picture(pictures):
    one = torch.ones(1)
    box = torch.tensor([[0.0, 0, 32, 32]])
    return [Detections(box, torch.full((1,), UNKNOWN), one, one, one, torch.ones(1, 4)) for _ in pictures]


def test_what_a_task_or_a_checkpoint_of_the_run_found_is_its_own(tmp_path, whole, said):
    layout = Layout(whole[0], writes=False)
    for task, known in ((1, FIRST), (2, BOTH)):
        assert said(known, whole[0], weights_hash(layout.task(task, "model"))) is None
    stage = next(iter(layout.task(2, "train", "checkpoints").iterdir()))
    assert said(BOTH, whole[0], weights_hash(stage)) is None
    shutil.copytree(whole[0], tmp_path / "copy")
    assert said(BOTH, whole[0], weights_hash(layout.task(2, "model")), run=tmp_path / "copy") is None


@pytest.mark.parametrize(("known", "after"), [(BOTH, ""), (FIRST, " after task 1")])
def test_another_detector_of_classes_known_here_is_named_beside_the_run(said, whole, known, after):
    note = said(known, "/runs/other", "f" * 64)
    both = f"were found by /runs/other, which knew the same classes as {whole[0]}{after}: what was named is learnt"
    assert both in note
    assert note.endswith(f"surnia detect unknowns {whole[0]} IMAGES --out FOLDER")


def test_a_run_that_was_trained_anew_is_not_what_it_was(said, whole):
    assert f"{whole[0]} as it was before it was trained anew, which knew" in said(BOTH, whole[0], "f" * 64)


def test_a_detector_of_other_classes_is_refused(said, whole):
    with pytest.raises(ConfigError) as caught:
        said(("cow", "sheep"), "/runs/farm", "f" * 64)
    assert str(caught.value).endswith(
        f"/unknowns were found by /runs/farm, which knew cow, sheep, which {whole[0]} does not and did not know "
        f"red, green, blue, yellow, which {whole[0]} does: learn them with the run that found them, or collect anew "
        f"with surnia detect unknowns {whole[0]} IMAGES --out FOLDER"
    )
    with pytest.raises(ConfigError, match=r"were found by /runs/more, which knew grey, which \S+ does not: learn them"):
        said((*BOTH, "grey"), "/runs/more", "f" * 64)


def test_collections_without_a_note_go_by_the_classes(said):
    assert said(FIRST, "", None) is None and said(BOTH, "", None) is None
    assert said((), "", None) is None  # made in Python, with no word of what was known
    with pytest.raises(
        ConfigError, match=r"by another detector, which did not know green, blue, yellow, which \S+ does:"
    ):
        said(("red",), "", None)
