"""BYOL. Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS 2020."""

import torch
from torch import Tensor

from sslcore.losses import negative_cosine
from sslcore.memory import MomentumEncoder, cosine_momentum
from sslcore.nn import Backbone, mlp_head
from sslcore.pretrain.method import Batch, Method, Progress, StepResult
from sslcore.pretrain.recipe import BYOLSettings


class BYOL(Method):
    """Predict, from one view, the momentum network's projection of the other; both directions, no negatives."""

    def __init__(self, encoder: Backbone, settings: BYOLSettings) -> None:
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=True))
        self.predictor = mlp_head(settings.projector[-1], settings.predictor, norm=True)
        self.target_encoder = MomentumEncoder(self.encoder, settings.momentum)
        self.target_projector = MomentumEncoder(self.projector, settings.momentum)
        self.momentum = settings.momentum

    def step(self, batch: Batch) -> StepResult:
        view_a, view_b = batch.views
        predicted_b, predicted_a = self.predictor(self.embed(view_a)), self.predictor(self.embed(view_b))
        target_a, target_b = self.target(view_a), self.target(view_b)
        # |p - z|^2 of unit vectors is 2 - 2 cos(p, z); the paper adds the two directions (equations 2 and 3).
        loss = 4 + 2 * negative_cosine(predicted_b, target_b) + 2 * negative_cosine(predicted_a, target_a)
        return StepResult(loss, terms={"loss": loss.detach()})

    @torch.no_grad()
    def target(self, view: Tensor) -> Tensor:
        return self.target_projector(self.target_encoder(view))

    def after_update(self, remembered: list[None], progress: Progress) -> None:
        momentum = cosine_momentum(self.momentum, progress.fraction)
        self.target_encoder.update(self.encoder, momentum)
        self.target_projector.update(self.projector, momentum)
