import io
import os
import pickle
import random
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from sslcore.errors import CheckpointError
from sslcore.storage import read_metadata, read_weights, write_weights

WEIGHTS = {
    "conv.weight": torch.arange(24.0).reshape(2, 3, 4),
    "bn.count": torch.tensor(5),
    "bias": torch.ones(3).half(),
}


def same(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_written_weights_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "backbone.safetensors"
    metadata = {"backbone": {"name": "resnet18", "width": 64}, "mean": [0.5, 0.5, 0.5], "label": "ä"}
    write_weights(path, WEIGHTS, metadata)
    assert same(read_weights(path), WEIGHTS)
    assert list(read_weights(path)) == list(WEIGHTS)
    assert read_metadata(path) == metadata
    assert same(safetensors.torch.load_file(path), WEIGHTS)


def test_shared_strided_and_parameter_weights_are_written(tmp_path):
    w = torch.nn.Parameter(torch.randn(4, 4))
    write_weights(tmp_path / "a", {"w": w, "tied": w, "t": w.T, "e": w.expand(2, 4, 4), "none": torch.empty(0)}, {})
    back = read_weights(tmp_path / "a")
    assert torch.equal(back["t"], w.T)
    assert back["e"].shape == (2, 4, 4)
    assert not back["w"].requires_grad


def test_metadata_that_is_not_plain_is_refused(tmp_path):
    for wrong in ({"f": print}, {"x": float("nan")}):
        with pytest.raises(CheckpointError, match="plain JSON"):
            write_weights(tmp_path / "a", WEIGHTS, wrong)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3, "arch": "resnet50", "optimizer": {"state": {}}},
        lambda w: {"model": w, "iteration": 5},
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {**w, "version": 3, "names": ["a"]},
    ],
)
def test_files_of_torch_are_read_wherever_the_state_dict_is(tmp_path, wrap, legacy):
    path = tmp_path / "model.pth.tar"
    torch.save(wrap(WEIGHTS), path, _use_new_zipfile_serialization=not legacy)
    assert same(read_weights(path), WEIGHTS)
    assert read_metadata(path) == {}


def test_a_prefix_is_chosen_and_taken_off(tmp_path):
    torch.save({"module.encoder_q.a": torch.ones(1), "module.encoder_k.a": torch.zeros(1)}, tmp_path / "moco.pth")
    assert read_weights(tmp_path / "moco.pth", prefix="encoder_q.").keys() == {"a"}
    with pytest.raises(CheckpointError, match="begin with encoder_k, encoder_q"):
        read_weights(tmp_path / "moco.pth", prefix="backbone.")


# --- hostile -----------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def payloads(marker):
    touch = f"open({os.fspath(marker)!r}, 'w')"
    inner = io.BytesIO()
    torch.save(Payload(eval, (touch,)), inner)
    return {
        "os.system": Payload(os.system, (f"touch {marker}",)),
        "eval": Payload(eval, (touch,)),
        "exec": Payload(exec, (touch,)),
        "nested": {"state_dict": {"a": torch.ones(1), "b": [Payload(eval, (touch,))]}},
        "storage bytes": {"a": Payload(torch.storage._load_from_bytes, (inner.getvalue(),))},
        "getattr": Payload(getattr, (list, "append")),
        "numpy objects": {"a": np.array([Payload(eval, (touch,))])},
        "key": {Payload(eval, (touch,)): torch.ones(1)},
        "a module": torch.nn.Linear(2, 2),
    }


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "named safetensors"])
@pytest.mark.parametrize("kind", sorted(payloads("x")))
def test_no_payload_runs(tmp_path, nothing_executed, kind, form):
    marker, path = tmp_path / "marker", tmp_path / ("w.safetensors" if form == "named safetensors" else "w.pth")
    payload = payloads(marker)[kind]
    if form == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form != "legacy")
    with nothing_executed(), pytest.raises(CheckpointError, match=";"):
        read_weights(path)
    assert not marker.exists()


def test_the_payloads_would_run(tmp_path):
    torch.save(payloads(tmp_path / "marker")["nested"], tmp_path / "w.pth")
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "marker").exists()


def test_a_file_that_wants_to_run_code_is_told_from_a_damaged_one(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"wants to run code .* save model\.state_dict\(\) alone"):
        read_weights(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"hello, this is a text")
    with pytest.raises(CheckpointError, match="damaged or not a weight file"):
        read_weights(tmp_path / "w.pth")


