import json
import time

import numpy as np
import pytest

from detection.data.coco import read_coco
from detection.data.problems import SHOWN, Problems
from detection.tasks import TaskSet
from sslcore.errors import DataError


def image(number, **changes):
    return {"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48, **changes}


def box(number, image_id, category, bbox=(1, 2, 10, 20), **changes):
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": list(bbox), **changes}


def content(**changes):
    return {
        "images": [image(3), image(1), image(2)],
        "annotations": [
            box(30, 2, 7, area=55.5, iscrowd=1),
            box(10, 3, 7, area=44),
            box(20, 2, 5, (0.5, 0, 3, 4)),
        ],
        "categories": [{"id": 7, "name": "couch"}, {"id": 5, "name": "dog"}],
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def write(value, name="a.json"):
        file = tmp_path / name
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return file

    return write


@pytest.fixture
def refused(write, tmp_path):
    def refused(value):
        with pytest.raises(DataError) as caught:
            read_coco(write(value))
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return refused


def test_reads_arrays_grouped_by_image(write, tmp_path):
    file = write(content())
    ours = read_coco(file, images=tmp_path / "pictures")
    assert [(i.id, i.file_name, i.width, i.height) for i in ours.images] == [
        (3, "3.jpg", 64, 48),
        (1, "1.jpg", 64, 48),
        (2, "2.jpg", 64, 48),
    ]
    assert (ours.categories, ours.category_ids) == (("couch", "dog"), (7, 5))
    # Image 1 has no box and stays; boxes of an image keep the file's order.
    assert ours.box_image.tolist() == [0, 2, 2]
    assert ours.box_ids.tolist() == [10, 30, 20]
    assert ours.boxes.tolist() == [[1, 2, 11, 22], [1, 2, 11, 22], [0.5, 0, 3.5, 4]]
    assert ours.box_category.tolist() == [0, 0, 1]
    assert ours.crowd.tolist() == [False, True, False]
    assert ours.difficult.tolist() == [False] * 3
    assert ours.area.tolist() == [44, 55.5, 12]
    assert (ours.path(2), ours.source) == (tmp_path / "pictures" / "2.jpg", str(file))


def test_canonical_names(write):
    tasks = TaskSet("t", (("sofa",),), aliases={"couch": "sofa"})
    assert read_coco(write(content()), tasks=tasks).categories == ("sofa", "dog")


def test_distractors_of_scenes(write):
    scenes = content(
        distractors=[{"id": 1, "image_id": 2, "bbox": [1, 1, 2, 2]}, {"image_id": 3, "bbox": [0, 0, 4, 5]}]
    )
    ours = read_coco(write(scenes))
    assert ours.distractor_image.tolist() == [0, 2]
    assert ours.distractors.tolist() == [[0, 0, 4, 5], [1, 1, 3, 3]]
    chosen = ours.select([2])
    assert (chosen.distractor_image.tolist(), chosen.distractors.tolist()) == ([0], [[1, 1, 3, 3]])


def test_nothing_annotated(write):
    ours = read_coco(write(content(annotations=[])))
    assert (len(ours.images), ours.boxes.shape, ours.area.shape) == (3, (0, 4), (0,))
    assert len(read_coco(write({"images": [], "annotations": [], "categories": []})).images) == 0


def test_text_ids(write):
    value = content(images=[image("a/b"), image("é")], annotations=[box(1, "é", 7)])
    ours = read_coco(write(value))
    assert [i.id for i in ours.images] == ["a/b", "é"]
    assert ours.box_image.tolist() == [1]


@pytest.mark.parametrize("names", [[None] * 3, [4, 4, 5], ["a", "b", "c"], [1, 2, 2**70]])
def test_annotations_are_numbered_where_their_ids_do_not_serve(write, names):
    entries = [{**entry, "id": name} for entry, name in zip(content()["annotations"], names, strict=True)]
    problems = Problems()
    ours = read_coco(write(content(annotations=entries)), problems=problems)
    assert ours.box_ids.tolist() == [2, 1, 3]
    assert [(p.fatal, "numbered from 1" in p.sentence) for p in problems] == [(False, True)]


def test_where_only_ids_matter_images_need_neither_name_nor_size(write):
    images = [{"id": 3}, {"id": 1, "width": 64, "file_name": None}, image(2, file_name="/data/../2.jpg"), {"id": "x"}]
    ours = read_coco(write(content(images=images)), by_ids=True)
    assert [(i.id, i.file_name, i.width, i.height) for i in ours.images] == [
        (3, "", 0, 0),
        (1, "", 64, 0),
        (2, "/data/../2.jpg", 64, 48),
        ("x", "", 0, 0),
    ]
    assert ours.box_ids.tolist() == [10, 30, 20]
    for entry, said in (
        ({"width": 64}, "has no id"),
        ({"id": 9, "height": "48"}, "height must be a whole number"),
        ({"id": 9, "file_name": 7}, "file_name must be text"),
        ({"id": 3}, "image id 3 is given to more than one image"),
    ):
        with pytest.raises(DataError, match=said):
            read_coco(write(content(images=[*images, entry])), by_ids=True)


BROKEN_FILES = {
    "not JSON": "{",
    "empty": "",
    "a list": "[]",
    "a number": "7",
    "nested": "[" * 200_000,
    "a huge number": '{"images": ' + "9" * 100_000 + "}",
    "no categories": '{"images": [], "annotations": []}',
    "an object for a list": '{"images": {}, "annotations": [], "categories": []}',
    "distractors": '{"images": [], "annotations": [], "categories": [], "distractors": 3}',
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_is_no_coco_json(refused, name):
    said = refused(BROKEN_FILES[name])
    assert len(said) == 1
    assert "a.json" in said[0]
    assert "give a COCO json" in said[0]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*missing\.json: no such file"):
        read_coco(tmp_path / "missing.json")
    (tmp_path / "latin.json").write_bytes(b'{"images": "\xff\xfe\xfa"}')
    with pytest.raises(DataError, match="not JSON"):
        read_coco(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (7, "image 2: is no object but 7"),
        ({"id": 4}, "image 2: id 4 has no file_name and no width and no height"),
        (image(True), "image 2: its id must be a whole number or text, not True"),
        (image(1.5), "image 2: its id must be a whole number or text, not 1.5"),
        (image(4, file_name=["x"]), "image 2: id 4: file_name must be text, not ['x']"),
        (image(4, file_name="/etc/passwd"), "image 2: id 4: '/etc/passwd' leads out of the images' folder"),
        (image(4, file_name="a/../../b.jpg"), "image 2: id 4: 'a/../../b.jpg' leads out of"),
        (image(4, file_name="..\\b.jpg"), "image 2: id 4:"),
        (image(4, file_name="a\nb"), "image 2: id 4: file_name must be text"),
        (image(4, width=0), "image 2: id 4: width must be a whole number of pixels, not 0"),
        (image(4, height="48"), "image 2: id 4: height must be a whole number of pixels, not '48'"),
        (image(4, height=float("nan")), "image 2: id 4: height must be a whole number of pixels, not nan"),
        (image(4, width=10**40), "image 2: id 4: width must be a whole number of pixels, not a huge number"),
        (image(1), "image id 1 is given to more than one image"),
        (image(4, file_name="1.jpg"), "image 4: '1.jpg' is listed twice"),
        (image(4, file_name="./1.jpg"), "image 4: './1.jpg' is listed twice"),
    ],
)
def test_images_that_cannot_be_used(refused, entry, said):
    (line,) = refused(content(images=[image(1), entry], annotations=[]))
    assert line.startswith(f"a.json  {said}")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ([], "annotation number 2 is no object but []"),
        ({"id": 4}, "annotation 4 has no image_id and no category_id and no bbox"),
        (box(4, 1, 7, "1234"), "annotation 4 has a bbox that is not four numbers: ['1', '2', '3', '4']"),
        (box(4, 1, 7, [1, 2, 3]), "annotation 4 has a bbox that is not four numbers: [1, 2, 3]"),
        (box(4, 1, 7, [[1], 2, 3, 4]), "annotation 4 has a bbox that is not four numbers"),
        (box(4, 1, 7, [None, 2, 3, 4]), "annotation 4 has a bbox that is not four numbers"),
        (box(4, 1, 7, [2**70, 2, 3, 4]), "annotation 4 has values out of range"),
        ({**box(4, 1, 7), "bbox": None}, "annotation 4 has a bbox that is not four numbers: None"),
        ({**box(4, 1, 7), "bbox": {"x": 1}}, "annotation 4 has a bbox that is not four numbers"),
        (box(4, 1, 7, iscrowd=2), "annotation 4 has iscrowd 2, which must be 0 or 1"),
        (box(4, 1, 7, iscrowd="0"), "annotation 4 has iscrowd '0'"),
        (box(4, 1, 7, area="9"), "annotation 4 has area '9'"),
        (box(4, 1, 7, area=-9), "annotation 4 has area -9"),
        (box(4, [1], 7), "annotation 4 has values out of range"),
        (box(4, 1, {}), "annotation 4 has values out of range"),
        (box(4, 9, 7), "annotation 4 has unknown image id 9"),
        (box(4, "1", 7), "annotation 4 has unknown image id '1'"),
        (box(4, 1, 8), "annotation 4 has unknown category id 8"),
        (box(4, 1, None), "annotation 4 has unknown category id None"),
        (box(4, 1, 7, [1, float("nan"), 3, 4]), "annotation 4 has a box or area that is not finite: [1.0, nan, 3.0"),
        (box(4, 1, 7, [1, 2, float("inf"), 4]), "annotation 4 has a box or area that is not finite"),
        (box(4, 1, 7, [1e308, 2, 1e308, 4]), "annotation 4 has a box or area that is not finite"),
        (box(4, 1, 7, area=float("nan")), "annotation 4 has a box or area that is not finite"),
    ],
)
def test_annotations_that_cannot_be_used(write, refused, tmp_path, entry, said):
    value = content(images=[image(1)], annotations=[box(3, 1, 7), entry, box(5, 1, 5)])
    (line,) = refused(value)
    assert line.startswith(f"a.json  {said}")
    # Reading goes on without it, so that everything else can be looked at too.
    problems = Problems()
    ours = read_coco(write(value), problems=problems)
    assert ours.box_ids.tolist() in ([3, 5], [1, 3], [1, 2])
    assert [p.fatal for p in problems if "numbered" not in p.sentence] == [True]


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        ([{"id": "7", "name": "couch"}], "category 1 needs a whole number as id and a name"),
        ([{"id": 7}], "category 1 needs a whole number as id and a name"),
        ([None], "category 1 needs a whole number as id and a name"),
        ([{"id": -7, "name": "couch"}], "category 1 needs a whole number as id and a name"),
        ([{"id": 7, "name": "a"}, {"id": 7, "name": "b"}], "category id 7 is given to 'a' and to 'b'"),
        ([{"id": 7, "name": "a"}, {"id": 8, "name": "a"}], "categories 7 and 8 are both called 'a'"),
    ],
)
def test_categories_that_cannot_be_used(refused, categories, said):
    (line,) = refused(content(categories=categories, annotations=[]))
    assert line.startswith(f"a.json  {said}")


