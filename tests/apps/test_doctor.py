import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps import cli, doctor
from apps.folder_check import Finding, inspect
from apps.recipes import load
from apps.suggest import Machine, suggest
from apps.suggest_detection import suggest_detection
from detection.data.openworld import open_data
from detection.data.scenes.openscenes import make_openscenes
from detection.data.settings import OpenScenesData
from detection.tasks import TaskSet
from detection.training.recipe import DetectionRecipe
from rl.envs import doctor as environments
from sslcore import yaml_source
from sslcore.errors import DataError
from sslcore.pretrain.recipe import MoCoSettings, Recipe
from sslcore.pretrain.run import build

CPU, GPU = Machine(0, False, 2), Machine(1, True, 16)


def picture(path, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 7).save(path)


def pictures(folder, count, **keywords):
    for i in range(count):
        picture(folder / f"{i:03}.png", **keywords)


@pytest.fixture
def surnia(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        code = cli.main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# --- recognising -----------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    pictures(tmp_path / "cat", 12)
    pictures(tmp_path / "dog" / "deeper", 9)
    pictures(tmp_path / "eel", 2)
    finding = inspect(tmp_path)
    assert (finding.title, finding.kind, finding.path) == ("class folders", "folder", tmp_path)
    assert finding.splits == {"train": 23}
    assert finding.classes == {"cat": 12, "dog": 9, "eel": 2}
    assert finding.nearly_empty == {"eel": 2}
    assert finding.types == {".png": 23}
    assert (set(finding.sizes), finding.side, finding.sound) == ({(40, 30)}, 30, True)


def test_loose_images(tmp_path):
    pictures(tmp_path, 3)
    finding = inspect(tmp_path)
    assert (finding.title, finding.classes, finding.images) == ("loose images", {}, 3)
    assert finding.notes == []


def test_folders_that_are_no_classes_because_of_loose_images_are_mentioned(tmp_path):
    pictures(tmp_path / "a", 2)
    pictures(tmp_path / "b", 2)
    pictures(tmp_path, 3)
    finding = inspect(tmp_path)
    assert (finding.title, finding.classes, finding.problems) == ("loose images", {}, [])
    assert finding.notes[0].startswith("2 folders and 3 images beside them: so the folders are not taken for classes")


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_split_folders(tmp_path, held_out):
    for split, count in {"train": 4, held_out: 2}.items():
        pictures(tmp_path / split / "a", count)
        pictures(tmp_path / split / "b", count)
    finding = inspect(tmp_path)
    assert finding.title == "train/ and other splits of class folders"
    assert finding.splits == {"train": 8, held_out: 4}
    assert (finding.path, finding.problems) == (tmp_path, [])


def test_a_held_out_split_with_another_class_is_a_problem(tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/c"):
        pictures(tmp_path / name, 2)
    (problem,) = inspect(tmp_path).problems
    assert "has the class folder 'c', which" in problem


def test_no_folder_name_hides_a_problem_of_the_held_out_split(tmp_path):
    folder = tmp_path / "beside its train"  # words of another error
    for name in ("train/a", "train/b", "val/a", "val/c"):
        pictures(folder / name, 2)
    assert len(inspect(folder).problems) == 1


def idx(path, array):
    data = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data))


def fashion(folder, train=50, test=20):
    for prefix, count in {"train": train, "t10k": test}.items():
        idx(folder / f"{prefix}-images-idx3-ubyte.gz", np.zeros((count, 28, 28), np.uint8))
        idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype(np.uint8))


def test_fashion_mnist(tmp_path):
    fashion(tmp_path)
    finding = inspect(tmp_path)
    assert (finding.title, finding.kind, finding.grey) == ("Fashion-MNIST", "fashion_mnist", True)
    assert finding.splits == {"train": 50, "test": 20}
    assert set(finding.classes.values()) == {5}
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "lacks t10k-labels-idx1-ubyte" in inspect(tmp_path).problems[0]
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="get it again"):
        inspect(tmp_path)


