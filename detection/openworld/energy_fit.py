"""The decision between known and unknown, fitted on samples of both, with every way it can fail spoken for."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import mannwhitneyu

from detection.openworld.density import Density, Values, fit_density
from detection.openworld.settings import Score

GRID = 1024
"""Points at which a fitted decision is kept."""
FEWEST = 20
"""Samples below which no density is fitted."""

_MARGIN = 0.1  # of the range of all samples, which the grid reaches beyond them on either side
_FAR = 10  # times the range from the 5th to the 95th percentile: where outliers begin
_FLOOR = 1e-3  # share of a uniform density mixed into both, so that their ratio is bounded where neither has samples
_TOO_FEW_KNOWN, _TOO_FEW_UNKNOWN = 0.05, 0.95  # quantile of the other sample at which the fallback's threshold lies
_EVIDENCE: dict[Score, str] = {
    "energy": "energy",
    "max_probability": "-log of the greatest known probability",
    "foreground": "-log of 1 - p(background)",
}


@dataclass(frozen=True, eq=False)
class FitReport:
    """What a fit came to. Arrays are for plots; `to_dict` leaves them out.

    Attributes:
        kind: "densities"; "threshold" where one kind of region is too rare; "none" where both are: nothing was fitted.
        score, temperature: what the numbers are.
        known, unknown: the two densities, or None.
        known_count, unknown_count: finite samples.
        auroc: probability that an unknown region's number is above a known one's.
        threshold: the number above which the density of unknown regions is the higher one; None if there is none.
        sentences: what went wrong, and what was done instead; empty if nothing did.
        energies, known_density, unknown_density, log_ratio: on the grid.
    """

    kind: Literal["densities", "threshold", "none"]
    score: Score
    source: str
    temperature: float
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
            **{name: getattr(self, name) for name in ("kind", "score", "source", "temperature")},
            "known": self.known.to_dict() if self.known else None,
            "unknown": self.unknown.to_dict() if self.unknown else None,
            **{name: getattr(self, name) for name in ("known_count", "unknown_count", "auroc", "threshold")},
            "sentences": list(self.sentences),
        }


def fit_densities(known: Values, unknown: Values, *, score: Score, temperature: float, source: str) -> FitReport:
    """`EnergyScorer.fit` on arrays."""
    sentences: list[str] = []
    known, unknown = _sound(known, "known", sentences), _sound(unknown, "unknown", sentences)
    enough_known, enough_unknown = len(known) >= FEWEST, len(unknown) >= FEWEST
    energies, log_ratio = np.linspace(0, 1, GRID), np.zeros(GRID)
    fits: tuple[Density | None, Density | None] = (None, None)
    curves: tuple[Values | None, Values | None] = (None, None)
    kind: Literal["densities", "threshold", "none"] = "none"
    if enough_known and enough_unknown:
        kind = "densities"
        energies = _grid(np.concatenate([known, unknown]))
        fits = _fitted(known, "known", sentences), _fitted(unknown, "unknown", sentences)
        curves = _on_grid(fits[0], energies), _on_grid(fits[1], energies)
        log_ratio = monotone_log_ratio(*curves)
    elif enough_known or enough_unknown:
        kind = "threshold"
        energies, log_ratio = _threshold(known, unknown, sentences)
    else:
        sentences.append(
            f"{len(known)} known and {len(unknown)} unknown regions are too few to fit anything (at least {FEWEST} "
            "each): the classifier's unknown logit decides"
        )
    above = np.flatnonzero(log_ratio > 0)
    crosses = kind != "none" and 0 < len(above) < GRID
    auroc = _auroc(known, unknown)
    if kind == "densities" and auroc is not None and auroc < 0.5:
        sentences.append(
            f"unknown regions do not have a higher {_EVIDENCE[score]} than known ones (AUROC {auroc:.2f}, and 0.5 is "
            "chance), so it hardly counts: what is unknown is decided by the classifier's unknown logit and the prior; "
            "a new run with more training steps, or with another decision.score, may tell them apart better"
        )
    return FitReport(
        kind=kind,
        score=score,
        source=source,
        temperature=temperature,
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


def _sound(x: Values, name: str, sentences: list[str]) -> Values:
    """Values that are finite and no outliers: one that is ten times as far out as the others spread would make a grid
    too coarse for them, and a density of its own."""
    finite = np.isfinite(x)
    if not finite.all():
        sentences.append(f"{int((~finite).sum())} of {len(x)} {name} values are not finite and were left out")
        x = x[finite]
    if len(x) < FEWEST:
        return x
    low, high = np.quantile(x, [0.05, 0.95])
    low, high = low - _FAR * (high - low), high + _FAR * (high - low)
    near = (x >= low) & (x <= high)
    if low == high or near.all():
        return x
    sentences.append(
        f"{int((~near).sum())} of {len(x)} {name} values lie far outside the others (below {low:.3g} or above "
        f"{high:.3g}) and were left out"
    )
    return x[near]


def _fitted(x: Values, name: str, sentences: list[str]) -> Density:
    density, problem = fit_density(x)
    if problem:
        sentences.append(f"{name} regions: {problem}; a normal density takes its place")
    return density


def _grid(x: Values) -> Values:
    low, high = float(x.min()), float(x.max())
    margin = max(_MARGIN * (high - low), 1e-3 * max(1.0, abs(low), abs(high)))
    return np.linspace(low - margin, high + margin, GRID)


def _on_grid(density: Density, energies: Values) -> Values:
    uniform = 1 / (energies[-1] - energies[0])
    # A density as narrow as the grid's steps, of values that are all but equal, may be any number.
    height = np.minimum(np.exp(density.log_pdf(energies)), GRID * uniform)
    return (1 - _FLOOR) * height + _FLOOR * uniform


def _threshold(known: Values, unknown: Values, sentences: list[str]) -> tuple[Values, Values]:
    """A log-ratio that rises by one each fifth of a deviation of the sample there is, and is 0 at a quantile of it."""
    rare_unknown = len(unknown) < FEWEST
    x, quantile = (known, _TOO_FEW_UNKNOWN) if rare_unknown else (unknown, _TOO_FEW_KNOWN)
    threshold = float(np.quantile(x, quantile))
    width = max(float(x.std()), 1e-3 * max(1.0, abs(threshold)))
    rare, count, other = ("unknown", len(unknown), "known") if rare_unknown else ("known", len(known), "unknown")
    sentences.append(
        f"{count} {rare} regions are too few to fit a density (at least {FEWEST}): above {threshold:.4g}, the "
        f"{round(100 * quantile)}th percentile of {other} regions, more speaks for unknown"
    )
    energies = np.linspace(threshold - 2 * width, threshold + 2 * width, GRID)
    return energies, (energies - threshold) * 5 / width


def _auroc(known: Values, unknown: Values) -> float | None:
    if len(known) == 0 or len(unknown) == 0:
        return None
    return float(mannwhitneyu(unknown, known).statistic / (len(known) * len(unknown)))