def test_everything_wrong_is_said_at_once(refused):
    value = content(annotations=[box(1, 3, 7, "ab"), box(2, 9, 7), box(3, 3, 9), box(4, 3, 7)])
    assert refused(value) == [
        "a.json  annotation 1 has a bbox that is not four numbers: ['a', 'b']",
        "a.json  annotation 2 has unknown image id 9",
        "a.json  annotation 3 has unknown category id 9",
    ]


def test_many_offenders_are_counted(refused):
    said = refused(content(annotations=[box(i, 3, 99) for i in range(1000)]))
    assert len(said) == SHOWN + 1
    assert said[-1] == "a.json  and 980 more annotations of unknown categories"


def test_control_characters_do_not_reach_a_terminal(refused):
    (line,) = refused(content(images=[image("\x1b[2J", width=0)], annotations=[]))
    assert line.isprintable()


def test_a_large_file_costs_little_more_than_its_json(write):
    rng = np.random.default_rng(0)
    sides = rng.uniform(1, 40, (60_000, 4)).round(2).tolist()
    entries = [box(i, i % 5000, 7, side, area=9.5, iscrowd=0) for i, side in enumerate(sides)]
    file = write(content(images=[image(i) for i in range(5000)], annotations=entries))
    started = time.process_time()
    json.loads(file.read_bytes())
    plain = time.process_time() - started
    started = time.process_time()
    ours = read_coco(file)
    assert len(ours.boxes) == 60_000
    assert time.process_time() - started < 6 * plain + 0.5
    order = np.argsort(np.arange(60_000) % 5000, kind="stable")
    assert np.array_equal(ours.box_ids, order)
    assert np.allclose(ours.boxes[:, 2:] - ours.boxes[:, :2], np.array(sides)[order][:, 2:])


