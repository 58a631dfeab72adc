import hashlib
import json
import os
import random
import resource
import shutil
import time

import numpy as np
import pytest
import torch

from sslcore.errors import CheckpointError
from sslcore.storage import (
    checkpoint_step,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    pack,
    prune_checkpoints,
    read_metadata,
    read_weights,
    save_checkpoint,
    step_folder,
    sweep_temporaries,
    verify_checkpoint,
)
from sslcore.storage.checkpoint import weights_hash

PARTS = ("model.safetensors", "train.safetensors", "state.json")


def state(step):
    """Model, train and info of a small run at a step."""
    rng = torch.Generator().manual_seed(step)
    weight = torch.randn(4, 3, generator=rng)
    model = {"fc.weight": weight, "tied": weight, "view": weight.T[1:], "count": torch.tensor(step),
             "empty": torch.empty(0, 3), "mask": torch.tensor([True, False]), "half": weight.bfloat16()}  # fmt: skip
    train = {"optimizer": {"state": {0: {"exp_avg": weight * 2}}, "lr": 0.1}, "random": rng.get_state(),
             "python": random.Random(step).getstate(), "best": float("-inf"), "numpy": np.arange(step)}  # fmt: skip
    return {"model": model, "train": train, "info": {"step": step, "loss": float("nan"), "mean": [0.5, 0.4]}}


