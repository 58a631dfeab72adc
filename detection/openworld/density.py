"""Densities of one-dimensional samples: Weibull by maximum likelihood, with every way it can fail spoken for."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Values = npt.NDArray[np.float64]

_LARGEST_SAMPLE = 20_000  # the likelihood of more tells nothing new and takes longer


@dataclass(frozen=True)
class Density:
    """A fitted density.

    Attributes:
        kind: "weibull", or "normal" where no Weibull density fits.
        parameters: of scipy's `weibull_min`: shape, location, scale; of the normal density: mean, deviation.
        mirrored: whether -x has this density: a Weibull density is bounded on the left, and energies may be bounded on
            either side.
        count: samples it was fitted on.
        log_likelihood: mean over them.
    """

    kind: Literal["weibull", "normal"]
    parameters: tuple[float, ...]
    mirrored: bool
    count: int
    log_likelihood: float

    def log_pdf(self, x: Values) -> Values:
        """Logarithm of the density; -inf outside its support."""
        family = stats.weibull_min if self.kind == "weibull" else stats.norm
        return np.asarray(family.logpdf(-x if self.mirrored else x, *self.parameters))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "parameters": list(self.parameters),
            "mirrored": self.mirrored,
            "count": self.count,
            "log_likelihood": self.log_likelihood,
        }


def fit_density(x: Values) -> tuple[Density, str | None]:
    """Weibull density of a sample with free location, or a normal one and the sentence that says why.

    The likelihood of three parameters has no maximum: with a shape below 1 it grows without limit as the location nears
    the least sample, and iterations for all three end anywhere. So the location is searched for in one dimension, with
    scipy's fit of the other two at each, and shapes are at least 1: densities that are bounded. The sample and its
    mirror image are both tried, and the likelier one is kept.

    Args:
        x: (n,) finite, at least two.
    """
    spread = float(x.std())
    if not spread > 1e-9 * max(1.0, float(np.abs(x).max())):
        return _normal(x, spread), f"all {len(x)} values are {x[0]:.4g}, to which no Weibull density can be fitted"
    part = x if len(x) <= _LARGEST_SAMPLE else np.sort(x)[np.linspace(0, len(x) - 1, _LARGEST_SAMPLE).astype(int)]
    fits = [fit for mirrored in (False, True) if (fit := _weibull(part, len(x), spread, mirrored)) is not None]
    if not fits:
        return _normal(x, spread), "scipy found no Weibull density"
    return max(fits, key=lambda fit: fit.log_likelihood), None


def _normal(x: Values, spread: float) -> Density:
    deviation = max(spread, 1e-3 * max(1.0, float(np.abs(x).max())))
    mean = float(x.mean())
    return Density("normal", (mean, deviation), False, len(x), float(stats.norm.logpdf(x, mean, deviation).mean()))


def _weibull(x: Values, count: int, spread: float, mirrored: bool) -> Density | None:
    x = np.sort(-x if mirrored else x)
    # How far the location lies before the least sample, in deviations of the sample: from a hundredth to so far that
    # only the shape of the far end is left of the density.
    nearest, farthest = np.log(1e-2), np.log(30.0)

    def loss(log_gap: float) -> float:
        return -_at_location(x, float(x[0]) - spread * float(np.exp(log_gap)))[2]

    coarse = np.linspace(nearest, farthest, 9)
    losses = [loss(gap) for gap in coarse]
    if not np.isfinite(losses).any():
        return None
    best = int(np.nanargmin(losses))
    around = (coarse[max(best - 1, 0)], coarse[min(best + 1, len(coarse) - 1)])
    found = optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-2})
    gap = float(found.x) if found.fun <= losses[best] else float(coarse[best])
    location = float(x[0]) - spread * float(np.exp(gap))
    shape, scale, likelihood = _at_location(x, location)
    if not np.isfinite([shape, scale, likelihood]).all():
        return None
    return Density("weibull", (shape, location, scale), mirrored, count, likelihood)


def _at_location(x: Values, location: float) -> tuple[float, float, float]:
    """Shape, scale and mean log-likelihood of the best density that begins at a location; nan where there is none."""
    try:
        shape, _, scale = stats.weibull_min.fit(x, floc=location)
        if shape < 1:
            shape, _, scale = stats.weibull_min.fit(x, f0=1.0, floc=location)
        likelihood = float(stats.weibull_min.logpdf(x, shape, location, scale).mean())
    except (stats.FitError, ValueError, RuntimeError, FloatingPointError):
        return np.nan, np.nan, np.nan
    return float(shape), float(scale), likelihood if np.isfinite(likelihood) else np.nan
