"""Data sets in detectron2's catalogues, and Surnia's evaluation behind detectron2's interface."""

import json
from pathlib import Path

import pytest
import torch
from support.drawn import TASKS, draw_set, open_drawn

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.testing import flatten_results_dict, print_csv_format
from detectron2.structures import Boxes, Instances

from detection.data.coco import read_coco
from detection.data.views import test_view as view_of_test
from detection.engines.detectron2 import OpenWorldEvaluator, OpenWorldMapper, register_openworld, register_view
from detection.engines.detectron2.labels import IGNORED, KNOWN_BEFORE
from detection.openworld.replay import choose_exemplars
from detection.tasks import TaskSet
from sslcore.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "evaluation" / "golden_ore"


@pytest.fixture(autouse=True)
def catalogue():
    """What a test registers is gone after it."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return open_drawn(draw_set(tmp_path_factory.mktemp("drawn")))


# --- data ------------------------------------------------------------------------------------------------------------


def test_every_task_and_role_is_a_data_set(drawn):
    names = register_openworld("drawn", drawn)
    assert names == [f"drawn_{task}_{role}" for task in (1, 2) for role in ("train", "val", "test")]
    metadata = MetadataCatalog.get("drawn_2_test")
    assert metadata.thing_classes == ["red", "green", "blue", "yellow", "unknown"]
    assert metadata.evaluator_type == "openworld" and metadata.task == 2
    train, test = DatasetCatalog.get("drawn_1_train"), DatasetCatalog.get("drawn_1_test")
    assert len(train) == 12 and all(Path(image["file_name"]).is_file() for image in train)
    kinds = [{box["category_id"] for image in images for box in image["annotations"]} for images in (train, test)]
    assert kinds == [{0, 1}, {0, 1, 2}]  # later classes are no labels in training, and unknown in the test
    view = view_of_test(drawn.test, TASKS, 1)
    assert [box["bbox"] for box in test[0]["annotations"]] == view.boxes[view.of_image(0)].tolist()
    with pytest.raises(ConfigError, match="drawn_1_train is registered already"):
        register_openworld("drawn", drawn)


def test_exemplars_make_a_set_for_fine_tuning(drawn):
    from detection.data.views import train_view

    manifests = [
        choose_exemplars("random", train_view(drawn.train(task), TASKS, task), per_class=2, seed=0) for task in (1, 2)
    ]
    names = register_openworld("shown", drawn, exemplars=manifests)
    assert "shown_2_finetune" in names
    boxes = [box for image in DatasetCatalog.get("shown_2_finetune") for box in image["annotations"]]
    assert {box["category_id"] for box in boxes} == {0, 1, 2, 3}


def test_detectron2s_loader_takes_them_and_ours_hands_on_what_is_no_object(drawn, small_cfg):
    view = view_of_test(drawn.train(1), TASKS, 1)
    view.ignore[0] = True
    before = [torch.tensor([[1.0, 2.0, 20.0, 30.0]])] * len(view)
    register_view("odd", [view], TASKS, 1, previous=before)
    cfg = small_cfg()
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TRAIN = ("odd",), (128,)
    cfg.INPUT.RANDOM_FLIP = "none"
    stock = next(iter(build_detection_train_loader(cfg)))
    assert stock[0]["image"].shape[1:] == (128, 128)
    assert all((image["instances"].gt_classes >= 0).all() for image in stock)
    image = OpenWorldMapper(cfg, is_train=True)(DatasetCatalog.get("odd")[0])["instances"]
    assert image.gt_classes[0] == IGNORED and image.gt_classes[-1] == KNOWN_BEFORE
    assert image.gt_boxes.tensor[-1].tolist() == [2.0, 4.0, 40.0, 60.0]


# --- evaluation ------------------------------------------------------------------------------------------------------


class Recorded(torch.nn.Module):
    """A detector of detectron2 that finds what a list of COCO results says."""

    def __init__(self, results, class_of):
        super().__init__()
        self.class_of = class_of
        self.by_image = {}
        for record in results:
            self.by_image.setdefault(record["image_id"], []).append(record)

    def forward(self, inputs):
        return [{"instances": self.found(image["image_id"])} for image in inputs]

    def found(self, image_id):
        records = self.by_image.get(image_id, [])
        boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = [self.class_of[record["category_id"]] for record in records]
        return Instances(
            (10_000, 10_000),
            pred_boxes=Boxes(boxes),  # in float32, as detectron2 keeps them
            pred_classes=torch.tensor(classes, dtype=torch.int64),
            scores=torch.tensor([record["score"] for record in records]),
        )


def judged(results, annotations, tasks, task, tmp_path=None, **options):
    """What detectron2's `inference_on_dataset` makes of recorded detections; and the evaluator."""
    name = register_view("recorded", [view_of_test(annotations, tasks, task)], tasks, task)
    known = tasks.known(task)
    ids = dict(zip(annotations.categories, annotations.category_ids))
    class_of = {ids[category]: number for number, category in enumerate(known)} | {tasks.unknown_id: len(known)}
    evaluator = OpenWorldEvaluator(name, tmp_path, **options)
    images = [{"image_id": image.id} for image in annotations.images]
    batches = [images[first : first + 3] for first in range(0, len(images), 3)]
    return inference_on_dataset(Recorded(results, class_of), batches, evaluator), evaluator


