"""Prototypical Contrastive Learning. Li et al., "Prototypical Contrastive Learning of Unsupervised Representations",
ICLR 2021 (Algorithm 1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslcore.losses import info_nce, proto_nce
from sslcore.memory import KMeansPrototypes
from sslcore.nn import Backbone
from sslcore.pretrain.method import Batch, Embedder, Progress, StepResult
from sslcore.pretrain.methods.moco import MoCo
from sslcore.pretrain.recipe import PCLSettings


class PCL(MoCo):
    """MoCo's loss, plus a contrast of each query against the k-means centroid its image belongs to (several k)."""

    def __init__(self, encoder: Backbone, settings: PCLSettings) -> None:
        super().__init__(encoder, settings)
        self.clusterings: Sequence[KMeansPrototypes] = nn.ModuleList(  # type: ignore[assignment]
            KMeansPrototypes(count, settings.projector[-1]) for count in settings.clusters
        )
        self.warmup_epochs = settings.warmup_epochs
        self.kmeans_iterations = settings.kmeans_iterations

    def before_epoch(self, embed: Embedder, progress: Progress) -> None:
        """E-step: cluster the momentum features of the whole training set."""
        if round(progress.epoch) < self.warmup_epochs:
            return
        features, readable = embed(lambda views: self.key_projector(self.key_encoder(views)))
        for clustering in self.clusterings:
            clustering.fit(features, valid=readable, iterations=self.kmeans_iterations)

    def step(self, batch: Batch) -> StepResult:
        """M-step."""
        view_a, view_b = batch.views
        query, key = self.embed(view_a), self.keys(view_b, batch)
        loss = instance = info_nce(query, key, self.queue.features, temperature=self.temperature)
        terms = {"instance": instance.detach()}
        if batch.progress.epoch >= self.warmup_epochs:
            prototype = torch.stack([self.prototype_loss(query, level, batch.ids) for level in self.clusterings]).mean()
            loss = instance + prototype
            terms["prototype"] = prototype.detach()
        return StepResult(loss, to_remember=[key], terms={"loss": loss.detach(), **terms})

    def prototype_loss(self, query: Tensor, level: KMeansPrototypes, ids: Tensor) -> Tensor:
        own = level.assignments[ids]  # -1, and no part in the loss, for an image that could not be read when embedded
        return proto_nce(query, level.vectors, own, temperature=self.temperature, concentration=level.concentration)

    def chance(self, batch_size: int) -> dict[str, float]:
        levels = [math.log(level.count) for level in self.clusterings]
        return {"instance": math.log(self.queue.size + 1), "prototype": sum(levels) / len(levels)}
