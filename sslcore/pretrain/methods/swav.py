"""SwAV. Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020."""

import math
from itertools import groupby

import torch
from torch import Tensor, nn

from sslcore.distributed import world_size
from sslcore.losses import sinkhorn, swapped_prediction
from sslcore.memory import FeatureQueue, LearnedPrototypes
from sslcore.nn import mlp_head
from sslcore.pretrain.method import Batch, Method, Progress, StepResult
from sslcore.pretrain.recipe import SwAVSettings

CODE_VIEWS = 2  # codes come from the two full-size views; every view predicts them


class SwAV(Method):
    """Each full-size view's balanced cluster code is predicted from all other views, small crops included."""

    def __init__(self, encoder: nn.Module, settings: SwAVSettings) -> None:
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=True))
        dim = settings.projector[-1]
        self.prototypes = LearnedPrototypes(settings.prototypes, dim)
        self.queues = nn.ModuleList(FeatureQueue(settings.queue, dim) for _ in range(CODE_VIEWS) if settings.queue)
        self.settings = settings

    def step(self, batch: Batch) -> StepResult:
        features = self.embed_by_size(batch.views)
        scores = [nn.functional.normalize(z, dim=1) @ self.prototypes.vectors.t() for z in features]
        codes = [self.code(view, scores[view].detach(), batch) for view in range(CODE_VIEWS)]
        loss = swapped_prediction(scores, codes, temperature=self.settings.temperature)
        keep = [z.detach() for z in features[:CODE_VIEWS]]
        return StepResult(loss, to_remember=(keep, batch.progress.epoch), terms={"loss": loss.detach()})

    def embed_by_size(self, views: list[Tensor]) -> list[Tensor]:
        """One pass a size: crops of the same side go through the backbone together."""
        groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape[-1])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in groups])
        return list(self.projector(features).chunk(len(views)))

    @torch.no_grad()
    def code(self, view: int, scores: Tensor, batch: Batch) -> Tensor:
        """(n, prototypes) codes of a view, balanced over the batch and, for small batches, over the queue as well."""
        n = len(scores)
        if self.queue_is_full(batch):
            scores = torch.cat([scores, self.queues[view].features @ self.prototypes.vectors.t()])
        return sinkhorn(scores, epsilon=self.settings.epsilon, iterations=self.settings.sinkhorn_iterations)[:n]

    def queue_is_full(self, batch: Batch) -> bool:
        """Known from the step alone, so that nothing is read back from the device."""
        if not self.queues or batch.progress.epoch < self.settings.queue_from_epoch:
            return False
        epochs_pushed = batch.progress.epoch - self.settings.queue_from_epoch
        steps_pushed = epochs_pushed / max(batch.progress.epoch, 1e-9) * batch.step
        return round(steps_pushed) * len(batch.ids) * world_size() >= self.settings.queue

    def before_optimizer(self, progress: Progress) -> None:
        if progress.epoch < self.settings.freeze_prototypes_epochs:
            self.prototypes.freeze_gradients_()

    def after_update(self, remembered: list[tuple[list[Tensor], float]], progress: Progress) -> None:
        self.prototypes.normalize_()
        for features, epoch in remembered:
            if epoch >= self.settings.queue_from_epoch:
                for queue, z in zip(self.queues, features, strict=False):
                    queue.push(z)

    def chance(self, batch_size: int) -> dict[str, float]:
        return {"loss": math.log(self.settings.prototypes)}
