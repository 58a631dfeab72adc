import hashlib
import json

import pytest

from sslcore.errors import CheckpointError
from sslcore.storage import files, folders
from sslcore.storage.manifest import NAME, Kind, check_part, read_manifest, read_part, verify_folder, write_manifest

KIND = Kind("box", schema=2, remedy="take another")


@pytest.fixture
def folder(tmp_path):
    with folders.new_folder(tmp_path / "box") as temporary:
        parts = {name: files.write_new(temporary / name, [name.encode()]) for name in ("a.txt", "b.txt")}
        write_manifest(temporary, KIND, parts, colour="red")
    return tmp_path / "box"


def test_a_manifest_says_what_is_in_a_folder(folder):
    written = json.loads((folder / NAME).read_text())
    assert (written["schema"], written["kind"], written["colour"]) == (2, "box", "red")
    assert written["files"]["a.txt"] == {"sha256": hashlib.sha256(b"a.txt").hexdigest(), "size": 5}
    sums = read_manifest(folder, KIND, names=["b.txt", "a.txt"])
    assert read_part(folder / "a.txt", sums["a.txt"], KIND) == b"a.txt"
    verify_folder(folder, KIND)


@pytest.mark.parametrize("content", [b"A.txt", b"a.tx", b"a.txt!", b"a.txt" + bytes(1 << 21)])
def test_other_content_is_damage(folder, content):
    (folder / "a.txt").write_bytes(content)
    expected = read_manifest(folder, KIND)["a.txt"]
    for asked in (
        lambda: verify_folder(folder, KIND),
        lambda: check_part(folder / "a.txt", expected, KIND),
        lambda: read_part(folder / "a.txt", expected, KIND),
    ):
        with pytest.raises(CheckpointError, match=r"a\.txt.*; take another$"):
            asked()


def test_a_limit_holds_whatever_the_manifest_says(folder):
    with pytest.raises(CheckpointError, match="larger than 4 bytes"):
        read_part(folder / "a.txt", read_manifest(folder, KIND)["a.txt"], KIND, limit=4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": 3}, r"by a newer Surnia \(schema 3, this one reads 2\); update Surnia"),
        ({"schema": 1}, "is not a box of Surnia; take another"),
        ({"schema": True}, "is not a box"),
        ({"kind": "checkpoint"}, "is not a box"),
        ({"files": None}, "is not a box"),
        ({"files": {"../a.txt": {"sha256": "", "size": 0}}}, "is not a box"),
        ({"files": {"a.txt": {"sha256": "", "size": -1}}}, "does not give size and hash of a.txt; take another"),
    ],
)
def test_foreign_manifests_are_refused(folder, changes, sentence):
    content = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text(json.dumps(content | changes))
    with pytest.raises(CheckpointError, match=sentence):
        read_manifest(folder, KIND)


def test_missing_unfinished_and_incomplete_folders(folder):
    with pytest.raises(CheckpointError, match="does not name a box's files"):
        read_manifest(folder, KIND, names=["a.txt"])
    (folder / NAME).unlink()
    with pytest.raises(CheckpointError, match=r"or not a whole one: it has no manifest\.json"):
        read_manifest(folder, KIND)
    with pytest.raises(CheckpointError, match=r"there is no box .*; give the folder of one"):
        read_manifest(folder / "none", KIND)
