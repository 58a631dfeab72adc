"""What contrastive clustering of regions costs: the loss with its gradient, the features' rings, the prototypes.

    python benchmarks/clustering.py                      # 128 regions, 82 prototypes, 2048-d features; a minute
    python benchmarks/clustering.py --json result.json --threads 1

Ours and the original's form (ORE, "Towards Open World Object Detection", CVPR 2021) do the work of the same step on the
same tensors, alternating within one process. The original's is written from what it computes: Minkowski distances of
order 10 by cdist, labels compared one pair at a time, a list of features for each class.
"""

import argparse
import json
from collections import deque

import torch
from alternate import Forms, hardware, measure, table
from torch.nn.functional import hinge_embedding_loss

from detection.openworld.prototype_clustering import PrototypeClustering
from detection.openworld.settings import ClusteringSettings


def ours(features: torch.Tensor, labels: torch.Tensor, known: int, loss: str) -> PrototypeClustering:
    """A clustering whose loss has begun, with every ring filled."""
    settings = ClusteringSettings(loss=loss, start=0, refresh=1)
    clustering = PrototypeClustering(known, features.shape[1], settings).to(features.device)
    everything = torch.arange(1, known + 2, device=features.device).repeat_interleave(settings.store)
    clustering.at(0, 0.0)
    clustering.remember(torch.randn(len(everything), features.shape[1], device=features.device), everything)
    clustering.at(1, 0.5)
    return clustering


def loss_forms(features: torch.Tensor, labels: torch.Tensor, known: int) -> Forms:
    """The loss and its gradient for the features. The first form is ours."""
    infonce, hinge = ours(features, labels, known, "infonce"), ours(features, labels, known, "hinge")
    prototypes = torch.randn(known + 2, features.shape[1], device=features.device)

    def of(clustering: PrototypeClustering) -> None:
        x = features.detach().requires_grad_()
        clustering.loss(x, labels).backward()

    def original(order: float) -> None:
        x = features.detach().requires_grad_()
        distances = torch.cdist(x, prototypes, p=order)
        signs = []
        for label in labels:
            signs.append([1 if label == cluster else -1 for cluster in range(len(prototypes))])
        hinge_embedding_loss(distances, torch.tensor(signs, device=x.device), margin=2.0).backward()

    return {
        "InfoNCE": lambda: of(infonce),
        "hinge (the paper's)": lambda: of(hinge),
        "the original's form, order 10": lambda: original(10.0),
        "the original's form, order 2": lambda: original(2.0),
    }


def store_forms(features: torch.Tensor, labels: torch.Tensor, known: int) -> Forms:
    """Pushing a step's features and renewing the prototypes. The first form is ours."""
    clustering = ours(features, labels, known, "hinge")
    size, dim = clustering.settings.store, features.shape[1]
    rings = [deque([torch.randn(dim) for _ in range(size)], maxlen=size) for _ in range(known + 2)]

    def original() -> None:
        for row, label in zip(features, labels):
            rings[int(label)].append(row)
        torch.stack([torch.stack(list(ring)).mean(dim=0) for ring in rings])

    return {"push and prototypes": lambda: clustering.remember(features, labels), "deques": original}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=128)
    parser.add_argument("--known", type=int, default=80, help="classes; prototypes are two more in the original's form")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the rows to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    features = torch.randn(options.regions, options.dim, device=device).relu()
    labels = torch.randint(1, options.known + 2, (options.regions,), device=device)

    size = f"{options.regions} regions, {options.known + 2} prototypes, d = {options.dim}"
    print(f"{hardware(device)}\n")
    results = {}
    for title, forms in (
        (f"Loss and gradient, {size}", loss_forms(features, labels, options.known)),
        (f"Rings and prototypes, {size}", store_forms(features, labels, options.known)),
    ):
        results[title] = measure(forms, rounds=options.rounds, device=device, seconds=60)
        print(table(title, results[title]))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"hardware": hardware(device), "results": results}, file, indent=2)


if __name__ == "__main__":
    main()
