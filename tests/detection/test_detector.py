import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from detection.detector import OpenWorldDetector, as_tensor, find_model
from detection.discovery import Wanted, discover, learn
from detection.structures import UNKNOWN
from detection.tasks import TaskSet
from detection.training.model import build_engine, description, save_engine
from detection.training.recipe import DetectionRecipe
from sslcore.errors import CheckpointError, DataError

TASKS = TaskSet("toy", (("cat", "dog"), ("tree",)))
RECIPE = DetectionRecipe.model_validate(
    {
        "network": {
            "name": "tiny", "width": 4, "pyramid": 8, "representation": 16, "min_size": 64, "max_size": 96,
            "anchors": [8, 16, 32, 64], "proposals_test": 30,
        },
        "decision": {"score_floor": 0.0},
    }
)  # fmt: skip


def saved(folder, task=1, fitted=True, recipe=RECIPE, tasks=TASKS):
    """A checkpoint of a detector with random weights."""
    engine = build_engine(recipe, TASKS.known(task), classes=len(TASKS.classes))
    if fitted:
        random = torch.Generator().manual_seed(0)
        known, unknown = torch.randn(200, generator=random) - 6, torch.randn(200, generator=random) - 1
        engine.head.scorer.fit(known, unknown, source="known")
    save_engine(folder, engine, description(recipe, tasks, task, "fit", "0123"))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for task in (1, 2):
        (folder / "tasks" / str(task)).mkdir(parents=True)
        saved(folder / "tasks" / str(task) / "model", task)
    return folder


@pytest.fixture(scope="module")
def detector(run):
    return OpenWorldDetector.load(run, task=1)


