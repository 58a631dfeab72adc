import dataclasses
import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from detection.discovery import FoundBy, UnknownObjects, Wanted, collect_unknowns
from detection.structures import Detections
from sslcore.errors import CheckpointError, DataError


def detections(*rows, dim=3):
    """Rows (box, label, score, posterior)."""
    boxes, labels, scores, posteriors = zip(*rows)
    n = len(rows)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(labels),
        torch.tensor(scores),
        torch.zeros(n),
        torch.tensor(posteriors),
        torch.arange(n * dim, dtype=torch.float32).reshape(n, dim),
    )


def test_unknown_objects_keep_their_picture_place_and_embedding(full):
    found = collect_unknowns(full.predict, full.folder, known=["blue"], batch_size=3)
    assert len(found) == 8 + 6 and len(found.images) == 8
    assert found.root == full.folder and found.known == ("blue",)
    names = [image.file for image in found.images]
    assert names == ["0.png", "2.png", "4.png", "6.png", "deep/1.png", "deep/3.png", "deep/5.png", "deep/7.png"]
    for image in found.images:
        path = full.folder / image.file
        assert image.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and image.bytes == path.stat().st_size
        assert (image.width, image.height) == (120, 90)
    # picture 4.png: red at 5, 10 of side 24, green at 60, 40 of side 22; the larger scores higher
    rows = np.flatnonzero(found.box_image == names.index("4.png"))
    assert found.boxes[rows].tolist() == [[5, 10, 29, 34], [60, 40, 82, 62]]
    np.testing.assert_allclose(found.scores[rows], [24 / 50, 22 / 50])
    assert found.embeddings[rows].argmax(axis=1).tolist() == [0, 1]


def test_the_batch_size_does_not_matter(full):
    one, five = (collect_unknowns(full.predict, full.folder, batch_size=n) for n in (1, 5))
    assert one.images == five.images and np.array_equal(one.boxes, five.boxes)


def test_only_wanted_detections_are_kept():
    found = detections(
        ([0, 0, 20, 20], 1, 0.9, 0.9),
        ([0, 0, 20, 20], 2, 0.9, 0.9),  # known
        ([0, 0, 20, 20], 1, 0.2, 0.9),  # low score
        ([0, 0, 20, 20], 1, 0.9, 0.4),  # probably known
        ([0, 0, 20, 7], 1, 0.9, 0.9),  # too small to be named
        ([0, 0, 20, 20], 1, math.nan, 0.9),
        ([0, math.nan, 20, 20], 1, 0.9, 0.9),
        ([90, 80, 130, 120], 1, 0.95, math.nan),  # no posterior; reaches over the edge
        ([130, 80, 150, 90], 1, 0.9, 0.9),  # outside
    )
    kept = Wanted(score=0.3, posterior=0.5).of(found, 120, 90)
    assert kept.boxes.tolist() == [[90, 80, 120, 90], [0, 0, 20, 20]]
    assert len(Wanted(score=0.3, per_image=1).of(found, 120, 90)) == 1


def test_the_same_picture_under_two_names_is_looked_at_once(full):
    shutil.copy(full.folder / "0.png", full.folder / "again.png")
    said = []
    found = collect_unknowns(full.predict, full.folder, say=said.append)
    assert len(found) == 14 and "again.png" not in {image.file for image in found.images}
    assert said == [f"skipped: {full.folder}/again.png is the same picture as {full.folder}/0.png"]


