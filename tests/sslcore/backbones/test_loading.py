import pytest
import torch
import torchvision
from torch import nn

from sslcore.backbones.loading import load_backbone
from sslcore.backbones.other_networks import Pixels
from sslcore.errors import CheckpointError
from sslcore.nn import build_backbone
from sslcore.settings import BackboneSettings
from sslcore.storage import save_checkpoint, write_weights

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DESCRIPTION = {
    "method": "simclr", "backbone": {"name": "tiny", "width": 8}, "in_channels": 3,
    "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "size": 24,
}  # fmt: skip


def trained(name="tiny", **options):
    """A network whose running statistics are not the initial ones: a file that loses them must be noticed."""
    network = build_backbone(name, **({"width": 8} if name == "tiny" else {}), **options)
    network(torch.randn(8, options.get("in_channels", 3), 32, 32))
    return network.eval()


def checkpoint(folder, network, **info):
    model = {f"method.encoder.{name}": tensor for name, tensor in network.state_dict().items()}
    model["method.projector.0.weight"] = torch.zeros(3, 3)
    save_checkpoint(folder, model=model, train={}, info={**DESCRIPTION, **info})


def the_same(loaded, network, images=IMAGES):
    assert not loaded.backbone.training
    assert torch.equal(loaded.backbone(images), network(images))


# --- Surnia's own ----------------------------------------------------------------------------------------------------


def test_a_run_directory_gives_its_newest_checkpoint(tmp_path):
    old, new = trained(), trained()
    checkpoint(tmp_path / "checkpoints" / "step-00000010", old)
    checkpoint(tmp_path / "checkpoints" / "step-00000020", new)
    loaded = load_backbone(tmp_path)
    the_same(loaded, new)
    assert (loaded.mean, loaded.std, loaded.size, loaded.in_channels) == ((0.5,) * 3, (0.2,) * 3, 24, 3)
    assert "trained with simclr" in loaded.description
    assert set(loaded.matched) == set(new.state_dict())
    assert loaded.unmatched == ("method.projector.0.weight",)
    the_same(load_backbone(tmp_path / "checkpoints"), new)
    the_same(load_backbone(tmp_path / "checkpoints" / "step-00000010"), old)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    old = trained()
    checkpoint(tmp_path / "checkpoints" / "step-00000010", old)
    checkpoint(tmp_path / "checkpoints" / "step-00000020", trained())
    weights = tmp_path / "checkpoints" / "step-00000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    the_same(load_backbone(tmp_path), old)
    manifest = tmp_path / "checkpoints" / "step-00000010" / "manifest.json"
    manifest.write_text("{}")
    with pytest.raises(CheckpointError, match="no checkpoint that can be read"):
        load_backbone(tmp_path)


def test_an_exported_file_knows_what_it_is(tmp_path):
    network = trained("resnet18", stem="small", in_channels=1)
    values = {
        **DESCRIPTION,
        "backbone": {"name": "resnet18", "stem": "small"},
        "in_channels": 1,
        "mean": [0.3],
        "std": [0.4],
    }
    write_weights(tmp_path / "b.safetensors", network.state_dict(), values)
    loaded = load_backbone(tmp_path / "b.safetensors")
    the_same(loaded, network, IMAGES[:, :1])
    assert loaded.mean == (0.3,)
    assert loaded.settings == BackboneSettings(name="resnet18", stem="small")


