"""Supervised contrastive learning. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020."""

import math

import torch

from sslcore.losses import sup_con
from sslcore.nn import Backbone, mlp_head
from sslcore.pretrain.method import Batch, Method, StepResult
from sslcore.pretrain.recipe import SupConSettings


class SupCon(Method):
    """All views of all images of a class are positives; the views of other classes are negatives."""

    def __init__(self, encoder: Backbone, settings: SupConSettings) -> None:
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=False))
        self.temperature = settings.temperature
        self.form = settings.form

    def step(self, batch: Batch) -> StepResult:
        assert batch.labels is not None  # `check_fit` looks at `SupConSettings.needs_labels` before a run starts
        features = self.embed(torch.cat(batch.views))
        loss = sup_con(features, batch.labels.repeat(2), temperature=self.temperature, form=self.form)
        return StepResult(loss, terms={"loss": loss.detach()})

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"loss": math.log(2 * batch_size - 1)} if self.form == "out" else {}
