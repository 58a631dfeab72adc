"""From the known logits of a region to the probability that it is an unknown object.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, section 4.3: free energies of known and of
unknown regions, a Weibull density of each. Where ORE compares the densities at one energy, the decision here is their
log-ratio with an explicit prior, made monotone: two free Weibull densities cross more than once, and a very confident
known region, far out where both are nearly zero, must not become unknown.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from detection.openworld.counting import packed, unpacked
from detection.openworld.density import Density, Values, fit_density
from detection.structures import BACKGROUND, FIRST_KNOWN
from sslcore.errors import CheckpointError

Score = Literal["energy", "max_probability", "foreground"]

FEWEST = 20
"""Samples below which no density is fitted."""

_GRID = 1024  # points at which the log-ratio is kept
_MARGIN = 0.1  # of the range of all samples, which the grid reaches beyond them on either side
_FLOOR = 1e-3  # share of a uniform density mixed into both, so that their ratio is bounded where neither has samples
_TOO_FEW_KNOWN, _TOO_FEW_UNKNOWN = 0.05, 0.95  # quantile of the other sample at which the fallback's threshold lies


@dataclass(frozen=True, eq=False)
class FitReport:
    """What a fit came to. Arrays are for plots; `to_dict` leaves them out.

    Attributes:
        kind: "densities"; "threshold" where one kind of region is too rare; "none" where both are: nothing was fitted.
        score, temperature: what the numbers are.
        prior: probability of unknown before the number is known.
        known, unknown: the two densities, or None.
        known_count, unknown_count: finite samples.
        auroc: probability that an unknown region's number is above a known one's.
        threshold: the number above which a region is more probably unknown than not; None if there is none.
        sentences: what went wrong, and what was done instead; empty if nothing did.
        energies, known_density, unknown_density, log_ratio: on the grid.
    """

    kind: Literal["densities", "threshold", "none"]
    score: Score
    source: str
    temperature: float
    prior: float
    known: Density | None
    unknown: Density | None
    known_count: int
    unknown_count: int
    auroc: float | None
    threshold: float | None
    sentences: tuple[str, ...]
    energies: Values
    known_density: Values | None
    unknown_density: Values | None
    log_ratio: Values

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the arrays."""
        return {
            **{name: getattr(self, name) for name in ("kind", "score", "source", "temperature", "prior")},
            "known": self.known.to_dict() if self.known else None,
            "unknown": self.unknown.to_dict() if self.unknown else None,
            **{name: getattr(self, name) for name in ("known_count", "unknown_count", "auroc", "threshold")},
            "sentences": list(self.sentences),
        }


