"""SwAV. Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020."""

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from sslcore.distributed import rank, world_size
from sslcore.losses import sinkhorn, swapped_prediction
from sslcore.memory import FeatureQueue, LearnedPrototypes
from sslcore.nn import Backbone, mlp_head
from sslcore.ops import unit
from sslcore.pretrain.method import Batch, Method, Progress, StepResult
from sslcore.pretrain.recipe import SwAVSettings

CODE_VIEWS = 2  # codes come from the two full-size views; every view predicts them


class SwAV(Method):
    """Each full-size view's balanced cluster code is predicted from all other views, small crops included."""

    def __init__(self, encoder: Backbone, settings: SwAVSettings) -> None:
        super().__init__(encoder, mlp_head(encoder.dim, settings.projector, norm=True))
        dim = settings.projector[-1]
        self.prototypes = LearnedPrototypes(settings.prototypes, dim)
        self.queues: Sequence[FeatureQueue] = nn.ModuleList(  # type: ignore[assignment]
            FeatureQueue(settings.queue, dim) for _ in range(CODE_VIEWS) if settings.queue
        )
        self.settings = settings
        self._full = False

    def step(self, batch: Batch) -> StepResult:
        features = self.embed_by_size(batch.views)
        scores = [self.scores(unit(z)) for z in features]
        codes = [self.code(view, scores[view].detach(), batch.progress) for view in range(CODE_VIEWS)]
        loss = swapped_prediction(scores, codes, temperature=self.settings.temperature)
        keep = [z.detach() for z in features[:CODE_VIEWS]]
        return StepResult(loss, to_remember=(keep, batch.progress.epoch), terms={"loss": loss.detach()})

    def embed_by_size(self, views: list[Tensor]) -> list[Tensor]:
        """One pass a size: crops of the same side go through the backbone together."""
        groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape[-1])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in groups])
        return list(self.projector(features).chunk(len(views)))

    def scores(self, unit_rows: Tensor) -> Tensor:
        """(n, prototypes) cosines in float32: they are divided by temperatures that half precision does not bear."""
        with torch.autocast(unit_rows.device.type, enabled=False):
            return unit_rows @ self.prototypes.vectors.t()

    @torch.no_grad()
    def code(self, view: int, scores: Tensor, progress: Progress) -> Tensor:
        """(n, prototypes) codes of a view, balanced over the batch and, for small batches, over the queue as well."""
        n = len(scores)
        if self.queue_is_full(progress):
            # Every process holds the whole queue and brings its share to the balance.
            share = self.queues[view].features.tensor_split(world_size())[rank()]
            scores = torch.cat([scores, self.scores(share)])
        return sinkhorn(scores, epsilon=self.settings.epsilon, iterations=self.settings.sinkhorn_iterations)[:n]

    def queue_is_full(self, progress: Progress) -> bool:
        """Rows never pushed are random and would spoil the balance. Read back from the device until it is full."""
        if not self._full and self.queues and progress.epoch >= self.settings.queue_from_epoch:
            self._full = bool(self.queues[0].filled.all())
        return self._full

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
