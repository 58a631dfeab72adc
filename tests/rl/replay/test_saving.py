import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from support.replays import MadeUpEnvs, everything, fill, frame_buffer

from rl.replay import frames, saving
from sslcore.errors import CheckpointError
from sslcore.storage import files, folders

FRAME = 4 * 4  # bytes


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(frames, "CHUNK_BYTES", 8 * FRAME)


def made(rows=30, n_envs=2, seed=1, **options):
    return frame_buffer(rows * n_envs, (2, 4, 4), 2, n_envs, seed=seed, n_steps=2, **options)


def envs(n_envs=2, seed=0):
    return MadeUpEnvs(np.random.default_rng(seed), n_envs, stack=2, side=4, values=256, mean_length=6)


def assert_same(a, b):
    for mine, other in zip(everything(a), everything(b), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(a.sample(16), b.sample(16), strict=True):
        assert torch.equal(mine, other)
    assert (a.pos, a.full) == (b.pos, b.full)


@pytest.mark.parametrize("steps", [0, 1, 17, 30, 75])
def test_a_restored_buffer_draws_and_continues_as_the_saved_one(tmp_path, steps):
    buffer, copy, world = made(), made(seed=9), envs()
    fill(buffer, world, steps)
    if steps:
        buffer.sample(5)  # the generator has moved on
    buffer.save_to(tmp_path / "replay")
    fill(copy, envs(seed=3), 11)  # what it held before must not matter
    copy.restore_from(tmp_path / "replay")
    for _ in range(40):
        step, _ = world.step()
        buffer.add(*step), copy.add(*step)
    assert_same(buffer, copy)
    assert np.array_equal(buffer.ends, copy.ends)  # the episodes that were under way went on
    assert buffer.pool.used == copy.pool.used


def test_saving_changes_nothing(tmp_path):
    buffer, copy = made(), made()
    fill(buffer, envs(), 40), fill(copy, envs(), 40)
    buffer.save_to(tmp_path / "replay")
    assert_same(buffer, copy)


def inodes(folder):
    return {path.name: path.stat().st_ino for path in folder.glob("frames-*")}


def test_only_chunks_with_new_frames_are_written_again(tmp_path):
    buffer, world = made(rows=100, n_envs=1), envs(n_envs=1)
    fill(buffer, world, 60)
    first = inodes(buffer.save_to(tmp_path / "1"))
    fill(buffer, world, 3)
    second = inodes(buffer.save_to(tmp_path / "2"))
    assert len(first) >= 8
    changed = [name for name in second if second[name] != first.get(name)]
    assert len(changed) <= 2 and set(changed) <= set(sorted(second)[-2:])
    # Each folder is whole by itself, and after a restore the files still serve.
    shutil.rmtree(tmp_path / "1")
    saving.verify(tmp_path / "2")
    copy = made(rows=100, n_envs=1)
    copy.restore_from(tmp_path / "2")
    assert inodes(copy.save_to(tmp_path / "3")) == second
    assert_same(buffer, copy)


def test_a_full_ring_writes_again_only_what_it_replaced(tmp_path):
    buffer, world = made(rows=100, n_envs=1), envs(n_envs=1)
    fill(buffer, world, 250)
    first = inodes(buffer.save_to(tmp_path / "1"))
    fill(buffer, world, 10)
    second = inodes(buffer.save_to(tmp_path / "2"))
    assert sum(second[name] != first.get(name) for name in second) <= len(second) // 2
    copy = made(rows=100, n_envs=1)
    copy.restore_from(tmp_path / "2")
    assert_same(buffer, copy)


@pytest.mark.parametrize("loss", ["gone", "cut short", "other bytes"])
def test_chunks_that_are_lost_since_are_written_anew(tmp_path, loss):
    buffer = made()
    fill(buffer, envs(), 20)
    buffer.save_to(tmp_path / "1")
    if loss == "gone":
        shutil.rmtree(tmp_path / "1")
    elif loss == "cut short":
        os.truncate(tmp_path / "1" / "frames-00000.bin", 5)
    else:
        flip(tmp_path / "1" / "frames-00000.bin")
    buffer.save_to(tmp_path / "2")
    copy = made()
    copy.restore_from(tmp_path / "2")
    assert_same(buffer, copy)


def flip(path):
    """Another byte in the middle of a file, whose other names see it too."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))


def test_what_the_disk_does_not_give_back_is_no_save(tmp_path, monkeypatch):
    """A write that goes wrong in silence is an error while the folder before is still there."""
    buffer, world, real = made(), envs(), files.write_new
    fill(buffer, world, 9)
    buffer.save_to(tmp_path / "1")
    fill(buffer, world, 9)
    newest = (buffer.pool.used - 1) // buffer.pool.chunk_frames
    for name in (f"frames-{newest:05d}.bin", "transitions.safetensors", "state.json"):

        def wrong(path, chunks, name=name):
            written = real(path, chunks)
            if path.name == name:
                flip(path)
            return written

        monkeypatch.setattr(files, "write_new", wrong)
        with pytest.raises(CheckpointError, match=rf"does not give back .* {name}: check the disk"):
            buffer.save_to(tmp_path / "2")
    assert os.listdir(tmp_path) == ["1"]
    monkeypatch.undo()
    saving.verify(buffer.save_to(tmp_path / "2"))


def test_without_hard_links_all_is_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    buffer = made()
    fill(buffer, envs(), 20)
    first = inodes(buffer.save_to(tmp_path / "1"))
    monkeypatch.setattr(os, "link", refuse)
    assert not set(first.values()) & set(inodes(buffer.save_to(tmp_path / "2")).values())
    saving.verify(tmp_path / "2")


def test_a_folder_can_be_saved_over(tmp_path):
    buffer, world, copy = made(), envs(), made()
    for _ in range(3):
        fill(buffer, world, 9)
        buffer.save_to(tmp_path / "replay")
    copy.restore_from(tmp_path / "replay")
    assert_same(buffer, copy)
    assert os.listdir(tmp_path) == ["replay"]


# --- a writer that fails -----------------------------------------------------------------------------------------


def in_child(work, fault):
    """Exit code of a forked child that does `work`: 0, or 137 when the fault killed it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.environ["SURNIA_FAULT"] = fault
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_killed_at_any_step_the_folder_is_the_old_one_or_the_new(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "CHUNK_BYTES", 20 * FRAME)  # few files: each step of the writer is a process
    buffer, world, folder = made(rows=12), envs(), tmp_path / "replay"
    fill(buffer, world, 5)
    buffer.save_to(folder)
    old = buffer.pos
    fill(buffer, world, 4)
    seen = set()
    for number in range(1, 200):
        code = in_child(lambda: buffer.save_to(folder), f"kill:{number}")
        folders.sweep_temporaries(tmp_path)
        copy = made(rows=12)
        copy.restore_from(folder)
        seen.add(copy.pos)
        if code == 0:
            break
        assert code == 137
    assert seen == {old, buffer.pos} and number > 10


def test_on_a_full_disk_the_last_folder_stays_and_the_next_save_succeeds(tmp_path, monkeypatch):
    buffer, world, copy = made(), envs(), made()
    fill(buffer, world, 9)
    buffer.save_to(tmp_path / "1")
    fill(buffer, world, 9)
    for number in range(1, 6):
        monkeypatch.setenv("SURNIA_FAULT", f"error:{number}")
        with pytest.raises(CheckpointError, match="free some space"):
            buffer.save_to(tmp_path / "2")
        monkeypatch.delenv("SURNIA_FAULT")
    assert os.listdir(tmp_path) == ["1"]
    saving.verify(tmp_path / "1")
    buffer.save_to(tmp_path / "2")
    copy.restore_from(tmp_path / "2")
    assert_same(buffer, copy)


# --- folders that are not to be believed -------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    buffer = made()
    fill(buffer, envs(), 20)
    return buffer.save_to(tmp_path / "replay")


def refused(folder, match, buffer=None):
    buffer = buffer or made()
    with pytest.raises(CheckpointError, match=match) as caught:
        buffer.restore_from(folder)
    assert "\n" not in str(caught.value)
    return buffer


@pytest.mark.parametrize("name", ["frames-00001.bin", "transitions.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "longer"])
def test_damage_is_noticed(saved, name, damage):
    path = saved / name
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[len(data) // 2 if name != "manifest.json" else 0] ^= 0x40
    if damage != "gone":
        path.write_bytes({"flip": data, "cut": data[:-3], "longer": data + b"12"}[damage])
    buffer = refused(saved, "replay")
    fill(buffer, envs(), 5)  # it can still be used
    assert buffer.size() == 5
    if name != "manifest.json":
        with pytest.raises(CheckpointError):
            saving.verify(saved)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 31}, "transitions of each environment: 30, here 31"),
        ({"n_envs": 1}, "environments: 2, here 1"),
    ],
)
def test_a_buffer_of_other_sizes_is_refused_with_the_sizes(saved, options, words):
    other = made(**options)
    fill(other, envs(n_envs=other.n_envs), 3)
    refused(saved, words, other)
    assert other.size() == 3  # as it was


