"""What it costs to remember: pushes into a queue of negatives, and updates of a momentum encoder.

    python benchmarks/memory.py                    # 65536 x 128 queue, ResNet-50; about a minute
    python benchmarks/memory.py --json result.json --threads 1

Ours and the other forms do the same work on tensors of the same sizes, alternating within one process, so that whatever
else the machine does disturbs all alike. Times are medians; ratios are medians over the rounds of that round's ratio.
The other forms are those of MoCo (facebookresearch/moco) and lightly, written from what they compute.
"""

import argparse
import copy
import json
from collections.abc import Callable

import torch
from alternate import Forms, hardware, measure, table
from torch import nn
from torch.nn.functional import normalize

from sslcore.memory import FeatureQueue, MomentumEncoder
from sslcore.nn import build_backbone


def queue_forms(size: int, dim: int, batch: int, device: torch.device) -> Forms:
    """A step's upkeep of the queue, normalisation of the keys included. The first form is ours."""
    keys = torch.randn(batch, dim, device=device)
    ours = FeatureQueue(size, dim).to(device)

    columns = normalize(torch.randn(dim, size, device=device), dim=0)
    column_pointer = torch.zeros(1, dtype=torch.long, device=device)

    def moco(clone: bool) -> None:
        """Columns of a (d, K) queue, cloned for the loss; the pointer is read back; the batch must divide the size."""
        unit = normalize(keys, dim=1)
        if clone:
            columns.clone().detach()
        start = int(column_pointer)
        columns[:, start : start + batch] = unit.T
        column_pointer[0] = (start + batch) % size

    rows = normalize(torch.randn(size, dim, device=device), dim=1)
    row_pointer = torch.zeros(1, dtype=torch.long, device=device)

    def cloned_rows() -> None:
        """lightly's memory bank: rows, cloned for the loss, a pointer that is read back."""
        unit = normalize(keys, dim=1)
        rows.clone().detach()
        start = int(row_pointer)
        end = min(start + batch, size)
        rows[start:end] = unit[: end - start]
        row_pointer[0] = end % size

    return {
        "FeatureQueue.push": lambda: ours.push(keys),
        "MoCo: clone, write columns": lambda: moco(clone=True),
        "MoCo without the clone": lambda: moco(clone=False),
        "lightly: clone, write rows": cloned_rows,
    }


def store_forms(classes: int, size: int, dim: int, batch: int, device: torch.device) -> Forms:
    """Filling a ring per class: ORE's store of region features."""
    features = torch.randn(batch, dim, device=device)
    labels = torch.randint(0, classes, (batch,), device=device)
    ours = FeatureQueue(size, dim, classes, normalize=False).to(device)
    rings, pointers = torch.zeros(classes, size, dim, device=device), [0] * classes

    def loop() -> None:
        for feature, label in zip(features, labels.tolist()):
            rings[label, pointers[label]] = feature
            pointers[label] = (pointers[label] + 1) % size

    return {"FeatureQueue.push(x, labels)": lambda: ours.push(features, labels), "loop over rows": loop}


def momentum_forms(name: str, device: torch.device) -> Forms:
    """One update of the averaged weights."""
    online = build_backbone(name).to(device)
    ours = MomentumEncoder(online, 0.999)

    def copied() -> nn.Module:
        return copy.deepcopy(online).requires_grad_(False)

    with_data, with_lerp, with_foreach = copied(), copied(), copied()
    m = 0.999

    def moco() -> None:
        for new, old in zip(online.parameters(), with_data.parameters()):
            old.data = old.data * m + new.data * (1 - m)

    @torch.no_grad()
    def lerp() -> None:
        for new, old in zip(online.parameters(), with_lerp.parameters()):
            old.lerp_(new, 1 - m)

    @torch.no_grad()
    def lightly() -> None:
        old = [p.data for p in with_foreach.parameters()]
        torch._foreach_mul_(old, m)
        torch._foreach_add_(old, [p.data for p in online.parameters()], alpha=1 - m)

    return {
        "MomentumEncoder.update": lambda: ours.update(online),
        "MoCo: b.data = b.data * m + a.data * (1 - m)": moco,
        "lightly: foreach_mul_, foreach_add_": lightly,
        "loop of lerp_": lerp,
    }


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--queue", type=int, default=65536, help="rows of the queue")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--only", choices=("queue", "store", "momentum"), help="one section")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)

    def section(name: str, title: str, forms: Callable[[], Forms], calls: int) -> None:
        if options.only in (None, name):
            results[title] = measure(forms(), rounds=options.rounds, calls=calls, device=device)
            print(table(title, results[title]))

    print(f"## Memory: {hardware(device)}\n")
    results: dict[str, list[dict]] = {}
    size, dim, batch = options.queue, options.dim, options.batch
    keys = f"Push of {batch} keys into a {size} x {dim} queue"
    section("queue", keys, lambda: queue_forms(size, dim, batch, device), calls=10)
    store = "Push of 512 features into 81 rings of 20 x 2048"
    section("store", store, lambda: store_forms(81, 20, 2048, 512, device), calls=5)
    update = f"Momentum update of {options.backbone}"
    section("momentum", update, lambda: momentum_forms(options.backbone, device), calls=2)
    report = {"hardware": hardware(device), "options": vars(options), "results": results}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)
    return report


if __name__ == "__main__":
    main()