def test_outlines_are_not_read_and_nothing_else_is_lost(write):
    outlines = [
        [[1.5, 2, -3e1, 4.25], [1, 2]],
        {"counts": [3, 4, 5], "size": [48, 64]},
        {"counts": "WPh0\\12]1O[", "size": [48, 64]},
        [],
    ]
    plain = [box(i, 1, 7, area=i) for i in range(5)]
    first = [{"segmentation": outline, **entry} for outline, entry in zip(outlines, plain)]
    last = [{**entry, "segmentation": outline} for outline, entry in zip(outlines, plain)]
    tricky = image(1, file_name='a "segmentation": [1].jpg')
    expected = read_coco(write(content(images=[tricky], annotations=plain[:4])))
    for entries in (first, last):
        ours = read_coco(write(content(images=[tricky], annotations=entries)))
        assert ours.images == expected.images
        assert np.array_equal(ours.boxes, expected.boxes)
        assert ours.area.tolist() == [0, 1, 2, 3]


def test_a_mistake_behind_an_outline_is_placed_where_it_is_in_the_file(write):
    text = json.dumps(content(annotations=[box(1, 1, 7, segmentation=[[1, 2, 3, 4]])]))
    with pytest.raises(DataError, match=rf"\(char {len(text) - 1}\)"):
        read_coco(write(text[:-1] + "]"))
