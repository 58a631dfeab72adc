import pytest
import torch
from PIL import Image

from sslcore.backbones.loading import LoadedBackbone, load_backbone
from sslcore.errors import DataError, SurniaError
from sslcore.nn import build_backbone
from sslcore.pretrain.data import ImageArray, ImageFiles
from sslcore.pretrain.probes.finetune import finetune
from sslcore.settings import BackboneSettings

NOISE = torch.Generator().manual_seed(7)


def pictures(n, channels=3):
    """A bright bar on noise: its direction is the class. Crops and flips do not change that."""
    labels = torch.arange(n) % 2
    images = torch.randint(0, 120, (n, channels, 24, 24), generator=NOISE, dtype=torch.uint8)
    for image, label in zip(images, labels):
        at = int(torch.randint(8, 16, (), generator=NOISE))
        stripe = image[:, at : at + 3] if label == 0 else image[:, :, at : at + 3]
        stripe.fill_(250)
    return ImageArray(
        images=images, labels=labels, classes=["lying", "standing"], mean=(0.5,) * channels, std=(0.25,) * channels
    )


TRAIN, TEST = pictures(200), pictures(60)


def backbone(seed=0):
    torch.manual_seed(seed)
    network = build_backbone("tiny", width=8).eval()
    return LoadedBackbone(
        network, (0.3,) * 3, (0.2,) * 3, 24, 3, "tiny", settings=BackboneSettings(name="tiny", width=8)
    )


def test_learns_and_leaves_the_loaded_backbone_alone():
    loaded = backbone()
    before = {name: tensor.clone() for name, tensor in loaded.backbone.state_dict().items()}
    result = finetune(loaded, TRAIN, TEST, fraction=1.0, epochs=10, lr=0.1, batch_size=32)
    assert result.top1 > 0.9
    assert result.top5 == 1.0
    assert (result.labels, result.test_samples, result.epochs) == (200, 60, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.backbone.state_dict().items())
    assert not loaded.backbone.training


def test_few_labels_are_few_and_a_run_repeats():
    runs = [finetune(backbone(), TRAIN, TEST, fraction=0.1, epochs=2, seed=5) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].labels == 20
    assert runs[0] != finetune(backbone(), TRAIN, TEST, fraction=0.1, epochs=2, seed=6)


def test_draws_nothing_from_the_global_generator():
    loaded, before = backbone(), torch.get_rng_state()
    finetune(loaded, TRAIN, TEST, fraction=0.1, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_grey_images_go_to_a_colour_backbone_and_back():
    grey_train, grey_test = pictures(40, channels=1), pictures(20, channels=1)
    assert finetune(backbone(), grey_train, grey_test, fraction=1.0, epochs=1).test_samples == 20
    grey = load_backbone("pixels", in_channels=1, size=24)
    assert finetune(grey, TRAIN, TEST, fraction=1.0, epochs=1).test_samples == 60


def test_images_in_files(tmp_path):
    paths = []
    for i, image in enumerate(TRAIN.images[:24]):
        paths.append(f"{i}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((30, 24 + i % 3)).save(tmp_path / paths[-1])
    files = ImageFiles(root=tmp_path, paths=paths, labels=TRAIN.labels[:24], classes=TRAIN.classes)
    result = finetune(backbone(), files, files, fraction=0.5, epochs=2)
    assert (result.labels, result.test_samples) == (12, 24)


def test_impossible_requests_are_refused():
    with pytest.raises(SurniaError, match="diverged in epoch 1"):
        finetune(backbone(), TRAIN, TEST, fraction=1.0, epochs=2, lr=1e30)
    unlabelled = ImageArray(images=TRAIN.images)
    with pytest.raises(DataError, match="needs labels"):
        finetune(backbone(), unlabelled, TEST, fraction=1.0)
    with pytest.raises(DataError, match="take a larger share"):
        finetune(backbone(), TRAIN.subset([0]), TEST, fraction=0.01)
