import numpy as np
import pytest

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.joining import image_number, joined
from sslcore.errors import DataError


def part(ids, categories, boxes=()):
    """`boxes` are (image, category) by place."""
    count = len(boxes)
    return AnnotationSet(
        images=tuple(ImageRecord(i, f"{i}.jpg", 9, 9) for i in ids),
        categories=tuple(categories),
        category_ids=tuple(categories.values()),
        box_image=np.array([image for image, _ in boxes], dtype=np.int64),
        boxes=np.tile([1.0, 2, 3, 4], (count, 1)),
        box_category=np.array([category for _, category in boxes], dtype=np.int64),
        crowd=np.zeros(count, dtype=bool),
        difficult=np.zeros(count, dtype=bool),
        area=np.full(count, 4.0),
        box_ids=np.arange(1, count + 1),
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("000139", 1_000_000_139), ("2007_000139", 2_007_000_139), ("2012_004331", 2_012_004_331), (139, 139),
        ("139", None), ("holiday", None), (1_000_000_139, None), (-1, None),
    ],
)  # fmt: skip
def test_numbers_that_never_meet(name, number):
    assert image_number(ImageRecord(name, "a.jpg", 1, 1)) == number


def test_categories_are_matched_by_name_and_numbered_as_in_coco():
    voc = part(["000001"], {"dog": 1, "gnu": 2}, [(0, 0), (0, 1)])
    coco = part([5, 7], {"person": 1, "dog": 18}, [(1, 1), (1, 0)])
    ours = joined([("voc2007", voc), ("val2017", coco)])
    assert dict(zip(ours.categories, ours.category_ids, strict=True)) == {"person": 1, "dog": 18, "gnu": 19}
    assert [ours.categories[c] for c in ours.box_category.tolist()] == ["dog", "gnu", "dog", "person"]
    assert ours.box_image.tolist() == [0, 0, 2, 2]
    assert ours.box_ids.tolist() == [1, 2, 3, 4]
    assert [image.file_name for image in ours.images] == ["voc2007/000001.jpg", "val2017/5.jpg", "val2017/7.jpg"]


def test_releases_that_number_a_class_differently_are_refused():
    sets = [("a", part([1], {"dog": 18})), ("b", part([2], {"dog": 17}))]
    with pytest.raises(DataError, match=r"category 'dog' has the id 17 .* and 18 in another file"):
        joined(sets)