def test_cifar_10_binaries(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        np.zeros((4, 3073), np.uint8).tofile(folder / name)
    finding = inspect(tmp_path)
    assert (finding.title, finding.kind, finding.splits) == ("CIFAR-10", "cifar10", {"train": 20, "test": 4})


def test_cifar_pickles_are_not_opened_unless_they_are_the_published_ones(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(DataError, match="opened only when their checksums are right"):
        inspect(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_stl_10_binaries(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part, count in {"train": 2, "test": 1, "unlabeled": 3}.items():
        np.zeros((count, 3 * 96 * 96), np.uint8).tofile(folder / f"{part}_X.bin")
        np.ones(count, np.uint8).tofile(folder / f"{part}_y.bin")
    finding = inspect(tmp_path)
    assert (finding.kind, finding.splits, finding.side) == ("stl10", {"train": 5, "test": 1}, 96)
    assert finding.classes["airplane"] == 2


def coco(folder, name, pictures, categories=(7,), **changes):
    """A COCO json of the pictures, one box of each category in the first of them."""
    content = {
        "images": [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(pictures)],
        "categories": [{"id": c, "name": {7: "owl", 8: "elk"}[c]} for c in categories],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": c, "bbox": [1, 1, 9, 9]} for i, c in enumerate(categories)
        ],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return content


def test_coco(tmp_path):
    pictures(tmp_path / "train2017", 3)
    pictures(tmp_path / "val2017", 1)
    names = [f"{i:03}.png" for i in range(4)]
    coco(tmp_path / "annotations", "instances_train2017.json", names, categories=(7, 8))
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"images": [], "annotations": []}')
    finding = inspect(tmp_path)
    assert finding.path == tmp_path / "train2017"
    assert finding.title.startswith("COCO annotations (instances_train2017.json), 2 boxes of 2 classes")
    (problem,) = finding.problems
    assert problem.endswith(f"instances_train2017.json  image 3: {tmp_path}/train2017/003.png does not exist")


def test_boxes_are_validated(tmp_path):
    pictures(tmp_path / "images", 2)
    names = ["000.png", "001.png"]
    boxes = [[1, 1, 9, 9], [30, 20, 20, 20], [1, 1, 0, 4], [1, 1, None, 4]]
    annotations = [{"id": i, "image_id": 0, "category_id": 7, "bbox": box} for i, box in enumerate(boxes)]
    coco(tmp_path, "train.json", names, annotations=annotations)
    coco(tmp_path, "val.json", names[1:])
    coco(tmp_path, "more.json", names)
    finding = inspect(tmp_path)
    fatal = [problem.partition("  ")[2] for problem in finding.problems]
    assert fatal[0] == "annotation 3 has a bbox that is not four numbers: [1, 1, None, 4]"
    assert "is among the images of train" in fatal[1]
    notes = " ".join(finding.notes)
    assert "annotation 2: box (1, 1, 1, 5) of image 0, 40 x 30, has no area and is ignored" in notes
    assert "annotation 1: box (30, 20, 50, 40) of image 0, 40 x 30, reaches out of the image and is clipped" in notes
    assert "more.json  is not looked at" in notes


def test_a_damaged_coco_json_is_not_passed_by(tmp_path):
    pictures(tmp_path, 2)
    coco(tmp_path, "train.json", ["000.png"])
    whole = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(whole[:-1])
    with pytest.raises(DataError, match="is not JSON"):
        inspect(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"images": 3}', "[]", "\ud800".encode("utf-8", "surrogatepass")])
def test_json_that_is_not_coco_is_passed_by(tmp_path, text):
    pictures(tmp_path, 2)
    (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert inspect(tmp_path).title == "loose images"


def test_pascal_voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    pictures(root / "JPEGImages", 3)
    pictures(root / "SegmentationClass", 2)
    (root / "Annotations").mkdir()
    size = "<size><width>40</width><height>30</height></size>"
    box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    owl = f"<annotation>{size}<object><name>owl</name><bndbox>{box}</bndbox></object></annotation>"
    for name in ("000", "002"):
        (root / "Annotations" / f"{name}.xml").write_text(owl)
    (root / "Annotations" / "001.xml").write_text("<annotation><object>")
    finding = inspect(tmp_path)
    assert (finding.path, finding.images) == (root / "JPEGImages", 3)
    assert finding.title.startswith("Pascal VOC (VOC2007), 2 boxes of 1 classes")
    (problem,) = finding.problems
    assert "001.xml is not XML" in problem
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, listed in {"trainval": "000\n", "test": "002\n"}.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
    finding = inspect(tmp_path)
    assert {role: len(ours.images) for role, ours in finding.annotated.sets.items()} == {"train": 1, "test": 1}
    assert finding.problems == []


# --- opening ---------------------------------------------------------------------------------------------------------


def test_broken_files_are_named(tmp_path):
    pictures(tmp_path, 20)
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    whole = (tmp_path / "000.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.png").touch()
    finding = inspect(tmp_path)
    assert [path.rpartition("/")[2] for path, _ in finding.broken] == ["a.jpg", "b.png", "c.png"]
    assert (finding.images, finding.sound) == (20, False)


def test_only_a_share_is_opened_when_asked(tmp_path):
    pictures(tmp_path, 20)
    seen = []
    finding = inspect(tmp_path, limit=7, progress=lambda items, count: seen.append(count) or items)
    assert (finding.opened, len(finding.sizes), seen) == (7, 7, [7])


@pytest.mark.parametrize("make", ["empty", "file"])
def test_nothing_to_look_at(tmp_path, make):
    place = tmp_path / "x"
    place.mkdir() if make == "empty" else place.touch()
    with pytest.raises(DataError, match=r"no images|unpack archives first"):
        inspect(place)


# --- suggesting ------------------------------------------------------------------------------------------------------


def finding(images, side, **more):
    return Finding(
        "loose images", "folder", more.pop("path", Path("pictures")), {"train": images}, sizes=[(side, side)], **more
    )


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("images", [16, 17, 100, 1000, 60_000, 2_000_000])
@pytest.mark.parametrize("side", [9, 28, 32, 50, 64, 96, 128, 500])
def test_every_suggestion_is_a_valid_recipe_that_fits(tmp_path, machine, images, side):
    file = tmp_path / "r.yaml"
    file.write_text(suggest(finding(images, side, path=tmp_path), machine))
    recipe = load(str(file), [], Recipe).recipe
    assert recipe.batch_size <= images
    assert recipe.views[0].size <= max(side, 8)
    assert recipe.backbone.name == "tiny" if machine is CPU else recipe.backbone.name.startswith("resnet")
    steps = recipe.epochs * images / recipe.batch_size
    assert steps <= (45_000 if machine is GPU else 10_000)


@pytest.mark.parametrize("gpus", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("images", [16, 40, 70, 130, 300, 1000, 60_000])
def test_a_suggestion_starts_on_its_machine_and_no_statistics_give_pairs_away(tmp_path, gpus, images):
    file = tmp_path / "r.yaml"
    file.write_text(suggest(finding(images, 64, path=tmp_path), Machine(gpus, True, 4)))
    recipe = load(str(file), [], Recipe).recipe
    processes = max(1, gpus) if recipe.devices == "auto" else recipe.devices
    assert processes <= max(1, gpus)
    assert recipe.batch_size % processes == 0
    if isinstance(recipe.method, MoCoSettings):
        share = recipe.batch_size // processes
        assert recipe.method.norm_splits > 1
        assert share % recipe.method.norm_splits == 0
        assert share // recipe.method.norm_splits >= 4


def test_a_recipe_says_what_machine_it_is_for(tmp_path):
    for cores, said in ((1, "# For a CPU with 1 core. "), (2, "# For a CPU with 2 cores. ")):
        assert said in suggest(finding(100, 64, path=tmp_path), Machine(0, False, cores))


def test_both_methods_are_suggested(tmp_path):
    names = [
        yaml_source.read_yaml(suggest(finding(n, 64, path=tmp_path), CPU), name="r").values["method"]["name"]
        for n in (16, 100, 1000)
    ]
    assert names == ["simclr", "moco", "simclr"]


def test_many_broken_images_do_not_keep_the_suggested_recipe_from_starting(surnia, tmp_path):
    pictures(tmp_path / "p", 40)
    for i in range(130):
        (tmp_path / "p" / f"broken{i:03}.jpg").write_bytes(b"x")
    code, _, _ = surnia("doctor", "--data", "p", "--write-recipe", "r.yaml")
    assert code == 1
    recipe = load("r.yaml", [], Recipe).recipe
    assert recipe.data.bad_images == 130
    assert len(build(recipe).images) == 40


def test_broken_images_are_reckoned_from_those_that_were_opened():
    found = finding(10_000, 64, opened=1000, broken=[("x", "broken")] * 50)
    assert 500 < found.broken_at_most < 1000
    assert found.images == 10_000 - found.broken_at_most
    few = finding(100, 64, opened=100, broken=[("x", "broken")] * 3)
    assert few.broken_at_most == 3
    assert "bad_images" not in suggest(few, CPU), "the default allows them"


def test_grey_images_get_no_changes_of_colour(tmp_path):
    text = suggest(finding(60_000, 28, grey=True, path=tmp_path), CPU)
    assert "saturation: 0.0, hue: 0.0, grayscale: 0.0" in text


def test_a_name_cannot_break_out_of_the_comment(tmp_path):
    found = finding(100, 32, path=tmp_path / 'a\n"b: c')
    found.title = "COCO annotations (x\nseed: 666)"
    (tmp_path / "r.yaml").write_text(suggest(found, CPU))
    recipe = load(str(tmp_path / "r.yaml"), [], Recipe).recipe
    assert recipe.seed == 0
    assert recipe.data.path == str(tmp_path / 'a\n"b: c')


def test_too_few_images():
    with pytest.raises(DataError, match="has 3 usable images, and pretraining needs 16 at the very least"):
        suggest(finding(3, 32), CPU)


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_sound_folder_gets_a_recipe_and_the_next_commands(surnia, tmp_path):
    for name in ("cat", "dog"):
        pictures(tmp_path / "my pictures" / name, 20)
    code, out, err = surnia("doctor", "--data", "my pictures", "--write-recipe", "owls.yaml")
    assert (code, err) == (0, "")
    for line in (
        "class folders",
        "40 train",
        "2, of 20 to 20 training images",
        "40 .png",
        "40 x 30 pixels",
        "all, 0 broken",
    ):
        assert line in out
    assert out.rpartition("Wrote ")[2].splitlines() == [
        "owls.yaml.",
        "Next:",
        "  surnia pretrain owls.yaml --dry-run",
        "  surnia pretrain owls.yaml --run runs/owls",
        "  surnia evaluate knn runs/owls --data 'my pictures'",
    ]
    recipe = load("owls.yaml", [], Recipe).recipe
    assert recipe.data.path == str(tmp_path / "my pictures")
    assert recipe.batch_size == 8


def test_without_a_file_it_says_how_to_get_one(surnia, tmp_path):
    pictures(tmp_path / "p", 20)
    code, out, _ = surnia("doctor", "--data", "p")
    assert code == 0
    assert "  surnia doctor --data p --write-recipe surnia.yaml\n" in out
    assert not (tmp_path / "surnia.yaml").exists()
    assert "evaluate" not in out, "nothing to evaluate without labels"


def test_broken_images_are_told_and_give_code_1(surnia, tmp_path):
    pictures(tmp_path / "p", 20)
    for i in range(12):
        (tmp_path / "p" / f"broken{i:02}.jpg").write_bytes(b"[bold]x")
    code, out, _ = surnia("doctor", "--data", "p")
    assert code == 1
    assert "all, 12 broken" in out
    assert "p/broken00.jpg is not an image that Surnia reads" in out
    assert "broken10" not in out
    assert "... and 2 more broken images." in out


def test_nearly_empty_classes_are_a_remark(surnia, tmp_path):
    for name, count in {"cat": 30, "dog": 30, "[red]eel": 1}.items():
        pictures(tmp_path / "p" / name, count)
    code, out, _ = surnia("doctor", "--data", "p")
    assert code == 0
    assert "Nearly empty classes: [red]eel (1)." in out


def test_too_few_images_give_code_1(surnia, tmp_path):
    pictures(tmp_path / "p", 3)
    code, out, _ = surnia("doctor", "--data", "p", "--write-recipe", "r.yaml")
    assert code == 1
    assert "Too few images to pretrain on: 3 can be used" in out
    assert not (tmp_path / "r.yaml").exists()


def test_a_recipe_is_never_overwritten(surnia, tmp_path):
    pictures(tmp_path / "p", 20)
    (tmp_path / "r.yaml").write_text("mine")
    code, _, err = surnia("doctor", "--data", "p", "--write-recipe", "r.yaml")
    assert code == 3
    assert err == "r.yaml exists already and is never overwritten; give another name to --write-recipe\n"
    assert (tmp_path / "r.yaml").read_text() == "mine"


def test_the_machine(surnia, monkeypatch):
    code, out, _ = surnia("doctor")
    assert code == 0
    for word in ("Python", "torch", "torchvision", "pytorch-lightning", ", bf16", "GPU", "Next: surnia demo"):
        assert word in out

    versions = {"torch": None, "detectron2": None, "faiss-cpu": "1.11"}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, real(name)))
    code, out, _ = surnia("doctor")
    assert code == 1
    assert "Missing: torch. Install with: pip install torch" in out
    lines = out.splitlines()
    upstream = "'git+https://github.com/facebookresearch/detectron2.git'"
    assert f"  python -m pip install --no-build-isolation {upstream}" in lines
    assert "  pip install faiss-cpu" not in lines


def test_what_control_lacks(surnia, monkeypatch):
    monkeypatch.setattr(environments, "_version", {"gymnasium": "1.4.0"}.get)
    code, out, _ = surnia("doctor")
    assert code == 0
    lines = out[out.index("Control from pixels") :].splitlines()
    assert lines[1] == "  stable-baselines3 is missing (the agent): pip install 'surnia[control]'"
    assert lines[2] == "  gymnasium 1.4.0"
    assert "  mujoco is missing (the tasks of dm_control): pip install 'surnia[dmc]'" in lines
    assert lines[-1].endswith("or surnia control train pixelreach.")


# --- detection -------------------------------------------------------------------------------------------------------


@pytest.fixture
def annotated(tmp_path):
    """A folder with three annotated splits, and a task file."""
    data = tmp_path / "data"
    pictures(data / "images", 6)
    for i, split in enumerate(("train", "val", "test")):
        coco(data, f"{split}.json", [f"{2 * i:03}.png", f"{2 * i + 1:03}.png"], categories=(7, 8))
    (tmp_path / "tasks.yaml").write_text("name: birds\ntasks: [[owl], [elk]]\n")
    return data


def detection_recipe(file):
    return DetectionRecipe.model_validate(yaml_source.read_yaml(file.read_text(), name="r").values)


def test_a_detection_recipe(surnia, annotated, tmp_path):
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml", "--write-recipe", "mine.yaml")
    assert code == 0, said
    assert "2 images, 2 boxes of 2 classes" in said
    assert "surnia detect train mine.yaml" in said
    recipe = detection_recipe(tmp_path / "mine.yaml")
    assert recipe.data.train == [str(annotated / "train.json")]
    opened = open_data(recipe.data)
    assert (opened.tasks.classes, len(opened.test.images)) == (("owl", "elk"), 2)


def test_a_detection_recipe_of_one_file_a_task(surnia, annotated, tmp_path):
    (annotated / "train.json").rename(annotated / "train_1.json")
    (annotated / "train_2.json").write_bytes((annotated / "train_1.json").read_bytes())
    assert surnia("doctor", "--data", "data", "--tasks", "tasks.yaml", "--write-recipe", "mine.yaml")[0] == 0
    recipe = detection_recipe(tmp_path / "mine.yaml")
    assert recipe.data.train == [str(annotated / f"train_{task}.json") for task in (1, 2)]
    (annotated / "train_2.json").unlink()
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 1
    assert "training annotations of 1 tasks, and birds has 2" in said


def test_fatal_problems_of_annotations_fail(surnia, annotated, tmp_path):
    coco(annotated, "test.json", ["004.png", "000.png"], categories=(7, 8))
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml", "--write-recipe", "mine.yaml")
    assert code == 1
    assert "image 1, 000.png, is among the images of train" in said
    assert not (tmp_path / "mine.yaml").exists()
    # Without a task file the same is found; what follows is pretraining.
    assert surnia("doctor", "--data", "data")[0] == 1


def test_links_to_training_images_fail_and_copies_of_them_are_named(surnia, annotated):
    images = annotated / "images"
    for place, file in enumerate(sorted(images.iterdir())):
        Image.new("RGB", (40, 30), place).save(file)
    (images / "copy.png").write_bytes((images / "001.png").read_bytes())
    coco(annotated, "test.json", ["004.png", "copy.png"], categories=(7, 8))
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 0
    told = (
        "data/test.json  image 1, copy.png, has the same content as 001.png among the images of train (data/train.json)"
    )
    assert [line for line in said.splitlines() if "same content" in line] == [f"{told}; leave one of them out"]
    (images / "copy.png").unlink()
    (images / "copy.png").symlink_to("001.png")
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 1
    assert "image 1, copy.png, is among the images of train (data/train.json) too, as 001.png" in said


def test_a_task_file_that_does_not_fit(surnia, annotated, tmp_path):
    (tmp_path / "tasks.yaml").write_text("name: birds\ntasks: [[owls], [elk]]\n")
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 1
    assert "no class of task 1 is annotated (owls); the file's classes are elk, owl" in said
    (tmp_path / "tasks.yaml").write_text("name: birds\ntasks: [[owl], [owl]]\n")
    code, _, complaint = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 2
    assert "tasks.yaml:2:17  class 'owl' is in task 1 and again in task 2" in complaint


def test_the_recipe_names_the_folder_with_the_pictures_and_a_missing_one_is_named(surnia, annotated, tmp_path):
    (annotated / "images").rename(annotated / "pictures")
    assert surnia("doctor", "--data", "data", "--tasks", "tasks.yaml", "--write-recipe", "mine.yaml")[0] == 0
    assert detection_recipe(tmp_path / "mine.yaml").data.images == str(annotated / "pictures")
    (annotated / "pictures" / "000.png").unlink()
    code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 1
    assert "data/train.json  image 0: data/pictures/000.png does not exist" in said
    assert "none of its" not in said


def test_splits_with_folders_of_their_own_get_the_one_around_these(surnia, annotated, tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        (annotated / split).mkdir()
        for name in (f"{2 * number:03}.png", f"{2 * number + 1:03}.png"):
            (annotated / "images" / name).rename(annotated / split / name)
    assert surnia("doctor", "--data", "data", "--tasks", "tasks.yaml", "--write-recipe", "mine.yaml")[0] == 0
    recipe = detection_recipe(tmp_path / "mine.yaml")
    assert recipe.data.images == str(annotated)
    assert open_data(recipe.data).val.folder == annotated / "val"


@pytest.mark.parametrize(
    ("split", "text", "wrong"),
    [
        ("val", '{"images": [', "is not JSON ("),
        ("val", "", "is not JSON ("),
        ("train", '{"images": [], "categories": []}', "has no 'annotations'; give a COCO json"),
    ],
)
def test_a_broken_annotation_file_is_named_and_not_called_absent(surnia, annotated, split, text, wrong):
    (annotated / f"{split}.json").write_text(text)
    for tasks in (["--tasks", "tasks.yaml"], []):
        code, said, err = surnia("doctor", "--data", "data", *tasks)
        assert code == 1, err
        assert f"data/{split}.json  {wrong}" in said


def test_broken_files_alone_are_named_where_annotations_are_expected(surnia, annotated):
    for split in ("train", "val", "test"):
        (annotated / f"{split}.json").write_text('{"images": [')
    code, _, complaint = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
    assert code == 3
    assert "data/val.json  is not JSON (" in complaint


def test_annotated_classes_of_no_task_are_mentioned(surnia, annotated, tmp_path):
    def notes():
        code, said, _ = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml")
        assert code == 0, said
        return [line for line in said.splitlines() if "unknown" in line]

    assert notes() == []
    names = {7: "owl", 8: "elk", 9: "ship", 10: "cart", 11: "house", 12: "owls"}
    content = json.loads((annotated / "train.json").read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    content["annotations"] = [
        {"id": number, "image_id": 0, "category_id": number, "bbox": [1, 1, 9, 9]} for number in names
    ]
    (annotated / "train.json").write_text(json.dumps(content))
    said = "annotated and in no task of birds, count as unknown; if 'owls' is 'owl', rename it"
    assert notes() == [f"data/train.json  'owls', 'ship', 'cart' and 1 more, {said}"]


def test_a_missing_split_is_named(surnia, annotated):
    (annotated / "val.json").unlink()
    code, _, complaint = surnia("doctor", "--data", "data", "--tasks", "tasks.yaml", "--write-recipe", "mine.yaml")
    assert code == 3
    assert "has none for val (found: train.json, test.json)" in complaint


def test_tasks_need_annotations(surnia, tmp_path):
    pictures(tmp_path / "data", 3)
    code, _, complaint = surnia("doctor", "--data", "data", "--tasks", "m_owodb")
    assert code == 3
    assert "holds no annotations that --tasks could be for" in complaint
    code, _, complaint = surnia("doctor", "--tasks", "m_owodb")
    assert code == 2
    assert "--tasks  needs --data DIR" in complaint


def test_openscenes(surnia, tmp_path):
    make_openscenes("M", "tiny", folder=tmp_path / "scenes")
    code, said, _ = surnia("doctor", "--data", "scenes", "--write-recipe", "mine.yaml")
    assert code == 0, said
    assert "OpenScenes (train_1.json, train_2.json, train_3.json, train_4.json, val.json, test.json)" in said
    recipe = detection_recipe(tmp_path / "mine.yaml")
    assert recipe.data == OpenScenesData(path=str(tmp_path / "scenes"), workers=recipe.data.workers)
    picture(tmp_path / "scenes" / "images" / "more.png")
    code, said, _ = surnia("doctor", "--data", "scenes")
    assert code == 1
    assert "is not as it was made: images/more.png was added" in said


def test_detection_recipes_for_gpus_and_large_images(annotated):
    found = inspect(annotated, tasks=TaskSet("birds", (("owl",), ("elk",))))
    for machine, names in {CPU: ["tiny"] * 3, GPU: ["resnet18_fpn", "resnet18_fpn", "resnet50_fpn"]}.items():
        for side, name in zip((30, 400, 480), names, strict=True):
            found.sizes = [(4 * side // 3, side)]
            text = suggest_detection(found, "m_owodb", machine)
            recipe = DetectionRecipe.model_validate(yaml_source.read_yaml(text, name="r").values)
            assert recipe.network.name == name
            assert (recipe.data.tasks, recipe.precision) == ("m_owodb", "bf16" if machine is GPU else "32")
