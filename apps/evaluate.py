"""`surnia evaluate knn|linear|finetune`: what a backbone's features are worth, in one table."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from apps.probing import (
    data_settings,
    features_of,
    named_backbone,
    percent,
    pick_device,
    provenance,
    show,
    workers_for,
)
from sslcore.backbones.loading import LoadedBackbone
from sslcore.pretrain.probes.accuracy import topk_accuracy
from sslcore.pretrain.probes.finetune import finetune as tune
from sslcore.pretrain.probes.knn import knn_votes
from sslcore.pretrain.probes.linear import linear_probe, linear_probe_sgd
from sslcore.pretrain.probes.splits import Splits, open_splits
from sslcore.storage import write_json


@dataclass
class Job:
    """A backbone, the images it is judged on, and what there is to say about both."""

    loaded: LoadedBackbone
    splits: Splits
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> int:
        return len(self.splits.classes)

    def described(self, evaluation: str) -> dict[str, Any]:
        """What every result file begins with."""
        return {
            "evaluation": evaluation,
            "backbone": self.loaded.description,
            "dim": self.loaded.dim,
            "size": self.loaded.size,
            "data": self.splits.note,
            "classes": self.classes,
            "train_images": len(self.splits.train),
            "test_images": len(self.splits.test),
        }


def prepare(args: argparse.Namespace) -> Job:
    """Open what the command line names."""
    pick_device(args.device)  # a missing one is told before anything is read
    splits = open_splits(data_settings(args), seed=args.seed)
    loaded = named_backbone(args.backbone, splits.train, seed=args.seed)
    notes = [f"Backbone: {loaded.description}.", f"Data: {splits.note}."]
    # That a run has a projector needs no saying; what a foreign file has besides the backbone does.
    if loaded.unmatched and not loaded.unmatched[0].startswith("method."):
        others, first = len(loaded.unmatched), loaded.unmatched[0]
        notes.append(f"{len(loaded.matched)} tensors of the file are the backbone's, {others} are not (first {first}).")
    return Job(loaded, splits, notes)


def knn(args: argparse.Namespace) -> int:
    """Weighted vote of the nearest training images."""
    job = prepare(args)
    train, train_labels, test, test_labels = both(job, args)
    neighbours = min(args.neighbours, len(train))
    if neighbours < args.neighbours:
        job.notes.append(f"Only {neighbours} neighbours vote: there are no more training images.")
    votes = knn_votes(train, train_labels, test, k=neighbours, temperature=args.temperature, classes=job.classes)
    top1, top5 = topk_accuracy(votes.log(), test_labels, (1, 5))
    result = {**job.described("knn"), "neighbours": neighbours, "temperature": args.temperature, "seed": args.seed}
    finish(args, job, [("", {**result, "top1": top1, "top5": top5})], f"kNN, {neighbours} neighbours")
    return 0


def linear(args: argparse.Namespace) -> int:
    """Logistic regression on the features: by a convex solver, or by SGD where a learning rate is given."""
    job = prepare(args)
    data = both(job, args)
    if args.lr is None:
        found = linear_probe(*data, classes=job.classes, seed=args.seed)
        job.notes.append(f"L2 penalty {found.penalty:g}, chosen on a fifth of the training images; L-BFGS.")
    else:
        found = linear_probe_sgd(
            *data, classes=job.classes, epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed
        )
        job.notes.append(f"SGD with learning rate {args.lr:g} for {args.epochs} epochs; nothing was chosen.")
    result = {
        **job.described("linear"),
        "solver": found.solver,
        "penalty": found.penalty,
        "held_out_top1": found.held_out_top1,
        "seed": args.seed,
        "top1": found.top1,
        "top5": found.top5,
    }
    finish(args, job, [("", result)], "Linear probe")
    return 0


def finetune(args: argparse.Namespace) -> int:
    """Backbone and classifier trained on shares of the labels."""
    job, rows = prepare(args), []
    for share in sorted(set(args.labels)):
        found = tune(
            job.loaded,
            job.splits.train,
            job.splits.test,
            fraction=share,
            epochs=args.epochs,
            batch_size=args.batch_size,
            seed=args.seed,
            device=pick_device(args.device),
            workers=workers_for(job.splits.train),
            **({} if args.lr is None else {"lr": args.lr}),
        )
        result = {
            **job.described("finetune"),
            "labels": found.labels,
            "share": share,
            "epochs": args.epochs,
            "train_loss": found.train_loss,
            "seed": args.seed,
            "top1": found.top1,
            "top5": found.top5,
        }
        rows.append((f"{100 * share:g} % of the labels", result))
    job.notes.append("The shares are balanced by class, and the smaller are parts of the larger.")
    finish(args, job, rows, f"Fine-tuned for {args.epochs} epochs")
    return 0


def both(job: Job, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of the training images, then of the test images, on the device."""
    where, found = str(pick_device(args.device)), list[Tensor]()
    for images, what in ((job.splits.train, "training images"), (job.splits.test, "test images")):
        features, labels, _ = features_of(job.loaded, images, args, job.notes, what=what, keep_on=where)
        assert labels is not None
        found += [features, labels]
    train, train_labels, test, test_labels = found
    return train, train_labels, test, test_labels


def finish(args: argparse.Namespace, job: Job, rows: list[tuple[str, dict[str, Any]]], title: str) -> None:
    """Show the results, and write them where --out says."""
    if args.out is not None:
        about = provenance(args.command)
        results = [{**result, **about} for _, result in rows]
        write_json(args.out, results[0] if rows[0][0] == "" else results)
        job.notes.append(f"Written to {args.out}.")
    with_five = job.classes > 5  # else the true class is always among them
    columns = ["", "train images", "test images", "top-1", *(["top-5"] if with_five else [])]
    lines = [
        [
            label or str(job.loaded.backbone.name),
            f"{result.get('labels', result['train_images']):,}",
            f"{result['test_images']:,}",
            percent(result["top1"]),
            *([percent(result["top5"])] if with_five else []),
        ]
        for label, result in rows
    ]
    show(title, columns, lines, job.notes)