def test_loading_moves_no_random_state(tmp_path):
    checkpoint(tmp_path / "step-00000001", trained())
    before = torch.get_rng_state()
    load_backbone(tmp_path)
    load_backbone("torchvision:resnet18")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": {"name": "os.system"}}, r"which backbone it holds \(backbone.name"),
        ({"backbone": {"name": "tiny", "width": 8, "extra": 1}}, r"backbone.extra"),
        ({"size": -1}, r"\(size"),
        ({"mean": [0.5]}, "contradicts itself"),
        ({"std": [0.0, 1.0, 1.0]}, r"\(std.0"),
        ({"backbone": {"name": "tiny", "width": 16}}, "fit tiny: 0 of 30 weights match, 30 have another shape"),
        ({"backbone": {"name": "tiny", "width": 10**12}}, "cannot build a tiny|does not fit tiny"),
        ({"backbone": {"name": "resnet18"}}, "does not fit resnet18: 0 of 100 weights match, 100 are missing"),
    ],
)  # fmt: skip
def test_a_lying_description_is_one_error(tmp_path, change, message):
    checkpoint(tmp_path / "step-00000001", trained(), **change)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*: give a run directory, a checkpoint"):
        load_backbone(tmp_path / "nothing")
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(CheckpointError, match="holds no checkpoint of a backbone: resume it"):
        load_backbone(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"no manifest.json"):
        load_backbone(tmp_path / "checkpoints")


# --- from elsewhere
# ----------------------------------------------------------------------------------------------------


RESNET = trained("resnet18")


@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder_q.", "backbone.", "model.net.encoder."])
def test_prefixes_are_found_and_heads_are_left_out(tmp_path, prefix):
    tensors = {prefix + name: tensor for name, tensor in RESNET.state_dict().items()}
    tensors[f"{prefix}fc.0.weight"] = torch.zeros(4, 512)
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "a.pth.tar")
    loaded = load_backbone(tmp_path / "a.pth.tar")
    the_same(loaded, RESNET)
    assert loaded.settings == BackboneSettings(name="resnet18")
    assert len(loaded.unmatched) == 1
    assert loaded.unmatched[0].endswith("fc.0.weight")
    assert loaded.size == 224


@pytest.mark.parametrize(
    "names", [("encoder_q.", "encoder_k."), ("backbone.", "momentum_backbone."), ("online.", "target.")]
)
def test_of_two_copies_the_trained_one_is_taken(tmp_path, names):
    other = trained("resnet18")
    tensors = {names[1] + name: tensor for name, tensor in other.state_dict().items()}
    tensors |= {names[0] + name: tensor for name, tensor in RESNET.state_dict().items()}
    torch.save(tensors, tmp_path / "a.pth")
    loaded = load_backbone(tmp_path / "a.pth")
    the_same(loaded, RESNET)
    assert len(loaded.unmatched) == len(other.state_dict())
    assert repr(names[0]) in loaded.description


def test_children_numbered_in_a_sequential(tmp_path):
    network = torchvision.models.resnet18()
    network(IMAGES)
    network.fc = nn.Identity()
    numbered = nn.Sequential(*list(network.children())[:-1])
    torch.save({f"backbone.{k}": v for k, v in numbered.state_dict().items()}, tmp_path / "a.ckpt")
    the_same(load_backbone(tmp_path / "a.ckpt"), network.eval())


def test_small_stems_called_shortcuts_and_grey_images(tmp_path):
    network = trained("resnet34", stem="small", in_channels=1)
    torch.save({k.replace("downsample", "shortcut"): v for k, v in network.state_dict().items()}, tmp_path / "a.pt")
    loaded = load_backbone(tmp_path / "a.pt")
    the_same(loaded, network, IMAGES[:, :1])
    assert loaded.settings == BackboneSettings(name="resnet34", stem="small")
    assert (loaded.in_channels, loaded.size, len(loaded.mean)) == (1, 32, 1)


