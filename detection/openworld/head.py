"""The open-world parts of a detector's second stage, on plain tensors: label, losses, remember, decide, grow.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021. An engine brings proposals, features and logits;
which proposals are unknown objects, what the losses are, and what is reported, is said here.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detection.openworld.counting import mean_count, packed, unpacked
from detection.openworld.decision import Verdicts, detections_of, verdicts
from detection.openworld.energy_scorer import EnergyScorer
from detection.openworld.prototype_clustering import PrototypeClustering
from detection.openworld.sampling import NOTHING, Moment, RegionSample, match, sample
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.openworld.unknown_labeler import UnknownLabeler
from detection.structures import FIRST_KNOWN, UNKNOWN, Detections, Regions, Target
from sslcore.distributed import all_reduce_amax, all_reduce_sum
from sslcore.errors import CheckpointError

_ORE_OWN_LOGIT = 23.0  # objectness that labelled boxes come with among the proposals: a probability of all but 1


class OpenWorldHead(nn.Module):
    """What is known, unknown and background among the regions of images; in training and at inference.

    One step of training: `label` the proposals, take the `losses` of what the network says of the sampled regions, and
    after the optimiser step `remember` their features. `decide` at inference. `grow` between tasks.

    Args:
        known: names of the known classes, in the order of their labels; at least one.
        dim: length of a region's embedding, d.
        unknowns, clustering, decision: settings of the parts.
        regions: regions an image that the losses are taken on.
        positive: largest share of them that are labelled objects.
        seed: of the sampling.
        classes: number of classes that the classifier has outputs for from the start, those not introduced yet masked
            (see `RegionPredictor`); None: the known ones.

    Attributes:
        known: names of the known classes.
        classes: number of classes that there are outputs for.
        labeler, clustering, scorer: the parts.
        taught: () whether a region was ever labelled unknown in training; see `unknown_score`.
    """

    taught: Bool[Tensor, ""]

    def __init__(
        self,
        known: Sequence[str],
        dim: int,
        *,
        unknowns: UnknownSettings,
        clustering: ClusteringSettings,
        decision: DecisionSettings,
        regions: int,
        positive: float,
        seed: int,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.known = _distinct(known)
        self.classes = max(len(self.known), classes or 0)
        self.dim = dim
        self.unknowns, self.decision = unknowns, decision
        self.regions, self.positive, self.seed = regions, positive, seed
        self.labeler = UnknownLabeler(
            unknowns.per_image, guard=unknowns.guard, min_side=unknowns.min_side, compat=unknowns.compat
        )
        self.clustering = PrototypeClustering(len(self.known), dim, clustering)
        self.scorer = EnergyScorer(score=decision.score, temperature=decision.temperature)
        self.register_buffer("taught", torch.zeros((), dtype=torch.bool))

    @property
    def outputs(self) -> int:
        """Logits a region: 2 + K, and those of classes that are masked yet."""
        return FIRST_KNOWN + self.classes

    @torch.no_grad()
    def label(
        self,
        proposals: list[Float[Tensor, "p 4"]],
        objectness: list[Float[Tensor, " p"]],
        targets: list[Target],
        *,
        step: int,
        progress: float,
        previous: list[Float[Tensor, "q 4"]] | None = None,
    ) -> list[RegionSample]:
        """The regions that the losses are to be taken on, and their labels; one entry an image in all lists.

        Args:
            proposals: (p_i, 4) of the region proposal network, without labelled boxes; p_i may be 0.
            objectness: (p_i,) its logits.
            targets: on the proposals' device.
            step: of the stage; with the seed and `Target.key` it determines what is sampled.
            progress: share of the stage that is done, in [0, 1]: clustering begins at its start, pseudo-unknowns in the
                first task at theirs.
            previous: (q_i, 4) boxes that the previous task's model calls known; None: there is no previous task, and
                objectness has to be learnt before it says anything.

        Raises:
            ValueError: the lists differ in length; or a target's label is not one of the label space, or a box of it
                not finite (looked at on the CPU only).
        """
        images = {len(proposals), len(objectness), len(targets)} | ({len(previous)} if previous is not None else set())
        if len(images) != 1:
            raise ValueError(f"proposals, objectness, targets and previous must be one per image, not {sorted(images)}")
        self.clustering.at(step, progress)
        if not targets:
            return []
        self._check_targets(targets)
        candidates = match(proposals, targets)
        moment = Moment(self.seed, step, tuple(target.key for target in targets))
        draw = partial(sample, moment=moment, regions=self.regions, positive=self.positive)
        waits = previous is None and progress < self.unknowns.start
        if waits or self.labeler.k == 0:
            return draw(candidates, torch.zeros_like(candidates.labels, dtype=torch.bool))
        choice = self.labeler.choose_among(candidates, objectness, moment, previous=previous)
        samples = draw(choice.candidates, choice.pseudo)
        if self.labeler.compat == "ore":
            samples = [self._as_ore(*image) for image in zip(samples, objectness, targets, strict=True)]
        return [replace(drawn, random=partial(choice.random_of, i)) for i, drawn in enumerate(samples)]

    def _as_ore(self, drawn: RegionSample, objectness: Tensor, target: Target) -> RegionSample:
        logits = torch.cat([objectness.new_full((len(target.boxes),), _ORE_OWN_LOGIT), objectness])
        return self.labeler.relabel_as_ore(drawn, logits[drawn.rows], target.boxes.to(drawn.boxes))

    def _check_targets(self, targets: list[Target]) -> None:
        """On the CPU only: a GPU would have to be waited for."""
        labels, boxes = (torch.cat([getattr(target, name) for target in targets]) for name in ("labels", "boxes"))
        there = FIRST_KNOWN + len(self.known)
        if labels.device.type != "cpu" or not len(labels):
            return
        if int(labels.max()) < there and bool(boxes.isfinite().all()):
            return
        for target in targets:
            if len(target.labels) and (highest := int(target.labels.max())) >= there:
                raise ValueError(
                    f"image {target.key} has an object labelled {highest}, but there are {there} labels: grow the "
                    "head before training on a task's classes"
                )
            if not bool(target.boxes.isfinite().all()):
                raise ValueError(f"image {target.key} has a labelled box that is not finite: correct its annotation")

    def losses(
        self, features: Float[Tensor, "n d"], logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of the sampled regions of all images of this process; the mean over processes is that of the batch.

        Args:
            features: (n, d) region embeddings.
            logits: (n, `outputs`) of the classifier.
            labels: (n,) of the samples; negative rows count for nothing.

        Returns:
            "classification": cross-entropy, mean over the rows that count. "clustering": of the prototypes, times its
            weight; 0 before its start. All processes must call this.

        Raises:
            ValueError: shapes do not belong together.
            FloatingPointError: on the CPU, a logit is NaN or infinite, in this process or another: all of them say so,
                and none waits for one that has. (On a GPU the loss then is not finite, which whoever trains looks at
                anyway.)
        """
        if logits.dim() != 2 or logits.shape[1] != self.outputs or not len(features) == len(logits) == len(labels):
            raise ValueError(
                f"features (n, {self.dim}) need logits (n, {self.outputs}) and labels (n,), not "
                f"{tuple(features.shape)}, {tuple(logits.shape)} and {tuple(labels.shape)}"
            )
        if logits.device.type == "cpu" and bool(all_reduce_amax((~logits.isfinite()).any().int())[0]):
            raise FloatingPointError(
                "the classifier's logits hold NaN or infinity: training diverged, lower the learning rate"
            )
        total = cross_entropy(logits.float(), labels, ignore_index=NOTHING, reduction="sum")
        clustering = self.clustering.loss(features, labels) * self.clustering.settings.weight
        return {"classification": total / mean_count((labels >= 0).sum()), "clustering": clustering}

    def remember(self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> None:
        """Keep features for the prototypes, and renew these on schedule. After the optimiser step, on all processes.

        Args:
            features: (n, d) as given to `losses`; detached here.
            labels: (n,) of the same rows.
        """
        self.clustering.remember(features, labels)
        self.taught.logical_or_(all_reduce_sum((labels == UNKNOWN).sum())[0] > 0)

    @torch.no_grad()
    def decide(self, regions: list[Regions]) -> list[Detections]:
        """What is found in each image: one decision a region, then suppression, across known and unknown too.

        Boxes stay in pixels of the network's image. An image's detections depend on its own regions alone.

        Raises:
            ValueError: logits, objectness or boxes of an image are not finite, or do not fit the label space.
        """
        for number, image in enumerate(regions):
            self._check(image, number)
        found = []
        for image in regions:
            energies, decided = self._judged(image)
            found.append(detections_of(image, decided, energies, self.decision))
        return found

    @torch.no_grad()
    def judge(self, image: Regions) -> Verdicts:
        """The decision on every region of an image, before suppression."""
        return self._judged(image)[1]

    def _judged(self, image: Regions) -> tuple[Float[Tensor, " p"], Verdicts]:
        """Free energies of the regions, and the decision on them."""
        # Without the masked logits: where every known class has probability 0, these would be as good.
        logits = image.logits[:, : FIRST_KNOWN + len(self.known)]
        energies, odds = self.scorer.energy(logits), None
        if self.scorer.fitted:
            odds = self.scorer.log_odds(energies if self.scorer.score == "energy" else self.scorer.evidence(logits))
        return energies, verdicts(logits, image.objectness, odds, taught=self.taught)

    def _check(self, image: Regions, number: int) -> None:
        n, columns = len(image.proposals), 1 + self.classes
        if image.logits.shape != (n, self.outputs) or image.boxes.shape not in ((n, 1, 4), (n, columns, 4)):
            raise ValueError(
                f"{n} proposals need logits ({n}, {self.outputs}) and boxes ({n}, 1 or {columns}, 4), not "
                f"{tuple(image.logits.shape)} and {tuple(image.boxes.shape)}, for image {number} of the batch"
            )
        if image.objectness.shape != (n,):
            raise ValueError(
                f"{n} proposals need objectness ({n},), not {tuple(image.objectness.shape)}, for image {number} of the "
                "batch"
            )
        for name in ("logits", "objectness", "boxes"):
            if not bool(getattr(image, name).isfinite().all()):
                raise ValueError(
                    f"{name} of image {number} of the batch hold NaN or infinity: the weights or the image are damaged"
                )

    def status(self) -> str:
        """What the decision rests on, in a sentence."""
        return self.scorer.status()

    def grow(self, names: Sequence[str]) -> None:
        """Room for a task's new classes. Prototypes and rings of the old ones stay; the decision has to be fitted anew,
        because the energy is a sum over all known logits.

        Raises:
            ValueError: a name is there already.
        """
        self.known = _distinct((*self.known, *names))
        self.classes = max(self.classes, len(self.known))
        if names:
            self.clustering.grow(len(names))
            self.scorer.forget()

    def get_extra_state(self) -> Tensor:
        return packed({"known": list(self.known)})

    def set_extra_state(self, state: Any) -> None:
        saved = tuple(unpacked(state)["known"])
        if saved != self.known:
            raise CheckpointError(
                f"the checkpoint knows the classes {_listed(saved)}, the model {_listed(self.known)}: load it into a "
                "model of the task it was saved in"
            )

    def extra_repr(self) -> str:
        return f"known={len(self.known)}, dim={self.dim}, regions={self.regions}, positive={self.positive}"


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise ValueError("an open-world head needs at least one known class")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"a class can be known only once, not {', '.join(repeated)}")
    return tuple(names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])}, ... ({len(names)} in all)"
