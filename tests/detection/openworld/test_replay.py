import numpy as np
import pytest

from detection.data.annotations import AnnotationSet, ImageRecord, LabeledSet
from detection.openworld.replay import Exemplar, Manifest, choose_exemplars
from sslcore.errors import DataError


def labeled(order=None, ids=lambda number: number):
    """40 boxes in 20 images: labels 2, 3 and (three times) 4; every fifth is ignored. `order`: of the images."""
    images = tuple(ImageRecord(f"image {number}", f"{number}.png", 100, 100) for number in range(20))
    count = 40
    boxes = np.tile([0.0, 0, 10, 10], (count, 1))
    flags = np.zeros(count, dtype=bool)
    labels = np.arange(count) % 2 + 2
    labels[[7, 18, 31]] = 4
    annotations = AnnotationSet(
        images=images,
        categories=("x",),
        category_ids=(1,),
        box_image=np.arange(count) // 2,
        boxes=boxes,
        box_category=np.zeros(count, dtype=np.int64),
        crowd=flags,
        difficult=flags,
        area=np.full(count, 100.0),
        box_ids=np.arange(count) + 500,
    )
    rows = np.arange(count)
    if order is not None:
        annotations = annotations.select(order)
        rows = annotations.box_ids - 500
    names = ("background", "unknown", "cat", "dog", "cow")
    return LabeledSet(
        annotations, names, annotations.box_image, annotations.boxes, labels[rows], rows % 5 == 0, np.arange(count)
    )


def test_exemplars_are_instances_of_each_class():
    source = labeled()
    manifest = choose_exemplars("random", source, per_class=6, seed=3)
    assert list(manifest.exemplars) == ["cat", "dog", "cow"]
    assert [len(found) for found in manifest.exemplars.values()] == [6, 6, 3]
    assert manifest.short == {"cow": 3}
    for label, found in enumerate(manifest.exemplars.values(), start=2):
        for exemplar in found:
            row = exemplar.box - 500
            assert exemplar.image == f"image {row // 2}"
            assert source.labels[row] == label
            assert row % 5
    rows = manifest.rows_in(source.annotations)
    assert sorted(e.box - 500 for found in manifest.exemplars.values() for e in found) == rows.tolist()


def test_the_choice_is_a_function_of_the_seed_and_the_boxes():
    def chosen(seed, order=None):
        found = choose_exemplars("random", labeled(order), per_class=6, seed=seed).exemplars
        return {name: set(rows) for name, rows in found.items()}

    assert chosen(3) == chosen(3)
    assert chosen(3) != chosen(4)
    assert chosen(3, order=list(range(19, -1, -1))) == chosen(3)


def test_a_manifest_survives_its_file(tmp_path):
    manifest = choose_exemplars("random", labeled(), per_class=6, seed=3)
    manifest.save(tmp_path / "exemplars.json")
    assert Manifest.load(tmp_path / "exemplars.json") == manifest


def test_manifests_of_tasks_merge():
    first = Manifest({"cat": (Exemplar(1, 10),)}, 1, "random", 0)
    second = Manifest({"dog": (Exemplar("a", 11),)}, 2, "random", 0)
    both = first.merged(second)
    assert both.exemplars == {"cat": (Exemplar(1, 10),), "dog": (Exemplar("a", 11),)}
    with pytest.raises(ValueError, match="exemplars of cat are in both manifests"):
        both.merged(first)


def test_boxes_of_other_sets_are_passed_over():
    manifest = Manifest({"cat": (Exemplar("image 3", 507), Exemplar("elsewhere", 508))}, 2, "random", 0)
    assert manifest.rows_in(labeled().annotations).tolist() == [7]


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ValueError, match="exemplars are chosen by random, not 'herding'"):
        choose_exemplars("herding", labeled(), per_class=5, seed=0)
    with pytest.raises(ValueError, match="per_class"):
        choose_exemplars("random", labeled(), per_class=0, seed=0)
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.load(tmp_path / "none.json")
    for text in ("[]", "{", '{"classes": {"a": [{"image": 1}]}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="is no manifest of exemplars"):
            Manifest.load(tmp_path / "bad.json")
