"""M-OWODB, S-OWODB and VOC-COCO from small trees; expected values are read off `support.releases` by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.releases import A, C, small_releases, write_coco, write_voc

from detection.data.coco import read_coco
from detection.data.openworld import open_files
from detection.data.owod.building import Order, build
from detection.data.views import test_view as view_of_test
from detection.data.views import train_view
from detection.evaluation import GroundTruth
from detection.structures import UNKNOWN
from sslcore.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    return small_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def order(releases, tmp_path):
    def make(benchmark="m_owodb", **changes):
        voc, coco = releases
        return replace(Order(benchmark, voc, coco, tmp_path / "out", val=1, as_published=True), **changes)

    return make


def lines(folder, name):
    return (folder / "as_published" / f"{name}.txt").read_text().split()


def names(annotations):
    return [image.file_name for image in annotations.images]


def counts(built):
    return {count.what: count for count in built.counts}


# --- M-OWODB ---------------------------------------------------------------------------------------------------------


def test_published_lists_follow_the_rules_line_by_line(order):
    out = build(order()).folder
    assert lines(out, "t1_train") == ["000005", "000007", "000009", "000012", "2007_000027", "2008_000002"]
    assert lines(out, "t2_train") == [f"{n:012}" for n in (9, 25, 30, 34, 36, 42)]
    assert lines(out, "t3_train") == [f"{n:012}" for n in (25, 42, 49)]
    assert lines(out, "t4_train") == [f"{n:012}" for n in (25, 61, 71)]
    voc, of_2, of_3, of_4 = ["000139", "000001"], [139, 285], [139, 724], [139]
    assert lines(out, "all_task_test") == [*voc, *(f"{n:012}" for n in (*of_2, *of_3, *of_4))]


def test_files_hold_each_image_once_and_none_in_two_roles(order):
    built = build(order())
    train = [read_coco(built.folder / f"train_{task}.json") for task in range(1, 5)]
    val, test = (read_coco(built.folder / f"{role}.json") for role in ("val", "test"))
    assert names(test) == [
        "voc2007/000139.jpg", "voc2007/000001.jpg", "val2017/000000000139.jpg", "val2017/000000000285.jpg",
        "val2017/000000000724.jpg",
    ]  # fmt: skip
    held = set(names(val))
    assert len(held) == 4
    for task, ours in enumerate(train, start=1):
        listed = {f"{name}.jpg" for name in lines(built.folder, f"t{task}_train")}
        kept = {name.rpartition("/")[2] for name in names(ours)}
        # The image whose only object of task 2 has no area is left with nothing of it.
        bare = {"000000000034.jpg"} if task == 2 else set()
        assert kept == listed - bare - {name.rpartition("/")[2] for name in held}
    assert not held & {name for ours in train for name in names(ours)}
    assert built.images["train_2"] == len(train[1].images)


def test_the_same_number_in_voc_and_coco_is_two_images(order):
    truth = GroundTruth.from_coco(build(order()).folder / "test.json")
    assert truth.image_ids == (1_000_000_139, 1_000_000_001, 139, 285, 724)


def test_an_image_of_voc_2012_that_is_of_2007_is_none_of_voc_2007(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    write_voc(voc / "VOC2007", {"val": {"000027": [("dog", A)]}})
    (voc / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").write_text("000027\n")
    built = build(order(voc=voc, coco=coco, val=0))
    ids = [image.id for image in read_coco(built.folder / "train_1.json").images]
    assert ids == [1_000_000_027, 2_007_000_027, 2_008_000_002]


def test_everything_is_annotated_under_one_name_with_cocos_ids(order):
    out = build(order()).folder
    test = read_coco(out / "test.json")
    found = {}
    for row, category in enumerate(test.box_category.tolist()):
        found.setdefault(names(test)[test.box_image[row]], []).append(test.categories[category])
    assert found["voc2007/000139.jpg"] == ["person", "diningtable"]
    assert found["val2017/000000000285.jpg"] == ["bear", "diningtable"], "COCO's dining table"
    assert found["val2017/000000000139.jpg"] == ["person", "truck", "pizza", "cup"]
    coco = json.loads((order().coco / "annotations" / "instances_val2017.json").read_text())
    assert test.category_ids == tuple(entry["id"] for entry in coco["categories"])


def test_all_six_classes_that_coco_calls_otherwise(order):
    out = build(order("s_owodb", val=0)).folder
    found = set()
    for name in ("train_1", "train_2", "train_3", "train_4", "test"):
        ours = read_coco(out / f"{name}.json")
        found |= {ours.categories[category] for category in ours.box_category.tolist()}
    assert {"aeroplane", "diningtable", "motorbike", "pottedplant", "sofa", "tvmonitor"} <= found
    assert not {"airplane", "dining table", "motorcycle", "potted plant", "couch", "tv"} & found


def test_flags_and_boxes_of_both_releases(order):
    out = build(order(val=0)).folder
    first, second, test = (read_coco(out / f"{name}.json") for name in ("train_1", "train_2", "test"))
    assert first.boxes[0].tolist() == [2, 2, 30, 28], "counted from 0, half-open"
    assert [first.categories[c] for c in first.box_category[first.difficult].tolist()] == ["dog"]
    crowds = [(names(second)[i], second.categories[c]) for i, c in zip(
        second.box_image[second.crowd].tolist(), second.box_category[second.crowd].tolist(), strict=True
    )]  # fmt: skip
    assert crowds == [("train2017/000000000030.jpg", "bear")]
    outside = second.boxes[second.box_image == names(second).index("train2017/000000000036.jpg")]
    assert outside.tolist() == [[50, 50, 64, 64], [2, 2, 30, 28]], "clipped to the picture"
    assert test.boxes[-2].tolist() == [33, 3, 60, 31]


def test_counts_are_those_of_the_rules_and_say_why_the_files_differ(order):
    found = counts(build(order(val=0)))
    by_rule = {what: (count.published, count.by_rule, count.written) for what, count in found.items()}
    assert by_rule["images, training, task 1"] == (16_551, 6, 6)
    assert by_rule["objects, training, task 1"] == (47_223, 8, 8)
    assert by_rule["images, training, task 2"] == (45_520, 6, 5)
    assert by_rule["objects, training, task 2"] == (113_741, 6, 5)
    assert by_rule["lines of the test list"] == (10_246, 7, 5)
    assert by_rule["images, test"] == (9_119, 5, 5)
    assert by_rule["objects, test, task 1"] == (14_976, 3, 5)
    assert by_rule["objects, test, task 2"] == (4_966, 2, 2)
    assert found["images, training, task 2"].why == "other files; 1 show nothing of it that has an area"
    assert found["objects, training, task 2"].why == "other files; 1 without area"
    assert found["lines of the test list"].why == "other files; an image of several tasks is listed once"
    assert "2 more in COCO's images" in found["objects, test, task 1"].why
    held = counts(build(order(out=order().out.with_name("held"))))
    assert "1 held out to fit the decision on" in held["images, training, task 1"].why


def test_equal_counts_need_no_reason(order, monkeypatch):
    monkeypatch.setattr(
        "detection.data.owod.building.published_counts",
        lambda name: {
            "train_images": [6, 6, 3, 3], "train_instances": [8, 6, 3, 4], "test_lines": 7, "test_images": 5,
            "test_instances": [3, 2, 2, 1],
        },
    )  # fmt: skip
    found = counts(build(order(val=0)))
    assert found["images, training, task 1"].why == ""
    assert found["objects, test, task 3"].why == ""
    assert found["lines of the test list"].why == "an image of several tasks is listed once"


def test_what_is_built_is_what_training_reads(order):
    built = build(order())
    out = built.folder
    train = [str(out / f"train_{task}.json") for task in range(1, 5)]
    data = open_files(built.tasks, train, str(out / "val.json"), str(out / "test.json"), out / "images")
    assert data.train(1).path(0).is_file()
    of_2 = train_view(data.train(2), built.tasks, 2)
    assert {of_2.names[label] for label in of_2.labels.tolist()} <= set(built.tasks.current(2))
    assert set(of_2.box_image.tolist()) == set(range(len(of_2))), "no image is empty"
    seen = view_of_test(data.test, built.tasks, 1)
    assert int((seen.labels == UNKNOWN).sum()) == 5, "truck, pizza, cup, bear, cake"


def test_objects_as_the_original_converts_them(order):
    out = build(order(val=0)).folder
    ours, theirs = read_coco(out / "test.json"), read_coco(out / "as_published" / "test.json")
    assert names(ours) == names(theirs)
    of_voc = ours.box_image < 2
    assert np.array_equal(ours.boxes[of_voc], theirs.boxes[of_voc])
    # 34, 34.5, 28, 25.25: int(x + 1), int(y + 1), int(x + w + 1), int(y + h + 1) = 35, 35, 63, 60, counted from 1.
    cup = [theirs.categories[c] for c in theirs.box_category.tolist()].index("cup")
    assert ours.boxes[cup].tolist() == [34, 34.5, 62, 59.75]
    assert theirs.boxes[cup].tolist() == [34, 34, 63, 60]


def test_held_out_images_depend_on_ids_and_seed_alone(order, tmp_path):
    first = names(read_coco(build(order()).folder / "val.json"))
    again = names(read_coco(build(order(out=tmp_path / "again")).folder / "val.json"))
    others = [names(read_coco(build(order(out=tmp_path / str(s), seed=s)).folder / "val.json")) for s in range(1, 5)]
    assert first == again
    assert any(other != first for other in others)


def test_published_validation_images_can_be_given(order, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "all_task_val.txt").write_text("000005\n000000000025\n000000000025\n")
    (tmp_path / "lists" / "t1_train.txt").write_text("2008_000002\n2007_000027\n000005\n000007\n000009\n000012\n")
    (tmp_path / "lists" / "all_task_test.txt").write_text("000139\n000001\n000000000139\n000000000777\n")
    built = build(order(lists=tmp_path / "lists"))
    assert [note for note in built.notes if "released" in note] == [
        "The released t1_train.txt (6 lines) is what the rules give.",
        "The released all_task_test.txt (4 lines) has 1 lines that the rules do not give, and lacks 4 that they give.",
    ]
    out = built.folder
    assert names(read_coco(out / "val.json")) == ["voc2007/000005.jpg", "train2017/000000000025.jpg"]
    assert "train2017/000000000025.jpg" not in names(read_coco(out / "train_3.json"))
    (tmp_path / "lists" / "all_task_val.txt").write_text("000005\n999999\n")
    with pytest.raises(DataError, match="names 1 images that are not among those of the given folders, '999999'"):
        build(order(lists=tmp_path / "lists", out=tmp_path / "other"))
    (tmp_path / "lists" / "all_task_val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"all_task_val\.txt names no image; give the folder of the released lists"):
        build(order(lists=tmp_path / "lists", out=tmp_path / "other"))
    (tmp_path / "lists" / "all_task_val.txt").write_text("000000000025\n000000000042\n000000000049\n")
    with pytest.raises(
        DataError, match=r"all_task_val\.txt leaves 0 of 3 images to train task 3 on; give the released"
    ):
        build(order(lists=tmp_path / "lists", out=tmp_path / "other"))


# --- S-OWODB and VOC-COCO --------------------------------------------------------------------------------------------


def test_s_owodb_needs_coco_alone(order):
    built = build(order("s_owodb", voc=None, val=0))
    out = built.folder
    assert lines(out, "t1_train") == [f"{n:012}" for n in (9, 25, 30, 34, 42, 64, 71)]
    assert lines(out, "t2_train") == ["000000000036", "000000000071"]
    assert lines(out, "all_task_test") == [f"{n:012}" for n in (139, 285, 632, 724)], "776 has no annotation"
    assert sorted(path.name for path in (out / "images").iterdir()) == ["train2017", "val2017"]
    found = counts(built)
    assert (found["objects, test, task 1"].by_rule, found["objects, test, task 1"].published) == (5, 17_786)
    # A zebra without area, but a person, who is of the same task here.
    assert built.images["train_1"] == 7


def test_voc_coco_draws_its_test_sets_by_the_rule(order):
    out = build(order("voc_coco")).folder
    assert names(read_coco(out / "train_1.json")) == [
        "voc2007/000005.jpg", "voc2007/000007.jpg", "voc2012/2007_000027.jpg", "voc2012/2008_000002.jpg",
    ]  # fmt: skip
    val = names(read_coco(out / "val.json"))
    assert val[:2] == ["voc2007/000009.jpg", "voc2007/000012.jpg"]
    assert "val2017/000000000776.jpg" not in val, "without annotation"
    of_voc = ["voc2007/000139.jpg", "voc2007/000001.jpg"]
    assert names(read_coco(out / "test.json")) == of_voc
    found = {name: names(read_coco(out / f"{name}.json")) for name in ("test_20_40", "test_20_60", "test_2500")}
    assert all(listed[:2] == of_voc for listed in found.values())
    coco = {name: [int(n[10:-4]) for n in listed[2:]] for name, listed in found.items()}
    # Of the first 20 further classes and no later one, without a person: a bench with a sofa, a crowd of bears.
    assert coco["test_20_40"] == [30, 36]
    assert coco["test_20_60"] == [30, 36, 42, 49]
    # Nothing of Pascal VOC's classes in it: not 36 (sofa), not 34 (person), not 71 (motorbike).
    assert coco["test_2500"] == [25, 30, 42, 49, 61]


def test_each_class_has_its_share_of_the_drawn_images():
    """300 images with a truck and 100 with a bench each; 40 objects drawn: 30 and 10."""
    from detection.data.annotations import AnnotationSet, ImageRecord
    from detection.data.owod.open_set import OpenSet, _drawn

    kinds = np.array([0] * 300 + [1] * 100 + [2] * 50)
    pool = AnnotationSet(
        images=tuple(ImageRecord(i, f"train2017/{i}.jpg", 9, 9) for i in range(450)),
        categories=("truck", "bench", "kite"),
        category_ids=(1, 2, 3),
        box_image=np.arange(450),
        boxes=np.tile([1.0, 1, 5, 5], (450, 1)),
        box_category=kinds,
        crowd=np.zeros(450, dtype=bool),
        difficult=np.zeros(450, dtype=bool),
        area=np.full(450, 16.0),
        box_ids=np.arange(450),
    )
    chosen = _drawn(pool, OpenSet("test_20_40", 40, 1000, first=40), seed=0)
    assert np.bincount(kinds[chosen], minlength=3).tolist() == [30, 10, 0], "a kite is of a later group"
    fewer = _drawn(pool, OpenSet("test_20_40", 40, 25, first=40), seed=0)
    assert len(set(fewer.tolist())) == 25
    assert set(_drawn(pool, OpenSet("test_9", 80, 1000), seed=0).tolist()) == set(range(450))


def test_voc_coco_takes_the_published_lists(order, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    sizes = ("20_40", "20_60", "20_80", "2500", "5000", "10000", "20000")
    for name in sizes[1:]:
        (lists / f"voc_coco_{name}_test.txt").write_text("000139\n000000000009\n")
    with pytest.raises(DataError, match=r"has no voc_coco_20_40_test\.txt; give datasets/voc_coco_ann"):
        build(order("voc_coco", lists=lists))
    (lists / "voc_coco_20_40_test.txt").write_text("000139\n000000000061\n")
    built = build(order("voc_coco", lists=lists))
    listed = names(read_coco(built.folder / "test_20_40.json"))
    assert listed == ["voc2007/000139.jpg", "train2017/000000000061.jpg"]
    assert not any("drawn anew" in note for note in built.notes)
    assert counts(built)["images, test_20_60"].why == "other files"
    drawn = counts(build(order("voc_coco", out=tmp_path / "drawn")))
    assert drawn["images, test_20_60"].why == "drawn anew, by lot"
    assert drawn["images, test_2500"].why == drawn["images, test"].why == "other files"


# --- what can go wrong -----------------------------------------------------------------------------------------------


def refused(order):
    with pytest.raises(DataError) as caught:
        build(order)
    assert not order.out.exists() or not any(order.out.iterdir())
    assert not [path for path in order.out.parent.iterdir() if path.name.startswith(".")], "nothing half-made is left"
    return str(caught.value)


def test_folders_that_are_not_given_or_swapped(order, releases, tmp_path):
    voc, coco = releases
    assert refused(order(voc=None, coco=None)).splitlines() == [
        "--voc is missing: give the folder that VOC2007 and VOC2012 lie in, such as VOCdevkit",
        "--coco is missing: give the folder that COCO's annotations, train2017 and val2017 lie in",
    ]
    said = refused(order(voc=coco, coco=voc))
    assert "looks like COCO's folder" in said and "looks like Pascal VOC's folder" in said
    assert "is one year of Pascal VOC: give the folder above it" in refused(order(voc=voc / "VOC2007"))
    assert "is the folder of the annotations: give the one above it" in refused(order(coco=coco / "annotations"))
    assert "has no folder VOC2007 nor VOC2012" in refused(order(voc=tmp_path))
    assert build(order(voc=voc.parent)).folder.is_dir(), "the folder above VOCdevkit will do"


def test_parts_that_are_missing_are_named_with_their_archives(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    (voc / "VOC2007" / "ImageSets" / "Main" / "test.txt").unlink()
    (voc / "VOC2012").rename(tmp_path / "gone")
    (coco / "annotations" / "instances_val2017.json").unlink()
    (coco / "train2017").rename(tmp_path / "train2017")
    said = refused(order(voc=voc, coco=coco)).splitlines()
    assert len(said) == 4
    assert any("test.txt is missing: unpack VOCtest_06-Nov-2007.tar there, too" in line for line in said)
    assert any("VOC2012 is missing: unpack VOCtrainval_11-May-2012.tar" in line for line in said)
    assert any("instances_val2017.json is missing: unpack annotations_trainval2017.zip" in line for line in said)
    assert any("train2017 is missing: unpack train2017.zip" in line for line in said)


def test_pictures_that_are_missing_are_counted_unless_none_are_wanted(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    (coco / "train2017" / "000000000025.jpg").unlink()
    said = refused(order(voc=voc, coco=coco, val=0))
    assert "1 of 5 pictures are not in" in said and "'000000000025.jpg'" in said and "--no-pictures" in said
    without = tmp_path / "without"
    small_releases(without, pictures=False)
    built = build(order(voc=without / "VOCdevkit", coco=without / "coco", pictures=False))
    assert not (built.folder / "images").exists()
    assert built.images["test"] == 5


def test_annotations_of_something_else(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    write_voc(voc / "VOC2007", {"test": {"holiday": [("dog", A)]}})
    assert "1 images that are not numbered as VOC 2007's" in refused(order(voc=voc, coco=coco))
    (coco / "annotations" / "instances_val2017.json").write_text("{}")
    assert "has no 'images'" in refused(order(coco=coco))


def test_broken_annotations_are_told_by_file_and_id(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    (voc / "VOC2007" / "Annotations" / "000005.xml").write_text("<annotation>")
    (voc / "VOC2012" / "Annotations" / "2008_000002.xml").unlink()
    said = refused(order(voc=voc, coco=coco))
    assert "000005.xml is not XML" in said and "; unpack it anew" in said
    assert "2008_000002.xml is missing; unpack the annotations anew, or take the image off its list" in said


def test_an_image_that_a_list_names_twice_is_told(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    (voc / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("000139\n000139\n")
    built = build(order(voc=voc, coco=coco))
    assert any("000139 is listed again; it is read once" in note for note in built.notes)


def test_a_class_that_neither_release_has_is_told(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    file = voc / "VOC2007" / "Annotations" / "000005.xml"
    file.write_text(file.read_text().replace("person", "persn"))
    (note,) = [note for note in build(order(voc=voc, coco=coco)).notes if "classes" in note]
    assert note.startswith("Objects of classes that neither Pascal VOC nor COCO has (train): 'persn' (1); they are")
    assert not [note for note in build(order(out=tmp_path / "right")).notes if "classes" in note]


def test_too_many_held_out(order):
    assert "--val 1000 leaves 0 of 6 images to train task 1 on; hold out fewer with --val" in refused(order(val=1000))


def test_a_folder_that_holds_something_is_never_touched(order, tmp_path):
    (tmp_path / "out").mkdir()
    build(order())
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir())
    with pytest.raises(DataError, match="already holds something and is never overwritten; name a new folder"):
        build(order())
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="already holds something"):
        build(order(out=tmp_path / "file"))


@pytest.mark.parametrize("step", [1, 4, 12, 20])
def test_a_failure_on_the_way_leaves_nothing(order, monkeypatch, tmp_path, step):
    monkeypatch.setenv("SURNIA_FAULT", f"error:{step}")
    with pytest.raises(CheckpointError, match="no space left"):
        build(order())
    monkeypatch.delenv("SURNIA_FAULT")
    assert list(tmp_path.iterdir()) == []


def test_somebody_who_fills_the_folder_meanwhile_keeps_it(order, monkeypatch, tmp_path):
    from detection.data.owod import building

    real = building.find_sources

    def meanwhile(*args, **options):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("all of it")
        return real(*args, **options)

    monkeypatch.setattr(building, "find_sources", meanwhile)
    with pytest.raises(CheckpointError, match="out: directory not empty; name a new folder"):
        build(order())
    assert (tmp_path / "out" / "thesis.txt").read_text() == "all of it"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_pictures_are_linked_to_not_copied(order):
    built = build(order())
    links = {path.name: path for path in (built.folder / "images").iterdir()}
    assert set(links) == {"voc2007", "voc2012", "train2017", "val2017"}
    assert all(path.is_symlink() and path.readlink().is_absolute() for path in links.values())
    assert (links["voc2007"] / "000139.jpg").is_file()


def test_pictures_may_lie_in_a_folder_of_their_own(order, tmp_path):
    voc, coco = small_releases(tmp_path)
    (coco / "images").mkdir()
    for split in ("train2017", "val2017"):
        (coco / split).rename(coco / "images" / split)
    assert (build(order(voc=voc, coco=coco)).folder / "images" / "val2017" / "000000000139.jpg").is_file()


def test_a_written_file_reads_back_as_it_was(order, tmp_path):
    write_coco(tmp_path, "val2017", {7: [("pizza", (1.25, 2.5, 10.1, 20.3), "crowd"), ("person", C)]})
    voc = read_coco(build(order(val=0)).folder / "train_1.json")
    assert voc.difficult.any() and voc.area[0] == 28 * 26
    from detection.data.coco_text import coco_text

    ours = read_coco(tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "again.json").write_bytes(b"".join(coco_text(ours)))
    again = read_coco(tmp_path / "again.json")
    assert again.images == ours.images
    for name in ("box_image", "box_category", "crowd", "difficult", "box_ids"):
        assert np.array_equal(getattr(again, name), getattr(ours, name))
    assert np.allclose(again.boxes, ours.boxes, atol=1e-9)
    assert '"bbox": [1.25, 2.5, 10.1, 20.3]' in (tmp_path / "again.json").read_text()
