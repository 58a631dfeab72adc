import json
import os
import resource
import stat

import pytest

from sslcore.errors import CheckpointError
from sslcore.storage import files, folders, operations


@pytest.fixture
def steps(monkeypatch):
    """Names of the changes of the file system, in order."""
    taken = []
    monkeypatch.setattr(operations, "step", lambda operation, path, torn=None: taken.append(operation))
    return taken


def test_a_file_is_flushed_before_it_gets_its_name_and_the_folder_after(tmp_path, steps):
    files.write_bytes(tmp_path / "a", b"x")
    assert steps == ["create", "write", "fsync", "replace", "fsync folder"]


def test_the_hash_and_size_are_those_of_the_content(tmp_path):
    written = files.write_chunks(tmp_path / "a", [b"ab", memoryview(b"c")])
    assert (tmp_path / "a").read_bytes() == b"abc"
    assert written == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3)


def test_a_copy_is_whole_or_not_there(tmp_path, every_fault):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 600)  # more than is read at once

    def prepare():
        folders.sweep_temporaries(tmp_path)
        target.unlink(missing_ok=True)

    for _ in every_fault("kill", lambda: files.copy_file(source, target), prepare):
        assert not target.exists() or target.read_bytes() == source.read_bytes()
    assert target.read_bytes() == source.read_bytes()
    assert files.copy_file(source, target) == files.sum_of(source.read_bytes())
    for missing in (tmp_path / "no", tmp_path):
        with pytest.raises(CheckpointError, match=rf"cannot read {missing}: .*; give yourself .* from a copy$"):
            files.copy_file(missing, tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_second_name_is_given_to_a_whole_file_only(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    size = files.write_new(source, [b"abc"]).size
    assert not files.link_new(tmp_path / "missing", target, size)
    assert not files.link_new(source, target, size + 1)
    assert files.link_new(source, target, size)
    assert target.samefile(source)
    assert not files.link_new(source, target, size)


@pytest.mark.parametrize("kind", ["kill", "error"])
def test_whatever_step_fails_a_reader_meets_the_old_content_or_the_new(tmp_path, every_fault, kind):
    path, seen = tmp_path / "a.json", set()
    for _ in every_fault(
        kind, lambda: files.write_json(path, {"new": [1] * 50}), lambda: path.write_text('{"old": 0}')
    ):
        seen |= set(json.loads(path.read_text()))
        folders.sweep_temporaries(tmp_path)
        assert os.listdir(tmp_path) == ["a.json"]
    assert seen == {"old", "new"}


@pytest.mark.parametrize(
    ("code", "remedy"),
    [("ENOSPC", "free some space"), ("EDQUOT", "quota"), ("EACCES", "permission"), ("EROFS", "read-only")],
)
def test_the_error_names_path_reason_and_remedy(tmp_path, monkeypatch, code, remedy):
    monkeypatch.setenv("SURNIA_FAULT", f"error:2:{code}")
    with pytest.raises(CheckpointError, match=rf"cannot write .*report\.html: .*{remedy}"):
        files.write_text(tmp_path / "report.html", "x" * 10)
    assert os.listdir(tmp_path) == []


def test_a_file_size_limit_is_an_error_and_keeps_the_old_content(tmp_path, in_child):
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        files.write_bytes(path, bytes(5000))

    assert in_child(write) == 3
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_named_with_its_remedy(tmp_path):
    with pytest.raises(CheckpointError, match="create the folder"):
        files.write_text(tmp_path / "no" / "a", "")


def test_written_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", float("nan"))
    assert not os.listdir(tmp_path)


def test_appending_cuts_a_torn_line_first(tmp_path):
    path = tmp_path / "lines"
    files.append_line(path, "one")
    with open(path, "ab") as file:
        file.write(b"tw")
    files.append_line(path, "three")
    assert path.read_text() == "one\nthree\n"
    path.write_bytes(b"x" * 200_000)
    files.append_line(path, "y")
    assert path.read_text() == "y\n"
    with pytest.raises(ValueError, match="one line"):
        files.append_line(path, "a\nb")


@pytest.mark.parametrize("kind", ["kill", "error"])
def test_lines_are_whole_or_absent_whatever_step_fails(tmp_path, every_fault, kind):
    path = tmp_path / "lines"
    for _, code in every_fault(
        kind, lambda: files.append_line(path, "twelve chars"), lambda: path.write_text("one\nt")
    ):
        assert code == (137 if kind == "kill" else 3)
        files.append_line(path, "last")
        assert path.read_text() in ("one\nlast\n", "one\ntwelve chars\nlast\n")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file; do something"):
        files.read_file(tmp_path / "pipe", limit=10, error=CheckpointError, remedy="do something")


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="larger than 10 bytes"):
        files.read_file(tmp_path / "sparse", limit=10, error=CheckpointError, remedy="x")
