import os

import pytest

from sslcore.errors import CheckpointError
from sslcore.storage import files, folders


def test_sweeping_touches_only_own_names(tmp_path):
    foreign = [".a.surnia-new", "a.12345678.surnia-new", ".hidden", ".a.1234567g.surnia-old", ".a.tmp", "step-00000001"]
    for name in [*foreign, ".a.12345678.surnia-new"]:
        (tmp_path / name).write_text("")
    (tmp_path / ".b.0123abcd.surnia-new" / "deep").mkdir(parents=True)
    (tmp_path / ".b.0123abcd.surnia-new" / "deep" / "link").symlink_to(tmp_path / ".hidden")
    assert len(folders.sweep_temporaries(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path)) == sorted(foreign)
    assert folders.sweep_temporaries(tmp_path / "missing") == []


def test_a_folder_moved_aside_is_moved_back_unless_its_name_is_taken(tmp_path):
    for old in (".a.00000000.surnia-old", ".b.00000000.surnia-old"):
        (tmp_path / old).mkdir()
        (tmp_path / old / "content").write_text("old")
    (tmp_path / "b").mkdir()
    assert list(folders.retired(tmp_path)) == ["a"]
    folders.sweep_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert os.listdir(tmp_path / "a") == ["content"]
    assert not os.listdir(tmp_path / "b")


def test_a_new_folder_replaces_nothing_where_that_is_not_wanted(tmp_path):
    (tmp_path / "out").mkdir()
    with folders.new_folder(tmp_path / "out", replace=False) as folder:  # empty: nothing is lost
        files.write_new(folder / "a", [b"1"])
        folders.link_folder(folder / "elsewhere", tmp_path)
    assert (tmp_path / "out" / "a").read_bytes() == b"1"
    assert (tmp_path / "out" / "elsewhere").samefile(tmp_path)
    with (
        pytest.raises(CheckpointError, match="out: directory not empty; name a new folder"),
        folders.new_folder(tmp_path / "out", replace=False) as folder,
    ):
        files.write_new(folder / "a", [b"2"])
    assert (tmp_path / "out" / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
