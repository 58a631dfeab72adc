import pytest
from PIL import Image

from detection.data.problems import Problems
from detection.data.voc import read_voc, splits
from detection.tasks import TaskSet
from sslcore.errors import DataError


def annotation(*objects, width=60, height=40):
    things = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox><part><name>head</name></part></object>"
        for name, box, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>whatever.jpg</filename>{size}{things}</annotation>"


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOC2007"

    def make(files, split="trainval", listed=None):
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for stem, text in files.items():
            (root / "Annotations" / f"{stem}.xml").write_text(text)
            Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"{stem}.jpg")
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed or "\n".join(files) + "\n")
        return root

    return make


def refused(root, split="trainval"):
    with pytest.raises(DataError) as caught:
        read_voc(root, split)
    return str(caught.value).replace(f"{root}/", "").splitlines()


def test_reads_a_split(voc):
    root = voc(
        {
            "000005": annotation(("dog", (1, 1, 60, 40), 0), ("cat", (8, 12, 9, 12), 1)),
            "000002": annotation(),
            "000009": annotation(("cat", ("2.5", 3, "10.0", 5), 0)),
        }
    )
    ours = read_voc(root, "trainval")
    assert [(i.id, i.file_name, i.width, i.height) for i in ours.images] == [
        ("000005", "000005.jpg", 60, 40),
        ("000002", "000002.jpg", 60, 40),
        ("000009", "000009.jpg", 60, 40),
    ]
    # From counting pixels from 1, the last included, to half-open.
    assert ours.boxes.tolist() == [[0, 0, 60, 40], [7, 11, 9, 12], [1.5, 2, 10, 5]]
    assert ours.area.tolist() == [2400, 2, 25.5]
    assert ours.box_image.tolist() == [0, 0, 2]
    assert ours.difficult.tolist() == [False, True, False]
    assert (ours.categories, ours.category_ids) == (("cat", "dog"), (1, 2))
    assert ours.box_category.tolist() == [1, 0, 0]
    assert ours.box_ids.tolist() == [1, 2, 3]
    assert ours.path(2) == root / "JPEGImages" / "000009.jpg"
    assert ours.source == str(root / "ImageSets/Main/trainval.txt")


def test_every_split_has_the_same_ids_with_tasks(voc):
    tasks = TaskSet("t", (("dog",), ("sofa", "cat")), aliases={"couch": "sofa"})
    root = voc({"a": annotation(("yak", (1, 1, 2, 2), 0), ("couch", (1, 1, 2, 2), 0))})
    ours = read_voc(root, "trainval", tasks=tasks)
    assert ours.categories == ("dog", "sofa", "cat", "yak")
    assert ours.category_ids == (1, 2, 3, 4)
    assert ours.box_category.tolist() == [3, 1]


def test_lists_of_single_classes_and_other_suffixes(voc):
    root = voc({"a": annotation(), "b": annotation()}, split="dog_train", listed="a  1\nb -1\n\n")
    (root / "JPEGImages" / "b.jpg").rename(root / "JPEGImages" / "b.PNG")
    (root / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    assert [i.file_name for i in read_voc(root, "dog_train").images] == ["a.jpg", "b.PNG"]
    assert splits(root) == ["test"]


def test_an_image_listed_again_is_read_once(voc):
    root = voc({"a": annotation(("dog", (1, 1, 2, 2), 0))}, listed="a\na\n")
    problems = Problems()
    ours = read_voc(root, "trainval", problems=problems)
    assert (len(ours.images), len(ours.boxes)) == (1, 1)
    assert [(p.fatal, p.id) for p in problems] == [(False, "a")]


def test_a_list_of_files_names_the_same_images(voc):
    root = voc({"a": annotation(), "b.jpg": annotation(), "c": annotation()}, listed="a.JPG\nb.jpg\nd.png\na\n")
    problems = Problems()
    assert [image.id for image in read_voc(root, "trainval", problems=problems).images] == ["a", "b.jpg"]
    assert [(p.fatal, p.id) for p in problems] == [(False, "a"), (True, "d")]
    assert "d.xml is missing" in problems[1].sentence


BOMB = '<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY l2 "&lol;&lol;">]><annotation>&l2;</annotation>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "a.xml declares a document type or entities"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "a.xml declares a document type"),
        ("<annotation>", "a.xml is not XML ("),
        ("", "a.xml is not XML ("),
        ("<annotation/>", "a.xml the image has no size/width"),
        (annotation(width=0), "a.xml gives the image the size 0.0 x 40.0"),
        (annotation(height="tall"), "a.xml the image has size/height 'tall', which is no finite number"),
        (annotation(("dog", (1, 1, "nan", 2), 0)), "a.xml object 1 (dog) has bndbox/xmax 'nan', which is no finite"),
        (annotation(("", (1, 1, 2, 2), 0)), "a.xml object 1 has no name"),
        (annotation(("dog", (1, 1, 2, 2), "?")), "a.xml object 1 (dog) has difficult '?'"),
        (
            annotation().replace("</annotation>", "<object><name>dog</name></object></annotation>"),
            "a.xml object 1 (dog)",
        ),
        (" " * (1 << 20) + "<annotation/>", "a.xml cannot be read ("),
    ],
)
def test_annotation_files_that_cannot_be_used(voc, text, said):
    root = voc({"a": text, "b": annotation()})
    (line,) = refused(root)
    assert line.startswith(f"Annotations  {said}")
    problems = Problems()
    assert [i.id for i in read_voc(root, "trainval", problems=problems).images] == ["b"]
    assert [(p.fatal, p.id) for p in problems] == [(True, "a")]


def test_a_bomb_in_another_encoding(voc):
    root = voc({"a": ""})
    (root / "Annotations" / "a.xml").write_bytes(BOMB.encode("utf-16"))
    assert "not UTF-8" in refused(root)[0]


def test_missing_parts(voc, tmp_path):
    root = voc({"a": annotation()}, listed="a\nb\n../../secret\n")
    said = refused(root)
    assert any("is no name of an image" in line for line in said)
    assert any("b.xml is missing" in line for line in said)
    with pytest.raises(DataError, match=r"there is no .*test\.txt; splits there: trainval"):
        read_voc(root, "test")
    with pytest.raises(DataError, match="as Pascal VOC's are laid out"):
        read_voc(tmp_path, "trainval")