def test_frames_of_another_shape_are_refused(saved):
    refused(saved, r"frame: \[1, 4, 4\], here \[1, 4, 5\]", frame_buffer(60, (2, 4, 5), 2, 2))


def test_foreign_folders_are_refused(tmp_path):
    refused(tmp_path, "no manifest.json")
    (tmp_path / "manifest.json").write_text('{"schema": 1, "files": {}}')
    refused(tmp_path, "not a replay buffer of Surnia")
    (tmp_path / "manifest.json").write_text('{"schema": 7, "kind": "replay buffer"}')
    refused(tmp_path, "newer Surnia")


def places(node, path=()):
    """Paths of all values in nested dictionaries."""
    for key, child in node.items() if isinstance(node, dict) else ():
        yield (*path, key)
        yield from places(child, (*path, key))


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_whatever_value_is_another_nothing_is_raised_but_checkpoint_errors(saved, name):
    whole, buffer, noticed = json.loads((saved / name).read_text()), made(), 0
    for path in places(whole):
        for wrong in (None, -1, 1 << 70, 1.5, "x", [], {}):
            changed = json.loads(json.dumps(whole))
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = wrong
            rewrite(saved, name, json.dumps(changed).encode())
            try:
                buffer.restore_from(saved)
            except CheckpointError:
                noticed += 1
                continue
            buffer.sample(2)
            assert name == "state.json" and "generator" in path  # any numbers are a state of a generator
    assert noticed > 50


def rewrite(folder, name, data):
    """Replaces a file, and its sum if it has one."""
    (folder / name).unlink()
    (folder / name).write_bytes(data)
    if name != "manifest.json":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def test_transitions_of_frames_that_are_not_there_are_refused(saved):
    tables = safetensors.torch.load_file(saved / "transitions.safetensors")
    tables["places"][3, 0, 1] = 10**6
    rewrite(saved, "transitions.safetensors", safetensors.torch.save(tables))
    refused(saved, "frames that are not there")