def content(checkpoint):
    """All that was stored, comparable."""
    skeleton, tensors = pack([checkpoint.train, checkpoint.info])
    values = {f"train/{k}": t for k, t in tensors.items()} | {f"model/{k}": t for k, t in checkpoint.model.items()}
    sums = {
        k: (str(t.dtype), tuple(t.shape), t.view(-1).view(torch.uint8).numpy().tobytes()) for k, t in values.items()
    }
    return json.dumps(skeleton), sums


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Contents of the states of steps 1 and 2."""
    parent = tmp_path_factory.mktemp("expected")
    return {n: content(load_checkpoint(save_checkpoint(step_folder(parent, n), **state(n)))) for n in (1, 2)}


def test_a_checkpoint_comes_back_whole(tmp_path):
    given = state(7)
    folder = save_checkpoint(step_folder(tmp_path / "not" / "there", 7), **given)
    assert folder.name == "step-00000007"
    assert sorted(os.listdir(folder)) == ["manifest.json", "model.safetensors", "state.json", "train.safetensors"]
    back = load_checkpoint(folder)
    assert list(back.model) == list(given["model"])
    for name, tensor in given["model"].items():
        assert back.model[name].dtype == tensor.dtype
        assert torch.equal(back.model[name], tensor)
        back.model[name].zero_()  # owned and writable
    assert back.train["python"] == given["train"]["python"]
    assert back.train["best"] == float("-inf")
    assert torch.equal(back.train["random"], given["train"]["random"])
    assert back.info["step"] == 7
    assert back.info["loss"] != back.info["loss"]
    assert torch.equal(read_weights(folder)["fc.weight"], given["model"]["fc.weight"])
    assert read_metadata(folder)["mean"] == [0.5, 0.4]


def test_the_hash_of_the_weights_is_the_same_wherever_they_are_saved(tmp_path):
    one, other = state(1), state(2)
    first = save_checkpoint(tmp_path / "first", **one)
    again = save_checkpoint(tmp_path / "again", **{**one, "info": other["info"], "train": other["train"]})
    assert weights_hash(first) == weights_hash(again) == weights_hash(shutil.copytree(first, tmp_path / "copy"))
    assert weights_hash(first) == hashlib.sha256((first / "model.safetensors").read_bytes()).hexdigest()
    assert weights_hash(save_checkpoint(tmp_path / "other", **other)) != weights_hash(first)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        weights_hash(tmp_path / "none")


def test_the_library_of_the_format_reads_our_files(tmp_path):
    from safetensors.torch import load_file

    folder = save_checkpoint(step_folder(tmp_path, 3), **state(3))
    theirs, ours = load_file(folder / "model.safetensors"), load_checkpoint(folder).model
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[k], ours[k]) for k in ours)


def test_model_tensors_go_to_the_device_and_random_states_stay_on_the_host(tmp_path):
    folder = save_checkpoint(step_folder(tmp_path, 3), **state(3))
    back = load_checkpoint(folder, device="meta")
    assert {t.device.type for t in back.model.values()} == {"meta"}
    assert back.train["random"].device.type == "cpu"


# --- a writer that dies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["kill", "error"])
def test_whatever_step_fails_a_checkpoint_is_left_that_resumes(tmp_path, every_fault, expected, kind):
    parent, codes, steps_left = tmp_path / "c", [], set()

    def prepare():
        shutil.rmtree(parent, ignore_errors=True)
        save_checkpoint(step_folder(parent, 1), **state(1))

    def save_and_prune():
        save_checkpoint(step_folder(parent, 2), **state(2))
        prune_checkpoints(parent, keep=1)

    for _, code in every_fault(kind, save_and_prune, prepare):
        newest = newest_checkpoint(parent)
        codes.append(code)
        steps_left.add(checkpoint_step(newest))
        assert content(load_checkpoint(newest)) == expected[checkpoint_step(newest)]
        sweep_temporaries(parent)
        assert all(checkpoint_step(name) for name in os.listdir(parent))
        save_and_prune()
        assert os.listdir(parent) == ["step-00000002"]
    assert steps_left == {1, 2}
    assert set(codes) == ({137} if kind == "kill" else {3})
    assert len(codes) > 25  # every create, write, flush, rename and delete


@pytest.mark.parametrize("kind", ["kill", "error"])
def test_replacing_the_only_checkpoint_is_as_safe(tmp_path, every_fault, expected, kind):
    parent, seen = tmp_path / "c", []

    def prepare():
        shutil.rmtree(parent, ignore_errors=True)
        save_checkpoint(step_folder(parent, 5), **state(1))

    for _, _ in every_fault(kind, lambda: save_checkpoint(step_folder(parent, 5), **state(2)), prepare):
        found = content(load_checkpoint(newest_checkpoint(parent)))
        seen.append([n for n in (1, 2) if expected[n] == found])
        sweep_temporaries(parent)
        assert os.listdir(parent) == ["step-00000005"]
        assert content(load_checkpoint(step_folder(parent, 5))) == found
    assert seen == sorted(seen)
    assert seen[0] == [1]
    assert seen[-1] == [2]


def test_the_order_is_files_manifest_folder_name_folder_above(tmp_path, monkeypatch):
    from sslcore.storage import operations

    taken = []
    monkeypatch.setattr(operations, "step", lambda op, path, torn=None: taken.append(f"{op} {os.path.basename(path)}"))
    save_checkpoint(step_folder(tmp_path, 1), model={"w": torch.ones(1)})
    order = [s for s in taken if s.split()[0] in ("fsync", "replace")]
    assert [s.split(".")[0] for s in order[:4]] == ["fsync model", "fsync train", "fsync state", "fsync manifest"]
    assert order[4].startswith("fsync folder .step-00000001.")
    assert order[5:] == ["replace step-00000001", f"fsync folder {tmp_path.name}"]


def test_a_file_size_limit_keeps_the_previous_checkpoint(tmp_path, in_child, expected):
    save_checkpoint(step_folder(tmp_path, 1), **state(1))

    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        save_checkpoint(step_folder(tmp_path, 2), model={"big": torch.zeros(5000)})

    assert in_child(write) == 3
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert content(load_checkpoint(newest_checkpoint(tmp_path))) == expected[1]


def test_a_full_disk_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("SURNIA_FAULT", "error:4")
    with pytest.raises(CheckpointError, match=r"step-00000001/model\.safetensors: no space left .*; free some space"):
        save_checkpoint(step_folder(tmp_path, 1), **state(1))


def test_what_cannot_be_stored_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match=r"train\['hook'\]"):
        save_checkpoint(step_folder(tmp_path, 1), model={}, train={"hook": print})
    with pytest.raises(CheckpointError, match="weight 'extra'"):
        save_checkpoint(step_folder(tmp_path, 1), model={"extra": {"a": 1}})
    with pytest.raises(CheckpointError, match="info holds a tensor"):
        save_checkpoint(step_folder(tmp_path, 1), model={}, info={"x": torch.ones(1)})
    with pytest.raises(CheckpointError, match="__metadata__"):
        save_checkpoint(step_folder(tmp_path, 1), model={"__metadata__": torch.ones(1)})
    with pytest.raises(CheckpointError, match="complex64"):
        save_checkpoint(step_folder(tmp_path, 1), model={"c": torch.ones(1, dtype=torch.complex64)})
    assert os.listdir(tmp_path) == []


# --- choosing and pruning ----------------------------------------------------------------------------------------


def damage(folder, name="model.safetensors"):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def test_the_newest_is_the_highest_step_whatever_the_clock_says(tmp_path):
    for n in (9, 100000000, 10):
        save_checkpoint(step_folder(tmp_path, n), model={"w": torch.ones(1)})
    os.utime(step_folder(tmp_path, 100000000), (0, 0))
    os.utime(step_folder(tmp_path, 9), (time.time() + 86400,) * 2)
    assert checkpoint_step(newest_checkpoint(tmp_path)) == 100000000
    assert [checkpoint_step(p) for p in list_checkpoints(tmp_path)] == [9, 10, 100000000]


def test_a_damaged_newest_is_skipped_and_said(tmp_path):
    for n in (1, 2, 3):
        save_checkpoint(step_folder(tmp_path, n), **state(n))
    damage(step_folder(tmp_path, 3))
    os.remove(step_folder(tmp_path, 2) / "manifest.json")
    said = []
    assert checkpoint_step(newest_checkpoint(tmp_path, said.append)) == 1
    assert [s.split(":")[0] for s in said] == [
        "skipped step-00000003", "skipped step-00000002", "using step-00000001, the newest that verifies",
    ]  # fmt: skip
    damage(step_folder(tmp_path, 1), "state.json")
    said.clear()
    assert newest_checkpoint(tmp_path, said.append) is None
    assert said[-1].startswith("none of the 3 checkpoints")


def test_no_checkpoint_is_none(tmp_path):
    said = []
    assert newest_checkpoint(tmp_path, said.append) is None
    assert newest_checkpoint(tmp_path / "missing", said.append) is None
    assert said == []


def test_pruning_keeps_the_newest_the_protected_and_what_is_not_ours(tmp_path):
    for n in range(1, 7):
        save_checkpoint(step_folder(tmp_path, n), model={"w": torch.ones(1)})
    (step_folder(tmp_path, 2) / "notes.txt").write_text("mine")
    foreign = ["step-1", "best", "step-00000001-copy", "step-0000000x"]
    for name in foreign:
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000000").symlink_to(step_folder(tmp_path, 6))
    removed = prune_checkpoints(tmp_path, 2, protect=["step-00000003"])
    assert [checkpoint_step(p) for p in removed] == [1, 4]
    left = sorted(os.listdir(tmp_path))
    assert left == sorted([*foreign, "step-00000000", *(f"step-0000000{n}" for n in (2, 3, 5, 6))])
    assert prune_checkpoints(tmp_path / "missing", 1) == []
    with pytest.raises(ValueError, match="at least 1"):
        prune_checkpoints(tmp_path, 0)


def test_nothing_is_pruned_when_the_newest_does_not_verify(tmp_path):
    for n in (1, 2, 3):
        save_checkpoint(step_folder(tmp_path, n), **state(n))
    damage(step_folder(tmp_path, 3), "train.safetensors")
    with pytest.raises(CheckpointError, match="step-00000003"):
        prune_checkpoints(tmp_path, 1)
    assert len(list_checkpoints(tmp_path)) == 3


# --- damaged and hostile -----------------------------------------------------------------------------------------


def test_a_thousand_mutations_are_refused_or_change_nothing(tmp_path, mutate, nothing_executed, expected):
    folder = save_checkpoint(step_folder(tmp_path, 1), **state(1))
    whole = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    rng, refused = random.Random(0), 0
    with nothing_executed():
        for _ in range(1000):
            name = rng.choice(sorted(whole))
            (folder / name).write_bytes(mutate(whole[name], rng))
            try:
                found = content(load_checkpoint(folder))
            except CheckpointError:
                refused += 1
            else:
                assert found == expected[1]
                assert name == "manifest.json"  # package versions are for people only
            (folder / name).write_bytes(whole[name])
    assert refused > 950
    assert content(load_checkpoint(folder)) == expected[1]


def rewrite_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_thousand_mutations_with_a_rewritten_manifest_execute_nothing(tmp_path, mutate, nothing_executed):
    folder = save_checkpoint(step_folder(tmp_path, 1), **state(1))
    whole = {name: (folder / name).read_bytes() for name in PARTS}
    limit = 2 * sum(map(len, whole.values()))
    rng, refused = random.Random(1), 0
    with nothing_executed():
        for _ in range(1000):
            name = rng.choice(PARTS)
            (folder / name).write_bytes(mutate(whole[name], rng))
            rewrite_manifest(folder)
            try:
                back = load_checkpoint(folder)
            except CheckpointError:
                refused += 1
            else:
                _, tensors = pack([back.train, back.info])  # raises for any type that we do not store
                every = [*tensors.values(), *back.model.values()]
                assert all(type(t) is torch.Tensor for t in every)
                assert sum(t.numel() * t.element_size() for t in every) <= limit
            (folder / name).write_bytes(whole[name])
    assert refused > 300


def replace_state(folder, value):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    (folder / "state.json").write_bytes(text)
    rewrite_manifest(folder)


@pytest.mark.parametrize(
    "train",
    [
        {"tensor": "missing"},
        {"tensor": ["a"]},
        {"dtype": "os.system"},
        {"dtype": "nn"},
        {"device": "cuda:999999999999999999999"},
        {"class": "torch.nn.Module"},
        {"size": [-1]},
        {"float": "1e5"},
        {"int": "9" * 100_000},
        {"dict": [1]},
        {"items": [[1, 2, 3]]},
        {"items": [[[1], 2]]},
        {"array": "optimizer.state.0.exp_avg", "dtype": "object"},
        {"complex tensor": "random"},
    ],
)
def test_a_hostile_skeleton_is_one_typed_error(tmp_path, train):
    folder = save_checkpoint(step_folder(tmp_path, 1), **state(1))
    replace_state(folder, {"schema": 1, "info": {"dict": {}}, "train": train})
    with pytest.raises(CheckpointError, match="use another checkpoint"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"[" * 100_000, "damaged|state"),
        (b'{"schema": 1, "info": {"dict": {}}, "train": ' + b"[" * 400 + b"]" * 400 + b"}", "too deep"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "not a checkpoint"),
        (b'{"schema": 1}', "not a checkpoint's state"),
        (b'{"schema": true, "info": {"dict": {}}, "train": null}', "not a checkpoint"),
        (b'{"schema": 2, "info": {"dict": {}}, "train": null}', "newer Surnia .*update"),
        (b'{"schema": 1, "info": [], "train": null}', "not a checkpoint's state"),
    ],
)
def test_a_hostile_state_file_is_one_typed_error(tmp_path, text, match):
    folder = save_checkpoint(step_folder(tmp_path, 1), **state(1))
    replace_state(folder, text)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        [],
        {"schema": 1, "files": {"../../etc/passwd": {"size": 1, "sha256": ""}}},
        {"schema": 1, "files": {"model.safetensors": {"size": 1, "sha256": ""}}},
        {"schema": 1, "files": dict.fromkeys(PARTS)},
        {"schema": 1, "files": {name: {"size": -1, "sha256": ""} for name in PARTS}},
        {"schema": 99},
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_one_typed_error(tmp_path, manifest):
    folder = save_checkpoint(step_folder(tmp_path, 1), **state(1))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        verify_checkpoint(folder)


def test_swapped_files_links_pipes_and_folders_are_refused(tmp_path):
    folder = save_checkpoint(step_folder(tmp_path, 1), **state(1))
    model, train = folder / "model.safetensors", folder / "train.safetensors"
    kept = model.read_bytes()
    model.write_bytes(train.read_bytes())
    for change in (
        lambda: None,
        lambda: model.symlink_to("/etc/hostname"),
        lambda: model.symlink_to(model),
        lambda: os.mkfifo(model),
        model.mkdir,
    ):
        if change.__name__ != "<lambda>" or not model.exists():
            change()
        with pytest.raises(CheckpointError):
            verify_checkpoint(folder)
        shutil.rmtree(model) if model.is_dir() else os.unlink(model)
    model.write_bytes(kept)
    verify_checkpoint(folder)


@pytest.mark.parametrize("name", ["nothing", "file", "empty"])
def test_what_is_no_checkpoint_is_said(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint|not a checkpoint"):
        load_checkpoint(tmp_path / name)