def noise(width=80, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(a, b, atol=1e-5):
    assert a.labels.tolist() == b.labels.tolist()
    torch.testing.assert_close(a.boxes, b.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(a.scores, b.scores, atol=atol, rtol=0)
    torch.testing.assert_close(a.embeddings, b.embeddings, atol=1e-4, rtol=0)


def test_a_run_its_tasks_and_its_checkpoints_can_be_loaded(run):
    newest = OpenWorldDetector.load(run)
    assert newest.task == 2 and newest.names == ("background", "unknown", "cat", "dog", "tree")
    assert newest.known == ("cat", "dog", "tree") and newest.tasks == TASKS
    assert OpenWorldDetector.load(run, task=1).known == ("cat", "dog")
    for path in (run / "tasks" / "1", run / "tasks" / "1" / "model"):
        assert OpenWorldDetector.load(str(path)).task == 1
    assert repr(newest) == "OpenWorldDetector(3 classes after task 2 of toy, cpu)"


def test_room_for_classes_to_come_is_part_of_a_checkpoint(tmp_path):
    """Whatever the task set has become since then."""
    recipe = RECIPE.model_copy(update={"network": RECIPE.network.model_copy(update={"compat": "ore"})})
    longer = TaskSet("toy", (*TASKS.tasks, ("stone",)))
    detector = OpenWorldDetector.load(saved(tmp_path / "model", recipe=recipe, tasks=longer))
    predictor = detector.engine.predictor
    assert detector.known == ("cat", "dog") and predictor.classes == 3
    assert (detector.predict(noise())[0].labels < 4).all()
    detector.engine.grow(["tree"])
    assert len(predictor.classify.bias) == 5 and (predictor(torch.rand(2, 16))[0] > -1).all()
    detector.engine.grow(["stone"])
    assert len(predictor.classify.bias) == 6 == detector.engine.head.outputs


def test_every_form_of_a_picture_is_understood(detector, tmp_path):
    picture = noise()
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    (first,) = detector.predict(picture)
    assert len(first) and first.embeddings.shape == (len(first), 16)
    assert (first.labels >= UNKNOWN).all() and (first.labels < 4).all()
    assert (first.boxes[:, 2] <= 80).all() and (first.boxes[:, 3] <= 60).all()
    for form in (tmp_path / "a.png", str(tmp_path / "a.png"), array, tensor, tensor.float() / 255, [picture], (array,)):
        (found,) = detector.predict(form)
        same(found, first)


def test_several_pictures_of_different_forms_and_sizes(detector):
    pictures = [noise(seed=1), np.asarray(noise(64, 96, seed=2)), as_tensor(noise(seed=3)), noise(30, 31, seed=4)]
    found = detector.predict(pictures, batch_size=3)
    sizes = [(80, 60), (64, 96), (80, 60), (30, 31)]
    assert len(found) == 4 and all(len(each) for each in found)
    for each, (width, height) in zip(found, sizes):
        assert (each.boxes >= 0).all() and (each.boxes <= torch.tensor([width, height, width, height])).all()


def test_the_batch_size_does_not_matter_for_pictures_of_equal_size(detector):
    pictures = [noise(seed=seed) for seed in range(4)]
    for found, alone in zip(detector.predict(pictures, batch_size=4), detector.predict(pictures, batch_size=1)):
        same(found, alone)


def test_what_it_finds_unknown_can_be_named_and_learned(detector, tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(6):
        noise(seed=seed).save(tmp_path / "photos" / f"{seed}.png")
    found = discover(
        detector.predict, tmp_path / "photos", tmp_path / "unknowns", known=detector.known,
        wanted=Wanted(score=0, per_image=3), method="kmeans", groups=1,
    )  # fmt: skip
    found.names.write_text(found.names.read_text().replace("name:\n", "name: stone\n"))
    lesson = learn(found.names, detector.tasks, detector.task, tmp_path / "lesson", record=tmp_path / "learned.json")
    assert lesson.tasks.tasks == (("cat", "dog"), ("stone",))
    assert 6 <= len(lesson.annotations.boxes) <= 18 and len(lesson.annotations.images) == 6


def test_a_batch_of_tensors_is_several_pictures(detector):
    batch = torch.stack([as_tensor(noise(seed=seed)) for seed in range(3)])
    assert len(detector.predict(batch)) == 3


def test_no_picture_nothing_found(detector):
    assert detector.predict([]) == []


def test_predicting_leaves_the_network_in_evaluation_without_gradients(detector):
    detector.predict(noise())
    assert not detector.engine.training and all(p.grad is None for p in detector.engine.parameters())


def test_tiny_pictures(detector):
    assert len(detector.predict([noise(1, 1), noise(1, 300)])) == 2


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((5, 5, 4), dtype=np.uint8), r"\(h, w, 3\) uint8; this one is \(5, 5, 4\) uint8"),
        (np.zeros((5, 5, 3)), "float64"),
        (torch.zeros(5, 5, 3), r"\(3, h, w\)"),
        (torch.zeros(3, 5, 5, dtype=torch.int32), "int32"),
        (torch.zeros(3, 0, 5), "at least one pixel"),
        (torch.full((3, 5, 5), torch.nan), "nan or infinite"),
        (torch.full((3, 5, 5), 200.0), r"scale them to \[0, 1\]"),
        (7, "pictures are paths"),
        ([None], "a picture is a path"),
    ],
)
def test_what_is_no_picture_is_refused(detector, image, says):
    with pytest.raises(ValueError, match=says):
        detector.predict(image)


def test_files_that_cannot_be_read_are_named(detector, tmp_path):
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        detector.predict([noise(), tmp_path / "b.png"])
    with pytest.raises(DataError, match=r"nowhere\.png"):
        detector.predict(tmp_path / "nowhere.png")


def test_a_decision_that_was_never_fitted_is_said(tmp_path):
    saved(tmp_path / "model", fitted=False)
    with pytest.warns(UserWarning, match="fitted") as caught:
        detector = OpenWorldDetector.load(tmp_path / "model")
    assert not detector.fitted and str(tmp_path / "model") in str(caught[0].message)
    assert len(detector.predict(noise())) == 1


def test_a_fitted_decision_needs_no_word(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert OpenWorldDetector.load(run).fitted


def test_folders_that_hold_no_detector(run, tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        OpenWorldDetector.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no detector"):
        OpenWorldDetector.load(tmp_path)
    with pytest.raises(CheckpointError, match="has no finished task 7; there are 1, 2"):
        OpenWorldDetector.load(run, task=7)
    stage = tmp_path / "tasks" / "1" / "train" / "checkpoints"
    stage.mkdir(parents=True)
    saved(stage / "step-00000010")
    with pytest.raises(CheckpointError, match=r"no task of .* is finished: .* as .*step-00000010"):
        find_model(tmp_path)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    folder = saved(tmp_path / "model")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state) + " ")
    with pytest.raises(CheckpointError, match="damaged"):
        OpenWorldDetector.load(folder)


def test_a_device_that_is_not_there(detector):
    with pytest.raises(ValueError, match="cannot go to the device"):
        detector.to("cuda:63")