@pytest.mark.parametrize("case", ["t1_unique", "t1_dup", "t2_unique", "t2_dup"])
def test_mode_ore_gives_the_originals_numbers_behind_detectron2s_interface(case):
    recorded = json.loads((GOLDEN / f"case_{case}.json").read_text())
    results = json.loads((GOLDEN / f"detections_t{recorded['task']}.json").read_text())
    tasks = TaskSet("golden", tuple(map(tuple, recorded["tasks"])))
    _, evaluator = judged(
        results, read_coco(GOLDEN / "annotations.json"), tasks, recorded["task"], modes=("ore",),
        image_list=recorded["image_list"],
    )  # fmt: skip

    def near(expected):
        if isinstance(expected, dict):
            return {key: near(value) for key, value in expected.items()}
        return None if expected is None else pytest.approx(expected, abs=1e-12)

    assert {key: evaluator.results["ore"][key] for key in recorded["expected"]} == near(recorded["expected"])


def test_results_are_numbers_that_detectron2_prints_and_files_hold_the_rest(drawn, tmp_path):
    view = view_of_test(drawn.test, TASKS, 1)
    of_unknown = dict.fromkeys(drawn.test.categories, TASKS.unknown_id)
    ids = of_unknown | {name: drawn.test.category_ids[drawn.test.categories.index(name)] for name in TASKS.known(1)}
    results = [
        {"image_id": drawn.test.images[image].id, "category_id": ids[drawn.test.categories[category]],
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "score": 0.9}
        for image, box, category in zip(drawn.test.box_image, drawn.test.boxes, drawn.test.box_category)
    ]  # fmt: skip
    found, evaluator = judged(results, drawn.test, TASKS, 1, tmp_path / "out")
    assert set(found) == {"strict", "ore"}
    assert found["strict"]["map_both"] == found["strict"]["u_recall"] == 1.0 and found["strict"]["a_ose"] == 0
    assert all(isinstance(value, float) for value in flatten_results_dict(found).values())
    print_csv_format(found)
    written = json.loads((tmp_path / "out/openworld_results.json").read_text())
    assert written["strict"]["map_both"] == 1.0 and isinstance(evaluator.results["strict"]["ap_per_class"], dict | list)
    assert len(json.loads((tmp_path / "out/openworld_detections.json").read_text())) == len(results) == len(view.boxes)


def test_a_class_that_the_test_images_do_not_know_may_be_found(tmp_path):
    folder = draw_set(tmp_path / "drawn")
    content = json.loads((folder / "test.json").read_text())
    yellow = next(each["id"] for each in content["categories"] if each["name"] == "yellow")
    content["categories"] = [each for each in content["categories"] if each["id"] != yellow]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] != yellow]
    (folder / "test.json").write_text(json.dumps(content))
    register_openworld("lacking", open_drawn(folder))
    evaluator = OpenWorldEvaluator("lacking_2_test")
    image = DatasetCatalog.get("lacking_2_test")[0]
    found = Instances(
        (64, 64),
        pred_boxes=Boxes(torch.tensor([[1.0, 1.0, 30.0, 30.0]])),
        pred_classes=torch.tensor([TASKS.known(2).index("yellow")]),
        scores=torch.tensor([0.9]),
    )
    evaluator.process([image], [{"instances": found}])
    evaluator.evaluate()
    assert evaluator.results["strict"]["detections"] == 1
    assert evaluator.results["strict"]["ap_per_class"]["yellow"] is None


def test_sets_without_one_complete_annotation_are_refused(drawn):
    view = view_of_test(drawn.test, TASKS, 1)
    register_view("two", [view, view], TASKS, 1)
    with pytest.raises(ConfigError, match="the data set two has no complete annotation"):
        OpenWorldEvaluator("two")
