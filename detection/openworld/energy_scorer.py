"""From the known logits of a region to what they say for its being an unknown object.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, section 4.3: free energies of known and of
unknown regions, a Weibull density of each. Where ORE compares the densities at one energy, what counts here is their
log-ratio with an explicit prior, made monotone: two free Weibull densities cross more than once, and a very confident
known region, far out where both are nearly zero, must not become unknown.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detection.openworld.counting import packed, unpacked
from detection.openworld.energy_fit import GRID, FitReport, fit_densities
from detection.openworld.settings import Score
from detection.structures import BACKGROUND, FIRST_KNOWN
from sslcore.errors import CheckpointError

EVEN = 0.5
"""The prior of a scorer that nobody gave one."""


def logit(prior: float) -> float:
    """The log-odds of a prior.

    Raises:
        ValueError: it is no probability between 0 and 1.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior is a probability between 0 and 1, not {prior}")
    return math.log(prior / (1 - prior))


class EnergyScorer(nn.Module):
    """Free energy, and from it the log-odds of being unknown, once densities have been fitted.

    Args:
        score: what the densities are of, see `evidence`.
        temperature: T of the energy, in the fit and in use.

    Attributes:
        energies, log_ratio: (G,) the fitted decision: log-ratio of the density of unknown to that of known regions at
            evenly spaced energies, never falling; between them it is interpolated, beyond them constant.
        prior: probability of unknown before the energy is known, in (0, 1); to be set once the densities are fitted.
        report: of the last fit in this process; None after loading.
    """

    energies: Float[Tensor, " G"]
    log_ratio: Float[Tensor, " G"]

    def __init__(self, *, score: Score = "energy", temperature: float = 1.0) -> None:
        super().__init__()
        if score not in ("energy", "max_probability", "foreground"):
            raise ValueError(f'score is "energy", "max_probability" or "foreground", not {score!r}')
        if not temperature > 0:
            raise ValueError(f"temperature divides the logits and must be positive, not {temperature}")
        self.score, self.temperature, self.prior = score, temperature, EVEN
        self.register_buffer("energies", torch.linspace(0, 1, GRID))
        self.register_buffer("log_ratio", torch.zeros(GRID))
        self.report: FitReport | None = None
        self._summary: dict[str, Any] = {}

    @property
    def fitted(self) -> bool:
        """Whether there are densities, so that `log_odds` says something."""
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

    def log_odds(self, evidence: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Log-odds of unknown by the energy and the prior, never falling in the evidence.

        Raises:
            ValueError: nothing was fitted; or the prior is no probability between 0 and 1.
        """
        return self.log_likelihood_ratio(evidence) + logit(self.prior)

    def log_likelihood_ratio(self, evidence: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """log p(evidence | unknown) / p(evidence | known), never falling in the evidence.

        Raises:
            ValueError: nothing was fitted.
        """
        if not self.fitted:
            raise ValueError("the energies of known and unknown regions were not fitted: call fit")
        step = (self.energies[-1] - self.energies[0]) / (len(self.energies) - 1)
        place = ((evidence.float() - self.energies[0]) / step).clamp(0, len(self.energies) - 1)
        below = place.long().clamp(max=len(self.energies) - 2)
        return torch.lerp(self.log_ratio[below], self.log_ratio[below + 1], place - below)

    @torch.no_grad()
    def fit(self, known: Float[Tensor, " n"], unknown: Float[Tensor, " m"], *, source: str) -> FitReport:
        """Fit the densities of the evidence of known and of unknown regions, and with them the decision.

        Whatever the samples are, the log-odds are numbers afterwards or nothing is fitted, and the report says so. The
        prior is one half then.

        Args:
            known, unknown: `evidence` of regions on known objects, and of regions taken for unknown.
            source: where the unknown regions come from, for the report.
        """
        # scipy takes half a second to import, and inference needs nothing of it.
        report = fit_densities(
            *(x.detach().double().cpu().numpy() for x in (known, unknown)),
            score=self.score,
            temperature=self.temperature,
            source=source,
        )
        self.report, self.prior = report, EVEN
        self._summary = {} if report.kind == "none" else report.to_dict()
        self.energies.copy_(torch.from_numpy(report.energies))
        self.log_ratio.copy_(torch.from_numpy(report.log_ratio))
        return report

    def forget(self) -> None:
        """Back to what was never fitted: energies of another set of logits mean nothing."""
        self.report, self._summary, self.prior = None, {}, EVEN
        self.log_ratio.zero_()

    def status(self) -> str:
        """One sentence: what the decision rests on."""
        if not self.fitted:
            return (
                "The decision on unknown objects was not fitted: the classifier's own unknown logit stands in for it."
            )
        of = f"{self._summary['known_count']} known and {self._summary['unknown_count']} unknown regions"
        what = {"densities": "densities", "threshold": "a threshold for want of samples"}[self._summary["kind"]]
        return (
            f"Unknown objects are told by {what} of the {self._summary['score']} of {of} ({self._summary['source']}), "
            f"with a prior of {self.prior:.2g}."
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the fit found wanting, in sentences, also after loading; empty if nothing, or nothing was fitted."""
        return tuple(self._summary.get("sentences", ()))

    def get_extra_state(self) -> Tensor:
        return packed({"score": self.score, "temperature": self.temperature, "prior": self.prior, "fit": self._summary})

    def set_extra_state(self, state: Any) -> None:
        values = unpacked(state)
        self._summary, self.prior = values["fit"], values.get("prior", EVEN)
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
