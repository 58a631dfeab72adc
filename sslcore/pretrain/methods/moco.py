"""Momentum Contrast. He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020 (v1);
Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020 (v2: MLP head, blur, cosine schedule)."""

import math

import torch
from torch import Tensor

from sslcore.losses import info_nce
from sslcore.memory import FeatureQueue, MomentumEncoder
from sslcore.nn import Backbone, mlp_head, split_batch_norms
from sslcore.pretrain.method import Batch, Method, Progress, StepResult
from sslcore.pretrain.recipe import MoCoSettings, PCLSettings
from sslcore.random import uniform

SHUFFLE_STREAM = 1_000  # apart from the streams that views draw from


class MoCo(Method):
    """A query's positive is the momentum encoder's key of the other view; negatives are a queue of earlier keys.

    With `symmetric`, each view is the query once. The queue holds only keys of earlier batches during the whole step,
    so an image's own keys are never among its negatives.
    """

    def __init__(self, encoder: Backbone, settings: MoCoSettings | PCLSettings) -> None:
        if settings.norm_splits > 1:
            split_batch_norms(encoder, settings.norm_splits)
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=False))
        self.key_encoder = MomentumEncoder(self.encoder, settings.momentum)
        self.key_projector = MomentumEncoder(self.projector, settings.momentum)
        self.queue = FeatureQueue(settings.queue, settings.projector[-1])
        self.temperature = settings.temperature
        self.symmetric = settings.keys_per_image() == 2
        self.shuffles = settings.norm_splits > 1

    def step(self, batch: Batch) -> StepResult:
        view_a, view_b = batch.views
        key_b = self.keys(view_b, batch)
        loss = self.contrast(view_a, key_b)
        if not self.symmetric:
            return StepResult(loss, to_remember=[key_b], terms={"loss": loss.detach()})

        key_a = self.keys(view_a, batch)
        loss = (loss + self.contrast(view_b, key_a)) / 2
        return StepResult(loss, to_remember=[key_b, key_a], terms={"loss": loss.detach()})

    def contrast(self, view: Tensor, keys: Tensor) -> Tensor:
        return info_nce(self.embed(view), keys, self.queue.features, temperature=self.temperature)

    @torch.no_grad()
    def keys(self, view: Tensor, batch: Batch) -> Tensor:
        """The momentum encoder's (n, d) keys.

        Query and key of an image must not share batch norm statistics, or the statistics give the pair away (v1,
        section 3.3, "shuffling BN"): with split norms the keys are encoded in another order than the queries. Parts and
        order are those of one process, so nothing is sent.
        """
        if not self.shuffles:
            return self.key_projector(self.key_encoder(view))
        order = uniform(batch.seed, batch.step, batch.ids, stream=SHUFFLE_STREAM, draws=1)[:, 0].argsort()
        return self.key_projector(self.key_encoder(view[order]))[order.argsort()]

    def after_update(self, remembered: list[list[Tensor]], progress: Progress) -> None:
        for keys in remembered:
            for key in keys:
                self.queue.push(key)
        self.key_encoder.update(self.encoder)
        self.key_projector.update(self.projector)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"loss": math.log(self.queue.size + 1)}
