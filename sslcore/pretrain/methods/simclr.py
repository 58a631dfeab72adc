"""SimCLR. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020."""

import math

import torch

from sslcore.losses import nt_xent
from sslcore.nn import Backbone, mlp_head
from sslcore.pretrain.method import Batch, Method, StepResult
from sslcore.pretrain.recipe import SimCLRSettings


class SimCLR(Method):
    """The two views of an image are each other's positive; all others of the batch (all processes') are negatives."""

    def __init__(self, encoder: Backbone, settings: SimCLRSettings) -> None:
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=True, last_norm=True))
        self.temperature = settings.temperature

    def step(self, batch: Batch) -> StepResult:
        # One pass for both views, as in Algorithm 1: batch norm sees the 2n views together.
        view_a, view_b = self.embed(torch.cat(batch.views)).chunk(2)
        loss = nt_xent(view_a, view_b, temperature=self.temperature)
        return StepResult(loss, terms={"loss": loss.detach()})

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"loss": math.log(2 * batch_size - 1)}
