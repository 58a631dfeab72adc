"""The commands that judge, embed and export a backbone, from the command line to the files."""

import csv
import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from apps.cli import main
from sslcore.nn import build_backbone
from sslcore.pretrain.data import ImageArray
from sslcore.storage import read_metadata, save_checkpoint, surroundings


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Reddish and bluish noise in class folders, 24 + 8 of each."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = random.integers(0, 120, (20, 20, 3), dtype=np.uint8)
                image[..., channel] += 80
                Image.fromarray(image).save(folder / split / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with one checkpoint of a ResNet-18."""
    torch.manual_seed(0)
    folder, network = tmp_path_factory.mktemp("runs") / "mine", build_backbone("resnet18")
    model = {f"method.encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    model["method.projector.0.weight"] = torch.zeros(2, 2)
    info = {
        "method": "simclr", "backbone": {"name": "resnet18"}, "in_channels": 3, "size": 32,
        "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    save_checkpoint(folder / "checkpoints" / "step-00000007", model=model, train={}, info=info)
    return folder


def surnia(*arguments):
    return main([str(argument) for argument in arguments])


def test_knn_prints_a_table_and_writes_what_it_printed(pictures, run_dir, tmp_path, capsys):
    assert surnia("evaluate", "knn", run_dir, "--data", pictures, "--neighbours", 5, "--out", tmp_path / "r.json") == 0
    said = " ".join(capsys.readouterr().out.split())
    result = json.loads((tmp_path / "r.json").read_text())
    assert f"{100 * result['top1']:.2f} %" in said
    assert "scored on the folder" in said
    assert (result["train_images"], result["test_images"], result["classes"], result["dim"]) == (72, 24, 3, 512)
    assert "trained with simclr" in result["backbone"]


def test_too_many_neighbours_are_said(pictures, capsys):
    assert surnia("evaluate", "knn", "pixels", "--data", pictures, "--neighbours", 500) == 0
    assert "Only 72 neighbours vote" in capsys.readouterr().out


def test_linear_reads_colours_off_pixels(pictures, tmp_path, capsys):
    assert surnia("evaluate", "linear", "pixels", "--data", pictures, "--out", tmp_path / "r.json") == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["top1"] > 0.9
    assert result["solver"] == "lbfgs"
    assert result["dim"] == 3 * 20 * 20  # the images' own size
    assert "chosen on a fifth of the training images" in capsys.readouterr().out


def test_linear_by_sgd_where_a_rate_is_given(pictures, tmp_path, capsys):
    options = ["--lr", 0.05, "--epochs", 5, "--out", tmp_path / "r.json"]
    assert surnia("evaluate", "linear", "pixels", "--data", pictures, *options) == 0
    assert json.loads((tmp_path / "r.json").read_text())["solver"] == "sgd"
    assert "SGD with learning rate 0.05 for 5 epochs" in capsys.readouterr().out


def test_finetune_gives_a_row_for_each_share(pictures, tmp_path, capsys):
    options = ["--labels", 1.0, 0.25, "--epochs", 2, "--out", tmp_path / "r.json"]
    assert surnia("evaluate", "finetune", "random:folder_cpu", "--data", pictures, *options) == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert [(r["share"], r["labels"]) for r in results] == [(0.25, 18), (1.0, 72)]
    said = capsys.readouterr().out
    assert "with random weights (seed 0)" in said
    assert "25 % of the labels" in said


def test_what_a_foreign_file_has_besides_its_backbone_is_said(pictures, tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(
        {"state_dict": {f"module.encoder_q.{k}": v for k, v in torchvision.models.resnet18().state_dict().items()}},
        tmp_path / "moco.pth.tar",
    )
    assert surnia("evaluate", "knn", tmp_path / "moco.pth.tar", "--data", pictures / "val") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "120 tensors of the file are the backbone's, 2 are not (first encoder_q.fc.weight)" in said
    assert "(names behind 'encoder_q.')" in said


def test_an_undivided_folder_is_divided_and_said(pictures, capsys):
    assert surnia("evaluate", "knn", "pixels", "--data", pictures / "train", "--seed", 3) == 0
    assert "scored on 20% of each class (seed 3)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["torchvision:resnet19", "--data", "{pictures}"], 4, "no classification network 'resnet19'"),
        (["nowhere", "--data", "{pictures}"], 4, "there is no nowhere"),
        (["pixels", "--data", "{pictures}/train/red"], 3, "has no labels"),
        (["pixels", "--data", "{pictures}", "--device", "cuda:9"], 2, "there is no cuda:9 here"),
        (["random:no_such.yaml", "--data", "{pictures}"], 2, "no_such.yaml"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(pictures, capsys, arguments, code, message):
    given = [argument.format(pictures=pictures) for argument in arguments]
    assert surnia("evaluate", "knn", *given) == code
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_embed_writes_features_and_names_in_the_same_order(pictures, run_dir, tmp_path, capsys, suffix):
    out = tmp_path / f"features{suffix}"
    assert surnia("embed", run_dir, "--data", pictures, "--out", out) == 0
    content = np.load(out) if suffix == ".npz" else {k: v.numpy() for k, v in load_file(out).items()}
    lines = list(csv.DictReader((tmp_path / "features.csv").open()))
    assert content["features"].shape == (96, 512)
    assert len(lines) == 96
    assert len({line["image"] for line in lines}) == 96
    assert [line["row"] for line in lines] == [str(i) for i in range(96)]
    first = next(line for line in lines if line["split"] == "validation" and line["class"] == "green")
    assert first["image"] == "val/green/00.png"
    assert content["labels"][int(first["row"])] == 1  # blue, green, red
    assert "96" in capsys.readouterr().out


def test_embedding_takes_every_split_that_there_is(pictures, tmp_path):
    def embedded(folder):
        assert surnia("embed", "pixels", "--data", folder, "--out", tmp_path / "f.npz", "--overwrite") == 0
        return [(line["split"], line["image"]) for line in csv.DictReader((tmp_path / "f.csv").open())]

    picture = (pictures / "train" / "red" / "00.png").read_bytes()
    folder, expected = tmp_path / "some", []
    for folder_name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        for name in ("0.png", "1.png"):
            (folder / folder_name).mkdir(parents=True, exist_ok=True)
            (folder / folder_name / name).write_bytes(picture)
            expected.append((split, f"{folder_name}/{name}"))
        assert embedded(folder) == expected


def test_embedded_features_say_where_they_come_from(pictures, tmp_path):
    data = pictures / "train" / "red"
    assert surnia("embed", "pixels", "--data", data, "--out", tmp_path / "f.npz") == 0
    assert surnia("embed", "pixels", "--data", data, "--out", tmp_path / "g.safetensors") == 0
    for said in (json.loads(str(np.load(tmp_path / "f.npz")["metadata"])), read_metadata(tmp_path / "g.safetensors")):
        assert said["command"][:3] == ["surnia", "embed", "pixels"]
        assert (said["versions"], said["git"]) == (surroundings()["versions"], surroundings()["git"])


def test_embedding_needs_no_labels(pictures, tmp_path):
    assert surnia("embed", "pixels", "--data", pictures / "train" / "red", "--out", tmp_path / "f.npz") == 0
    assert set(np.load(tmp_path / "f.npz")["labels"]) == {-1}


def test_an_unreadable_image_is_left_out_and_said(pictures, run_dir, tmp_path, capsys):
    folder = tmp_path / "some"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes((pictures / "train" / "red" / "00.png").read_bytes())
    (folder / "a" / "1.png").write_bytes(b"not an image")
    assert surnia("embed", run_dir, "--data", folder, "--out", tmp_path / "f.npz") == 0
    assert [line["image"] for line in csv.DictReader((tmp_path / "f.csv").open())] == ["a/0.png", "b/0.png"]
    assert "1 images could not be read" in capsys.readouterr().out


def test_export_shows_the_check_and_the_lines_to_copy(run_dir, tmp_path, capsys):
    out = tmp_path / "backbone.safetensors"
    assert surnia("export", run_dir, "--to", "torchvision", "--out", out) == 0
    said = capsys.readouterr().out
    assert "largest difference of the outputs │ 0" in said
    assert "network.load_state_dict(load_file(" in said
    network = torchvision.models.resnet18()
    network.fc = torch.nn.Identity()
    network.load_state_dict(load_file(out))


def test_export_names_matched_and_unmatched_keys(run_dir, tmp_path, capsys):
    assert surnia("export", run_dir, "--to", "torchvision", "--out", tmp_path / "backbone.safetensors") == 0
    said = capsys.readouterr().out.splitlines()
    assert "Matched: conv1.weight, bn1.* (5), layer1.* (24), layer2.* (30), layer3.* (30), layer4.* (30)." in said, said
    assert "Unmatched: none." in said
    assert "Left behind: method.projector.0.weight." in said


def test_an_exported_backbone_is_judged_like_the_run_it_came_from(pictures, run_dir, tmp_path):
    surnia("export", run_dir, "--to", "torchvision", "--out", tmp_path / "backbone.safetensors")
    results = []
    for i, source in enumerate((run_dir, tmp_path / "backbone.safetensors")):
        assert surnia("evaluate", "knn", source, "--data", pictures, "--out", tmp_path / f"{i}.json") == 0
        results.append(json.loads((tmp_path / f"{i}.json").read_text()))
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["size"] == results[1]["size"] == 32


def test_results_say_command_versions_and_revision(pictures, tmp_path):
    out = tmp_path / "r.json"
    assert surnia("evaluate", "knn", "pixels", "--data", pictures, "--out", out) == 0
    result, around = json.loads(out.read_text()), surroundings()
    assert result["command"] == [
        "surnia", "evaluate", "knn", "pixels", "--data", str(pictures), "--out", str(out)
    ]  # fmt: skip
    assert (result["versions"], result["git"]) == (around["versions"], around["git"])


@pytest.mark.parametrize(
    ("command", "name", "there"),
    [
        (["evaluate", "knn", "pixels", "--data", "{pictures}"], "r.json", "r.json"),
        (["embed", "pixels", "--data", "{pictures}"], "f.npz", "f.npz"),
        (["embed", "pixels", "--data", "{pictures}"], "f.npz", "f.csv"),
        (["export", "{run_dir}", "--to", "torchvision"], "b.safetensors", "b.safetensors"),
    ],
)
def test_nothing_is_replaced_unless_told(pictures, run_dir, tmp_path, capsys, command, name, there):
    (tmp_path / there).write_text("mine")
    words = [word.format(pictures=pictures, run_dir=run_dir) for word in command]
    assert surnia(*words, "--out", tmp_path / name) == 2
    said = capsys.readouterr().err
    assert said == f"command line: --out  {tmp_path / there} exists already; give another name, or add --overwrite\n"
    assert (tmp_path / there).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert surnia(*words, "--out", tmp_path / name, "--overwrite") == 0
    assert (tmp_path / there).read_bytes() != b"mine"


def test_a_folder_is_no_place_for_a_result(pictures, tmp_path, capsys):
    assert surnia("evaluate", "knn", "pixels", "--data", pictures, "--out", tmp_path, "--overwrite") == 2
    assert "is a folder; give the name of a file" in capsys.readouterr().err


def test_a_refused_export_leaves_nothing(run_dir, tmp_path, capsys):
    assert surnia("export", run_dir, "--to", "detectron2", "--out", tmp_path / "b.pth") == 4
    assert "ends in .pkl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pixels_are_no_larger_than_64(monkeypatch):
    from apps.probing import named_backbone

    large = ImageArray(images=torch.zeros(2, 1, 96, 100, dtype=torch.uint8), mean=(0.5,), std=(0.5,))
    assert named_backbone("pixels", large, seed=0).dim == 64 * 64