def zipped(entries, compression=zipfile.ZIP_STORED):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


def tarred():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return data.getvalue()


HEADER = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,%d]}}'


def safe(shape, end, data):
    header = HEADER % (shape, end)
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"PK\x03\x04",
        zipped({"a/data.pkl": b"\x80\x02}."}),
        zipped({"a/data.pkl": bytes(10_000_000)}, zipfile.ZIP_DEFLATED),
        zipped({"../../evil": b"x", "data.pkl": pickle.dumps(os.system)}),
        zipped({"constants.pkl": b"x", "code/a.py": b"x"}),
        tarred(),
        safe(b"1000000000000", 4_000_000_000_000, b"\0" * 4),
        safe(b"1", 4, b""),
        safe(b"18446744073709551615,18446744073709551615", 4, b"\0" * 4),
        safe(b"-1", 4, b"\0" * 4),
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        pickle.dumps({"a": 1}),
        pickle.dumps([1, 2]),
    ],
)
def test_hostile_bytes_are_one_typed_error(tmp_path, nothing_executed, data):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(data)
        with nothing_executed(), pytest.raises(CheckpointError, match=";"):
            read_weights(tmp_path / name)


def test_tensors_far_larger_than_their_file_are_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="far larger than itself"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta")])
def test_tensors_that_are_not_dense_are_refused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=";"):
        read_weights(tmp_path / "w.pth")


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no such file or directory; give an existing weight file"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_weights(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_weights(tmp_path)


@pytest.mark.parametrize("form", ["ours", "zip"])
def test_a_thousand_mutations_are_refused_or_change_nothing(tmp_path, mutate, nothing_executed, form):
    path = tmp_path / "w"
    if form == "ours":
        write_weights(path, WEIGHTS, {"a": 1})
    else:
        torch.save({"state_dict": WEIGHTS}, path)
    whole, rng, refused = path.read_bytes(), random.Random(2), 0
    with nothing_executed():
        for _ in range(500):
            path.write_bytes(mutate(whole, rng))
            try:
                assert same(read_weights(path), WEIGHTS)
            except CheckpointError:
                refused += 1
    assert refused > 250


@pytest.mark.parametrize("form", ["safetensors", "legacy"])
def test_mutations_that_no_sum_can_show_execute_nothing(tmp_path, mutate, nothing_executed, form):
    path = tmp_path / "w"
    if form == "safetensors":
        safetensors.torch.save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    whole, rng, refused = path.read_bytes(), random.Random(3), 0
    with nothing_executed():
        for _ in range(500):
            path.write_bytes(mutate(whole, rng))
            try:
                back = read_weights(path)
            except CheckpointError:
                refused += 1
            else:
                assert sum(t.numel() * t.element_size() for t in back.values()) < 5 * len(whole) + (64 << 20)
                assert all(type(t) is torch.Tensor and t.is_contiguous() for t in back.values())
    assert refused > 150


def test_no_memory_is_handed_out_that_the_file_does_not_fill(tmp_path):
    """Torch's own reader believes the sizes in a zip's directory: a small one gives tensors of uninitialised memory."""
    torch.save(WEIGHTS, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    directory = whole.index(b"PK\x01\x02")
    found = 0
    for at in range(directory, len(whole) - 46):
        if whole[at : at + 4] == b"PK\x01\x02":
            for field in (20, 24, 42):  # compressed size, size, offset
                for value in (0, 1, 7, 1 << 31, (1 << 32) - 1):
                    (tmp_path / "w").write_bytes(
                        whole[: at + field] + struct.pack("<I", value) + whole[at + field + 4 :]
                    )
                    try:
                        assert same(read_weights(tmp_path / "w"), WEIGHTS)
                    except CheckpointError:
                        found += 1
    assert found > 50


def test_mutations_inside_a_zip_with_right_sums_execute_nothing(tmp_path, mutate, nothing_executed):
    torch.save(WEIGHTS, tmp_path / "w")
    with zipfile.ZipFile(tmp_path / "w") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    rng, refused = random.Random(5), 0
    with nothing_executed():
        for _ in range(500):
            name = rng.choice(sorted(entries))
            (tmp_path / "w").write_bytes(zipped({**entries, name: mutate(entries[name], rng)}))
            try:
                back = read_weights(tmp_path / "w")
            except CheckpointError:
                refused += 1
            else:
                assert all(t.untyped_storage().nbytes() <= 96 for t in back.values())
    assert refused > 150
