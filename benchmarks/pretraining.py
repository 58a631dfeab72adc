"""Does pretraining learn? MoCo, SimCLR and BYOL on Fashion-MNIST against raw pixels, the random network, and lightly.

    python benchmarks/pretraining.py                       # everything; continues where it was interrupted
    python benchmarks/pretraining.py --rows simclr raw     # some rows
    python benchmarks/pretraining.py --table docs/results/pretraining.md

Every row trains the same small residual network for the same number of epochs on the 60 000 training images without
their labels, and is then asked about the 10 000 test images: a linear probe (penalty chosen on held-out training
features), weighted kNN (k = 20) with all labels and with 600, 60 a class. Each (row, seed) is stored when it is done.

The peer rows need lightly (`pip install lightly`); it runs its own loss, heads, momentum update, memory bank and
per-image transforms, in a plain loop with its own data loader. Rates are of the training loop alone. `--threads` sets
the torch threads of a run; the peer's loader gets `--peer-workers` processes besides.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from alternate import processor
from torch import nn

from apps.recipes import load_recipe
from sslcore.augment import EvalView
from sslcore.nn import build_backbone
from sslcore.pretrain.data import ImageArray, iterate_eval, open_images
from sslcore.pretrain.probes.features import embed
from sslcore.pretrain.probes.knn import knn_accuracy
from sslcore.pretrain.probes.linear import linear_probe
from sslcore.pretrain.probes.subsets import per_class
from sslcore.pretrain.recipe import DataSettings, Recipe
from sslcore.pretrain.run import pretrain

FEW = 60  # labels a class of the 600-label rows
OURS = ("moco", "simclr", "byol")
ROWS = ("raw", "random", *OURS, "lightly_moco", "lightly_simclr")
NAMES = {
    "raw": "raw pixels", "random": "random network", "moco": "MoCo", "simclr": "SimCLR", "byol": "BYOL",
    "lightly_moco": "lightly MoCo", "lightly_simclr": "lightly SimCLR",
}  # fmt: skip


def main() -> None:
    arguments = parse()
    train = open_images(DataSettings(kind="fashion_mnist", path=arguments.data), split="train")
    test = open_images(DataSettings(kind="fashion_mnist", path=arguments.data), split="test")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            path = arguments.out / f"{row}-epochs{arguments.epochs}-seed{seed}.json"
            if path.exists() or (row == "raw" and seed > 0):
                continue
            result = measure(row, seed, train, test, arguments)
            path.write_text(json.dumps(result, indent=1))
            print(row, seed, json.dumps(result["accuracy"]), f"{result['images_per_second']:.0f} images/s", flush=True)
    text = table(arguments)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def measure(row: str, seed: int, train: ImageArray, test: ImageArray, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(seed)
    recipe = recipe_of(row.removeprefix("lightly_"), seed, arguments)
    network: nn.Module
    rate = 0.0
    if row == "raw":
        network = nn.Flatten()
    elif row == "random":
        network = build_backbone("tiny", width=recipe.backbone.width, in_channels=1)
    elif row in OURS:
        outcome = pretrain(recipe, None, images=train)
        network, rate = outcome.module.method.encoder, outcome.images_per_second
    else:
        network, rate = train_lightly(row, recipe, train, arguments)
    return {
        "row": row,
        "seed": seed,
        "images_per_second": rate,
        "accuracy": accuracy(network, train, test, seed),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "cpu": processor(),
    }


def recipe_of(method: str, seed: int, arguments: argparse.Namespace) -> Recipe:
    """The shipped recipe, at the budget of this benchmark."""
    name = f"{method if method in OURS else 'simclr'}_tiny_fashion_mnist"
    changes = [
        f"--seed={seed}",
        f"--epochs={arguments.epochs}",
        "--probe.every_epochs=0",
        "--devices=1",
        f"--threads={arguments.threads}",
    ]
    return load_recipe(name, Recipe, changes)[0]


def accuracy(network: nn.Module, train: ImageArray, test: ImageArray, seed: int) -> dict[str, float]:
    view = EvalView(size=28, mean=train.mean, std=train.std, resize=None)
    bank = embed(network, iterate_eval(train, view, batch_size=1000))
    query = embed(network, iterate_eval(test, view, batch_size=1000))
    assert bank.labels is not None
    assert query.labels is not None
    few = per_class(bank.labels, FEW, seed=seed)
    split = (bank.features, bank.labels, query.features, query.labels)
    small = (bank.features[few], bank.labels[few], query.features, query.labels)
    return {
        "linear": linear_probe(*split, classes=10, seed=seed).top1,
        "knn": knn_accuracy(*split, k=20, temperature=0.07, classes=10),
        "knn_600": knn_accuracy(*small, k=20, temperature=0.07, classes=10),
    }


def train_lightly(
    row: str, recipe: Recipe, train: ImageArray, arguments: argparse.Namespace
) -> tuple[nn.Module, float]:
    """lightly's SimCLR or MoCo on the same network, batch, optimiser, schedule and views, as in its examples."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import MoCoV2Transform, SimCLRTransform
    from lightly.utils.scheduler import CosineWarmupScheduler
    from PIL import Image

    view, settings = recipe.views[0], recipe.method
    transform = (MoCoV2Transform if row == "lightly_moco" else SimCLRTransform)(
        input_size=view.size, min_scale=view.scale[0], cj_prob=view.jitter, cj_bright=view.brightness,
        cj_contrast=view.contrast, cj_sat=view.saturation, cj_hue=view.hue, cj_strength=1.0,
        random_gray_scale=view.grayscale, gaussian_blur=view.blur, hf_prob=view.flip,
        normalize={"mean": list(train.mean), "std": list(train.std)},
    )  # fmt: skip
    pictures = [Image.fromarray(image[0].numpy()) for image in train.images]

    class Views(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, i: int) -> list[torch.Tensor]:
            return transform(pictures[i])

    loader = torch.utils.data.DataLoader(
        Views(), batch_size=recipe.batch_size, shuffle=True, drop_last=True, num_workers=arguments.peer_workers,
        persistent_workers=arguments.peer_workers > 0,
    )  # fmt: skip
    encoder = build_backbone("tiny", width=recipe.backbone.width, in_channels=1)
    hidden, out = settings.projector
    trained: nn.ModuleList
    if row == "lightly_moco":
        head = MoCoProjectionHead(encoder.dim, hidden, out)
        key_encoder, key_head = copy.deepcopy(encoder), copy.deepcopy(head)
        deactivate_requires_grad(key_encoder)
        deactivate_requires_grad(key_head)
        criterion = NTXentLoss(temperature=settings.temperature, memory_bank_size=(settings.queue, out))
    else:
        head = SimCLRProjectionHead(encoder.dim, hidden, out)
        criterion = NTXentLoss(temperature=settings.temperature)
    trained = nn.ModuleList([encoder, head])
    optimizer = optimizer_of(trained, recipe)
    steps = recipe.epochs * len(loader)
    warmup = round(recipe.optimizer.warmup_epochs * len(loader))
    schedule = CosineWarmupScheduler(optimizer, warmup_epochs=warmup, max_epochs=steps)

    began = time.perf_counter()
    for _ in range(recipe.epochs):
        for a, b in loader:
            if row == "lightly_moco":
                update_momentum(encoder, key_encoder, settings.momentum)
                update_momentum(head, key_head, settings.momentum)
                with torch.no_grad():
                    key = key_head(key_encoder(b))
                loss = criterion(head(encoder(a)), key)
            else:
                loss = criterion(head(encoder(a)), head(encoder(b)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return encoder, steps * recipe.batch_size / (time.perf_counter() - began)


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    from sslcore.pretrain.optim import build_optimizer

    return build_optimizer(model, recipe.optimizer, recipe.learning_rate)


def table(arguments: argparse.Namespace) -> str:
    """Mean and range over seeds, one line a row."""
    stored = [
        json.loads(path.read_text()) for path in sorted(arguments.out.glob(f"*-epochs{arguments.epochs}-seed*.json"))
    ]
    lines = [
        "| features | linear, all labels | kNN, all labels | kNN, 600 labels | images/s | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        mine = [r for r in stored if r["row"] == row]
        if mine:
            cells = [spread([r["accuracy"][key] for r in mine]) for key in ("linear", "knn", "knn_600")]
            rate = statistics.median(r["images_per_second"] for r in mine)
            lines.append(f"| {NAMES[row]} | {' | '.join(cells)} | {f'{rate:,.0f}' if rate else '–'} | {len(mine)} |")
    if stored:
        first = stored[0]
        lines += [
            "",
            f"{arguments.epochs} epochs, {first['threads']} torch threads, {first['cpu']}, torch {first['torch']}.",
        ]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    middle = statistics.mean(values)
    return f"{middle:.4f} ({min(values):.4f}–{max(values):.4f})" if len(values) > 1 else f"{middle:.4f}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-workers", type=int, default=2)
    parser.add_argument("--data", default="", help="folder with the idx files; default: where Debian installs them")
    parser.add_argument("--out", type=Path, default=Path(".cache/benchmarks/pretraining"))
    parser.add_argument("--table", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
