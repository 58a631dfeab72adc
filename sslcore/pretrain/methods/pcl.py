"""Prototypical Contrastive Learning. Li et al., "Prototypical Contrastive Learning of Unsupervised Representations",
ICLR 2021 (Algorithm 1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslcore.losses import info_nce, proto_nce
from sslcore.memory import FeatureQueue, KMeansPrototypes, MomentumEncoder
from sslcore.nn import Backbone, mlp_head
from sslcore.pretrain.method import Batch, Embedder, Method, Progress, StepResult
from sslcore.pretrain.recipe import PCLSettings


class PCL(Method):
    """MoCo's loss, plus a contrast of each query against the k-means centroid its image belongs to (several k)."""

    def __init__(self, encoder: Backbone, settings: PCLSettings) -> None:
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=False))
        self.key_encoder = MomentumEncoder(self.encoder, settings.momentum)
        self.key_projector = MomentumEncoder(self.projector, settings.momentum)
        dim = settings.projector[-1]
        self.queue = FeatureQueue(settings.queue, dim)
        self.clusterings: Sequence[KMeansPrototypes] = nn.ModuleList(  # type: ignore[assignment]
            KMeansPrototypes(count, dim) for count in settings.clusters
        )
        self.settings = settings

    def before_epoch(self, embed: Embedder, progress: Progress) -> None:
        """E-step: cluster the momentum features of the whole training set."""
        if round(progress.epoch) < self.settings.warmup_epochs:
            return
        features = embed(self.keys)
        for clustering in self.clusterings:
            clustering.fit(features, temperature=self.settings.temperature, iterations=self.settings.kmeans_iterations)

    def step(self, batch: Batch) -> StepResult:
        """M-step."""
        view_a, view_b = batch.views
        query, key = self.embed(view_a), self.keys(view_b)
        loss = instance = info_nce(query, key, self.queue.features, temperature=self.settings.temperature)
        terms = {"instance": instance.detach()}
        if batch.progress.epoch >= self.settings.warmup_epochs:
            prototype = torch.stack([self.prototype_loss(query, clustering, batch) for clustering in self.clusterings])
            loss = instance + prototype.mean()
            terms["prototype"] = prototype.mean().detach()
        return StepResult(loss, to_remember=key, terms={"loss": loss.detach(), **terms})

    def prototype_loss(self, query: Tensor, clustering: KMeansPrototypes, batch: Batch) -> Tensor:
        assigned = clustering.assignments[batch.ids]
        return proto_nce(
            query, clustering.vectors, assigned, temperature=self.settings.temperature,
            concentration=clustering.concentration,
        )  # fmt: skip

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        return self.key_projector(self.key_encoder(view))

    def after_update(self, remembered: list[Tensor], progress: Progress) -> None:
        for key in remembered:
            self.queue.push(key)
        self.key_encoder.update(self.encoder)
        self.key_projector.update(self.projector)

    def chance(self, batch_size: int) -> dict[str, float]:
        levels = [math.log(clustering.count) for clustering in self.clusterings]
        return {"instance": math.log(self.queue.size + 1), "prototype": sum(levels) / len(levels)}