def test_a_damaged_picture_is_skipped_and_named_as_it_was_given(full, monkeypatch):
    (full.folder / "3b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    said, done = [], []
    found = collect_unknowns(full.predict, full.folder, say=said.append, progress=lambda *n: done.append(n))
    assert len(found) == 14 and len(said) == 1 and "3b.png" in said[0]
    assert done[-1] == (9, 9)
    monkeypatch.chdir(full.folder.parent)
    again = collect_unknowns(full.predict, full.folder.name, say=said.append)
    assert said[1].startswith(f"skipped: {full.folder.name}/3b.png is not an image")
    assert again.root == full.folder and again.images == found.images


def test_a_file_too_large_for_a_picture_is_skipped(full, monkeypatch):
    (full.folder / "3b.png").write_bytes(bytes(100_001))
    monkeypatch.setattr("detection.data.pictures.LARGEST", 100_000)
    said = []
    assert len(collect_unknowns(full.predict, full.folder, say=said.append)) == 14
    assert said == [f"skipped: cannot read {full.folder}/3b.png: it is larger than 100000 bytes; leave it out"]


def test_files_may_be_given_and_the_root_is_what_they_share(full):
    paths = [full.folder / "deep" / "1.png", full.folder / "2.png"]
    found = collect_unknowns(full.predict, paths)
    assert found.root == full.folder and [image.file for image in found.images] == ["deep/1.png", "2.png"]
    single = collect_unknowns(full.predict, str(paths[0]))
    assert single.root == full.folder / "deep" and len(single) == 2


def test_files_given_from_another_folder_are_found_again(full, tmp_path, monkeypatch):
    monkeypatch.chdir(full.folder / "deep")
    found = collect_unknowns(full.predict, ["1.png", "../2.png", "../deep/../4.png"])
    assert found.root == full.folder and [image.file for image in found.images] == ["deep/1.png", "2.png", "4.png"]
    found.save(tmp_path)
    assert UnknownObjects.load(tmp_path).changed(range(3)) == []
    assert collect_unknowns(full.predict, "..").images == collect_unknowns(full.predict, full.folder).images


def test_a_turned_photograph_has_its_boxes_upright(pictures):
    picture = Image.new("RGB", (120, 60), (128, 128, 128))
    picture.paste((220, 40, 40), (10, 20, 40, 50))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, clockwise
    picture.save(pictures.folder / "turned.png", exif=exif)
    found = collect_unknowns(pictures.predict, pictures.folder)
    assert (found.images[0].width, found.images[0].height) == (60, 120)
    assert found.boxes.tolist() == [[10, 10, 40, 40]]


def test_no_unknown_object_at_all(pictures, tmp_path):
    pictures.paint("a.png", ("blue", 5, 5, 30))
    found = collect_unknowns(pictures.predict, pictures.folder)
    assert len(found) == 0 and found.images == () and found.boxes.shape == (0, 4)
    found.save(tmp_path)
    assert len(UnknownObjects.load(tmp_path)) == 0


def test_no_picture_at_all(pictures):
    with pytest.raises(DataError, match="holds no images"):
        collect_unknowns(pictures.predict, pictures.folder)
    (pictures.folder / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="the only picture cannot be read"):
        collect_unknowns(pictures.predict, pictures.folder)
    with pytest.raises(DataError, match="list of pictures is empty"):
        collect_unknowns(pictures.predict, [])


def test_a_detector_that_forgets_a_picture_is_refused(full):
    with pytest.raises(ValueError, match="one Detections for each"):
        collect_unknowns(lambda pictures: [], full.folder)


# --- files ---


def same(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y


def test_records_come_back_from_their_files(full, tmp_path):
    found = collect_unknowns(full.predict, full.folder, known=["blue"])
    found.posteriors[1] = np.nan
    found.embeddings[2] = np.nan
    found.save(tmp_path)
    same(UnknownObjects.load(tmp_path), found)
    lines = (tmp_path / "unknowns.json").read_text().splitlines()
    assert sum('"box"' in line for line in lines) == len(found)  # one line an object
    assert json.loads((tmp_path / "unknowns.json").read_text())["objects"][1]["posterior"] is None


def test_pictures_may_have_moved_together(full, tmp_path):
    collect_unknowns(full.predict, full.folder).save(tmp_path)
    moved = full.folder.rename(tmp_path / "elsewhere")
    back = UnknownObjects.load(tmp_path, root=moved)
    assert back.changed(range(len(back.images))) == []


def test_moved_pictures_are_one_sentence_that_names_the_option(full, tmp_path):
    collect_unknowns(full.predict, full.folder).save(tmp_path)
    moved = full.folder.rename(tmp_path / "elsewhere")
    (said,) = UnknownObjects.load(tmp_path).changed([0, 1, 2])
    assert said == (
        f"3 of 3 pictures with named objects are not in {full.folder}, as 0.png: put them back, or say where the "
        "pictures are now with --images FOLDER"
    )
    (moved / "0.png").rename(moved / "one.png")
    (said,) = UnknownObjects.load(tmp_path, root=moved).changed([0, 1])
    assert said == (
        f"1 of 2 pictures with named objects is not in {moved}, which --images names, as 0.png: give the folder that "
        f"has now what was in {full.folder}"
    )


def test_changed_and_removed_pictures_are_counted(full):
    found = collect_unknowns(full.predict, full.folder)
    full.paint("2.png", ("red", 1, 1, 30))
    full.paint("6.png", ("red", 1, 1, 30))
    (full.folder / "4.png").unlink()
    (full.folder / "0.png").unlink(), (full.folder / "0.png").mkdir()
    gone, other, unreadable = found.changed(range(len(found.images)))
    assert gone.startswith(f"1 of 8 pictures with named objects is not in {full.folder}, as 4.png: put it back, or")
    assert other == (
        "2 of 8 pictures with named objects are not the files that objects were found in, as "
        f"{full.folder / '2.png'}: put back the originals, or collect anew"
    )
    assert unreadable.startswith("cannot read") and unreadable.endswith("(1 of 8 pictures are so)")


def test_who_found_them_is_kept(full, tmp_path):
    by = FoundBy("/runs/mine", "f" * 64)
    collect_unknowns(full.predict, full.folder, known=["blue"], found_by=by).save(tmp_path)
    assert UnknownObjects.load(tmp_path).found_by == by
    collect_unknowns(full.predict, full.folder).save(tmp_path)
    assert UnknownObjects.load(tmp_path).found_by is None


def test_other_pictures_of_the_same_names_are_not_the_ones_that_moved(full, tmp_path):
    collect_unknowns(full.predict, full.folder).save(tmp_path)
    full.folder.rename(tmp_path / "gone")
    full.folder.mkdir()
    full.paint("6.png", ("red", 1, 1, 30))
    (said,) = [
        sentence
        for sentence in UnknownObjects.load(tmp_path, root=full.folder).changed(range(8))
        if "are not in" not in sentence
    ]
    assert said.startswith("1 of 8 pictures with named objects is not the file that objects were found in, as ")
    assert said.endswith("put back the originals, or give the folder of the originals with --images")
    (full.folder / "6.png").unlink()
    assert UnknownObjects.load(tmp_path, root=tmp_path / "gone").changed(range(8)) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value["objects"].pop(),
        lambda value: value["objects"][0].update(image=99),
        lambda value: value["objects"][0].update(box=[1, 2, 3]),
        lambda value: value["objects"][0].pop("score"),
        lambda value: value["images"][0].update(file="../../secret.png"),
        lambda value: value["images"][0].update(file="/secret.png"),
        lambda value: value["images"][0].update(extra=1),
        lambda value: value.update(schema=2),
        lambda value: value.pop("root"),
    ],
)
def test_spoiled_records_are_refused(full, tmp_path, spoil):
    collect_unknowns(full.predict, full.folder).save(tmp_path)
    value = json.loads((tmp_path / "unknowns.json").read_text())
    spoil(value)
    (tmp_path / "unknowns.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="collect anew"):
        UnknownObjects.load(tmp_path)


def test_damaged_embeddings_are_refused(full, tmp_path):
    collect_unknowns(full.predict, full.folder).save(tmp_path)
    path = tmp_path / "unknowns.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        UnknownObjects.load(tmp_path)
