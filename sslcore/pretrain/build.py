"""From a recipe to what is trained: data opened, networks made, and everything checked that can be known beforehand."""

import torch

from sslcore.augment import EvalView, RandomView, ViewSpec
from sslcore.backbones.loading import eval_resize, load_backbone
from sslcore.errors import ConfigError, DataError
from sslcore.nn import Backbone, build_backbone
from sslcore.pretrain.data import open_images
from sslcore.pretrain.loop import Images, Plan, Pretraining
from sslcore.pretrain.methods import build_method
from sslcore.pretrain.recipe import PCLSettings, Recipe, ViewSettings
from sslcore.training.machine import device_here, processes_here


def build(recipe: Recipe, images: Images | None = None) -> Pretraining:
    """The module that a recipe describes: data opened, networks made from the recipe's seed.

    Args:
        recipe: see `sslcore.pretrain.recipe`.
        images: used in place of what `recipe.data` names.

    Raises:
        DataError: the data cannot be used, or does not fit the method.
        ConfigError: the recipe does not fit the data or this machine.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if images is None:
        images = open_images(recipe.data, split="train", device=device_here(), processes=processes_here(recipe.devices))
    if recipe.method.needs_labels and images.labels is not None:
        images = images.labelled()
    check_fit(recipe, images)
    torch.manual_seed(recipe.seed)
    backbone_settings = recipe.backbone
    size = recipe.views[0].size
    encoder = build_backbone(
        backbone_settings.name, stem=backbone_settings.stem, width=backbone_settings.width,
        layers=backbone_settings.layers, features=backbone_settings.features,
        in_channels=images.channels, size=size,
    )  # fmt: skip
    if backbone_settings.weights:
        start_from(encoder, backbone_settings.weights)
    description = {
        "method": recipe.method.name,
        "backbone": backbone_settings.model_dump(mode="json"),
        "in_channels": images.channels,
        "mean": list(images.mean),
        "std": list(images.std),
        "size": size,
    }
    views = [random_view(settings, images) for settings in recipe.views for _ in range(settings.count)]
    eval_view = EvalView(size=size, mean=images.mean, std=images.std, resize=eval_resize(size))
    return Pretraining(build_method(recipe.method, encoder), images, recipe, views, eval_view, description)


def random_view(settings: ViewSettings, images: Images) -> RandomView:
    return RandomView(ViewSpec(**settings.model_dump(exclude={"count"})), mean=images.mean, std=images.std)


def start_from(encoder: Backbone, source: str) -> None:
    """Weights of a run or a file into a new backbone; both must be the same network."""
    weights = load_backbone(source).backbone.state_dict()
    ours = encoder.state_dict()
    unlike = [key for key in ours if key not in weights or weights[key].shape != ours[key].shape]
    unlike += [key for key in weights if key not in ours]
    if unlike:
        found, wanted = (tuple(t[unlike[0]].shape) if unlike[0] in t else "missing" for t in (weights, ours))
        raise ConfigError(
            f"backbone.weights: {source} is another network than backbone.name, stem, width and the images ask for: "
            f"{len(unlike)} tensors differ, the first is {unlike[0]}, {found} there and {wanted} here"
        )
    encoder.load_state_dict(weights)


def check_fit(recipe: Recipe, images: Images) -> None:
    """Everything about recipe, data and machine that can be known before the first step. All problems at once."""
    method, problems = recipe.method, []
    if len(images) < recipe.batch_size:
        raise DataError(
            f"{recipe.data.path or images.name}: {len(images)} images are fewer than one batch of {recipe.batch_size}; "
            f"set batch_size to {len(images)} or less"
        )
    if method.needs_labels and images.labels is None:
        problems.append(
            f"method.name: {method.name} needs labels, and these images have none; put each class in its own folder"
        )
    if isinstance(method, PCLSettings) and max(method.clusters) >= len(images):
        problems.append(
            f"method.clusters: {max(method.clusters)} clusters need more images than the {len(images)} there are"
        )
    if recipe.precision == "16" and not torch.cuda.is_available():
        problems.append("precision: 16 needs a CUDA GPU, and there is none here; use bf16 or 32")
    processes = processes_here(recipe.devices) * recipe.nodes
    if recipe.batch_size % processes:
        problems.append(f"batch_size: {recipe.batch_size} does not divide among {processes} processes")
    elif splits := recipe.batch_size // processes % getattr(method, "norm_splits", 1):
        problems.append(
            f"method.norm_splits: a process's batch of {recipe.batch_size // processes} does not divide into "
            f"{getattr(method, 'norm_splits', 1)} equal parts ({splits} left over)"
        )
    if Plan(recipe, len(images)).updates == 0:
        problems.append(
            f"accumulate: {recipe.accumulate} batches make an optimiser step, and {recipe.epochs} epochs have only "
            f"{recipe.epochs * (len(images) // recipe.batch_size)}; set it lower, or epochs higher"
        )
    if problems:
        raise ConfigError(*problems)