class EnergyScorer(nn.Module):
    """Free energy, and from it the posterior probability of being unknown, once it has been fitted.

    Args:
        score: what the densities are of, see `evidence`.
        temperature: T of the energy, in the fit and in use.
        prior: probability of unknown before the energy is known; None: the share among the fitted regions.

    Attributes:
        energies, log_ratio: (G,) the fitted decision: log-odds of unknown at evenly spaced energies, never falling;
            between them it is interpolated, beyond them constant.
        report: of the last fit in this process; None after loading.
    """

    energies: Float[Tensor, " G"]
    log_ratio: Float[Tensor, " G"]

    def __init__(self, *, score: Score = "energy", temperature: float = 1.0, prior: float | None = None) -> None:
        super().__init__()
        if score not in ("energy", "max_probability", "foreground"):
            raise ValueError(f'score is "energy", "max_probability" or "foreground", not {score!r}')
        if not temperature > 0:
            raise ValueError(f"temperature divides the logits and must be positive, not {temperature}")
        if prior is not None and not 0 < prior < 1:
            raise ValueError(f"prior is a probability between 0 and 1, not {prior}")
        self.score, self.temperature, self.prior = score, temperature, prior
        self.register_buffer("energies", torch.linspace(0, 1, _GRID))
        self.register_buffer("log_ratio", torch.zeros(_GRID))
        self.report: FitReport | None = None
        self._summary: dict[str, Any] = {}

    @property
    def fitted(self) -> bool:
        """Whether `posterior` has been fitted."""
        return bool(self._summary)

    def energy(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Free energy -T log sum_k exp(g_k / T) over the known logits; low for what looks like a known class.

        Args:
            logits: (n, 2 + K) in the label space.
        """
        known = logits[:, FIRST_KNOWN:].float() / self.temperature
        return -self.temperature * known.logsumexp(dim=1)

    def evidence(self, logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """What the densities are of; larger speaks for unknown.

        "energy": the free energy. "max_probability": -log of the greatest probability of a known class. "foreground":
        -log of 1 - p(background), the probability of being any object. The logarithms spread out what is close to 1 and
        have a Weibull density's support.
        """
        if self.score == "energy":
            return self.energy(logits)
        logs = logits.float().log_softmax(dim=1)
        if self.score == "max_probability":
            return -logs[:, FIRST_KNOWN:].amax(dim=1)
        return -logs[:, BACKGROUND + 1 :].logsumexp(dim=1)

    def posterior(self, evidence: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Probability of being unknown, never falling in the evidence.

        Raises:
            ValueError: nothing was fitted.
        """
        if not self.fitted:
            raise ValueError("the energies of known and unknown regions were not fitted: call fit")
        step = (self.energies[-1] - self.energies[0]) / (len(self.energies) - 1)
        place = ((evidence.float() - self.energies[0]) / step).clamp(0, len(self.energies) - 1)
        below = place.long().clamp(max=len(self.energies) - 2)
        return torch.lerp(self.log_ratio[below], self.log_ratio[below + 1], place - below).sigmoid()

    @torch.no_grad()
    def fit(self, known: Float[Tensor, " n"], unknown: Float[Tensor, " m"], *, source: str) -> FitReport:
        """Fit the densities of the evidence of known and of unknown regions, and with them the decision.

        Whatever the samples are, the posterior is a number afterwards or nothing is fitted, and the report says so.

        Args:
            known, unknown: `evidence` of regions on known objects, and of regions taken for unknown.
            source: where the unknown regions come from, for the report.
        """
        report = fit_decision(
            *(x.detach().double().cpu().numpy() for x in (known, unknown)),
            prior=self.prior,
            score=self.score,
            temperature=self.temperature,
            source=source,
        )
        self.report = report
        self._summary = {} if report.kind == "none" else report.to_dict()
        self.energies.copy_(torch.from_numpy(report.energies))
        self.log_ratio.copy_(torch.from_numpy(report.log_ratio))
        return report

    def forget(self) -> None:
        """Back to what was never fitted: energies of another set of logits mean nothing."""
        self.report, self._summary = None, {}
        self.log_ratio.zero_()

    def status(self) -> str:
        """One sentence: what the posterior rests on."""
        if not self.fitted:
            return (
                "The decision on unknown objects was not fitted: the classifier's own unknown logit stands in for it."
            )
        of = f"{self._summary['known_count']} known and {self._summary['unknown_count']} unknown regions"
        what = {"densities": "densities", "threshold": "a threshold for want of samples"}[self._summary["kind"]]
        return (
            f"Unknown objects are told by {what} of the {self._summary['score']} of {of} ({self._summary['source']})."
        )

    def get_extra_state(self) -> Tensor:
        return packed({"score": self.score, "temperature": self.temperature, "fit": self._summary})

    def set_extra_state(self, state: Any) -> None:
        values = unpacked(state)
        self._summary = values["fit"]
        if not self.fitted:
            return
        for name in ("score", "temperature"):
            if values[name] != getattr(self, name):
                raise CheckpointError(
                    f"the decision on unknown objects was fitted with {name} {values[name]}, not "
                    f"{getattr(self, name)}: set decision.{name} to {values[name]}, or fit it again"
                )

    def extra_repr(self) -> str:
        return f"score={self.score!r}, temperature={self.temperature}, fitted={self.fitted}"


def fit_decision(
    known: Values, unknown: Values, *, prior: float | None, score: Score, temperature: float, source: str
) -> FitReport:
    """`EnergyScorer.fit` on arrays."""
    sentences: list[str] = []
    known, unknown = _finite(known, "known", sentences), _finite(unknown, "unknown", sentences)
    share = prior if prior is not None else min(max(len(unknown) / max(len(known) + len(unknown), 1), 1e-3), 1 - 1e-3)
    enough_known, enough_unknown = len(known) >= FEWEST, len(unknown) >= FEWEST
    energies, log_ratio = np.linspace(0, 1, _GRID), np.zeros(_GRID)
    fits: tuple[Density | None, Density | None] = (None, None)
    curves: tuple[Values | None, Values | None] = (None, None)
    kind: Literal["densities", "threshold", "none"] = "none"
    if enough_known and enough_unknown:
        kind = "densities"
        energies = _grid(np.concatenate([known, unknown]))
        fits = _fitted(known, "known", sentences), _fitted(unknown, "unknown", sentences)
        curves = _on_grid(fits[0], energies), _on_grid(fits[1], energies)
        log_ratio = monotone_log_ratio(*curves) + np.log(share) - np.log1p(-share)
    elif enough_known or enough_unknown:
        kind = "threshold"
        energies, log_ratio = _threshold(known, unknown, sentences)
    else:
        sentences.append(
            f"{len(known)} known and {len(unknown)} unknown regions are too few to fit anything (at least {FEWEST} "
            "each): the classifier's unknown logit decides"
        )
    auroc = _auroc(known, unknown)
    if auroc is not None and auroc < 0.5:
        sentences.append(
            f"unknown regions do not have a higher {score} than known ones (AUROC {auroc:.2f}): the posterior says "
            "little more than the prior"
        )
    above = np.flatnonzero(log_ratio > 0)
    crosses = kind != "none" and 0 < len(above) < _GRID
    return FitReport(
        kind=kind,
        score=score,
        source=source,
        temperature=temperature,
        prior=float(share),
        known=fits[0],
        unknown=fits[1],
        known_count=len(known),
        unknown_count=len(unknown),
        auroc=auroc,
        threshold=float(energies[above[0]]) if crosses else None,
        sentences=tuple(sentences),
        energies=energies,
        known_density=curves[0],
        unknown_density=curves[1],
        log_ratio=log_ratio,
    )


def monotone_log_ratio(known: Values, unknown: Values) -> Values:
    """Log-ratio of two densities on an even grid, as nearly as possible without ever falling.

    Where the ratio falls, neighbouring points are pooled until it does not: the pool's ratio is that of its two masses
    (isotonic regression of the posterior at equal priors, weighted by the sum of the densities: the most likely
    monotone posterior). Far out, where there is hardly any mass, it therefore stays what it is nearer by.
    """
    total = known + unknown
    share = isotonic_regression(unknown / total, weights=total).x
    return np.log(share) - np.log1p(-share)


def _finite(x: Values, name: str, sentences: list[str]) -> Values:
    sound = np.isfinite(x)
    if not sound.all():
        sentences.append(f"{int((~sound).sum())} of {len(x)} {name} values are not finite and were left out")
    return x[sound]


def _fitted(x: Values, name: str, sentences: list[str]) -> Density:
    density, problem = fit_density(x)
    if problem:
        sentences.append(f"{name} regions: {problem}; a normal density takes its place")
    return density


def _grid(x: Values) -> Values:
    low, high = float(x.min()), float(x.max())
    margin = max(_MARGIN * (high - low), 1e-3 * max(1.0, abs(low), abs(high)))
    return np.linspace(low - margin, high + margin, _GRID)


def _on_grid(density: Density, energies: Values) -> Values:
    uniform = 1 / (energies[-1] - energies[0])
    # A density as narrow as the grid's steps, of values that are all but equal, may be any number.
    height = np.minimum(np.exp(density.log_pdf(energies)), _GRID * uniform)
    return (1 - _FLOOR) * height + _FLOOR * uniform


def _threshold(known: Values, unknown: Values, sentences: list[str]) -> tuple[Values, Values]:
    """Log-odds that rise by one each fifth of a deviation of the sample there is, from a quantile of it."""
    rare_unknown = len(unknown) < FEWEST
    x, quantile = (known, _TOO_FEW_UNKNOWN) if rare_unknown else (unknown, _TOO_FEW_KNOWN)
    at = float(np.quantile(x, quantile))
    width = max(float(x.std()), 1e-3 * max(1.0, abs(at)))
    rare, count, other = ("unknown", len(unknown), "known") if rare_unknown else ("known", len(known), "unknown")
    sentences.append(
        f"{count} {rare} regions are too few to fit a density (at least {FEWEST}): what lies above {at:.4g}, the "
        f"{round(100 * quantile)}th percentile of {other} regions, counts as unknown"
    )
    energies = np.linspace(at - 2 * width, at + 2 * width, _GRID)
    return energies, (energies - at) * 5 / width


def _auroc(known: Values, unknown: Values) -> float | None:
    if len(known) == 0 or len(unknown) == 0:
        return None
    return float(mannwhitneyu(unknown, known).statistic / (len(known) * len(unknown)))