def test_half_precision_and_missing_counters(tmp_path):
    tensors = {k: v.half() for k, v in RESNET.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(tensors, tmp_path / "a.pth")
    loaded = load_backbone(tmp_path / "a.pth")
    assert loaded.backbone(IMAGES).dtype == torch.float32
    torch.testing.assert_close(loaded.backbone(IMAGES), RESNET(IMAGES), atol=0.02, rtol=0.02)


def test_other_networks_need_their_name(tmp_path):
    network = trained()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no ResNet that can be recognised"):
        load_backbone(tmp_path / "a.pth")
    the_same(load_backbone(tmp_path / "a.pth", architecture=BackboneSettings(name="tiny", width=8)), network)


def test_missing_and_misshaped_weights_are_counted_and_named(tmp_path):
    tensors = dict(RESNET.state_dict())
    del tensors["layer3.1.conv2.weight"]
    tensors["bn1.weight"] = torch.zeros(3)
    tensors["fc.weight"] = torch.zeros(10, 512)
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load_backbone(tmp_path / "a.pth")
    said = str(caught.value)
    assert "a.pth does not fit resnet18: 98 of 100 weights match" in said
    assert "1 are missing (layer3.1.conv2.weight)" in said
    assert "bn1.weight is (3,), wanted (64,)" in said
    assert "1 in the file are not its own (fc.weight)" in said


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"layer1.0.conv1.weight": Bomb()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        load_backbone(tmp_path / "a.pth")


# --- no file
# -------------------------------------------------------------------------------------------------------------


def test_pixels_are_features():
    loaded = load_backbone("pixels", in_channels=1, size=8)
    assert loaded.dim == 64
    assert isinstance(loaded.backbone, Pixels)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded.backbone(images), images.flatten(1))


def test_torchvision_networks_are_random_but_seeded(tmp_path):
    a, b, c = (load_backbone("torchvision:resnet18", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.backbone(IMAGES), b.backbone(IMAGES))
    assert not torch.equal(a.backbone(IMAGES), c.backbone(IMAGES))
    assert a.dim == 512
    torch.save({**RESNET.state_dict(), "fc.weight": torch.zeros(1)}, tmp_path / "a=b.pth")
    the_same(load_backbone(f"torchvision:resnet18={tmp_path / 'a=b.pth'}"), RESNET)


def test_other_torchvision_networks_lose_only_their_last_layer(tmp_path):
    theirs = torchvision.models.mobilenet_v3_small()
    theirs(IMAGES)
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    loaded = load_backbone(f"torchvision:mobilenet_v3_small={tmp_path / 'm.pth'}")
    assert loaded.dim == 1024
    assert loaded.unmatched == ("classifier.3.weight", "classifier.3.bias")
    torch.testing.assert_close(theirs.classifier[3](loaded.backbone(IMAGES)), theirs(IMAGES))


def test_random_is_the_same_network_with_fresh_weights(tmp_path):
    network = trained()
    checkpoint(tmp_path / "step-00000001", network)
    a, b = load_backbone(f"random:{tmp_path}", seed=3), load_backbone(f"random:{tmp_path}", seed=3)
    assert torch.equal(a.backbone(IMAGES), b.backbone(IMAGES))
    assert not torch.equal(a.backbone(IMAGES), network(IMAGES))
    assert (a.size, a.mean, a.matched) == (24, (0.5,) * 3, ())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:resnet1000", "no classification network 'resnet1000'"),
        ("torchvision:squeezenet1_0", "does not end in a linear layer"),
        ("random:pixels", "no weights to draw"),
    ],
)
def test_impossible_sources_are_one_sentence(source, message):
    with pytest.raises(CheckpointError, match=message):
        load_backbone(source)


def test_images_of_another_size(tmp_path):
    checkpoint(tmp_path / "step-00000001", trained())
    loaded = load_backbone(tmp_path, size=48)
    assert loaded.size == 48
    assert loaded.eval_view()(torch.zeros(1, 3, 60, 50, dtype=torch.uint8)).shape == (1, 3, 48, 48)
    pixel = build_backbone("pixel_encoder", width=4, size=24)
    checkpoint(tmp_path / "step-00000002", pixel, backbone={"name": "pixel_encoder", "width": 4})
    assert load_backbone(tmp_path).backbone(torch.zeros(1, 3, 24, 24)).shape == (1, 50)
    with pytest.raises(CheckpointError, match="24 pixels only"):
        load_backbone(tmp_path, size=48)
