import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from detection.openworld.density import fit_density
from detection.openworld.energy_fit import FEWEST, monotone_log_ratio
from detection.openworld.energy_scorer import EnergyScorer
from sslcore.errors import CheckpointError

F64 = torch.float64


def normal(mean, deviation, n, seed=0):
    return mean + deviation * torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(seed))


def fitted(known, unknown, *, prior=0.5, **settings):
    scorer = EnergyScorer(**settings)
    scorer.fit(known, unknown, source="a test")
    scorer.prior = prior
    return scorer


# --- the scores -----------------------------------------------------------------------------------------------------


def test_energy_is_the_log_sum_exp_of_the_known_logits():
    logits = torch.tensor([[9.0, 8.0, 1.0, 2.0]])
    expected = -math.log(math.exp(1) + math.exp(2))
    assert EnergyScorer().energy(logits).item() == pytest.approx(expected)
    expected = -1.5 * math.log(math.exp(1 / 1.5) + math.exp(2 / 1.5))
    assert EnergyScorer(temperature=1.5).energy(logits).item() == pytest.approx(expected)
    assert EnergyScorer(temperature=1.5).evidence(logits).item() == pytest.approx(expected)


def test_the_other_scores_are_larger_for_what_looks_less_known():
    logits = torch.tensor([[0.0, 0, 5, 0], [0, 0, 1, 0], [5, 0, 0, 0]])
    p = logits.softmax(dim=1)
    found = EnergyScorer(score="max_probability").evidence(logits)
    torch.testing.assert_close(found, -p[:, 2:].amax(dim=1).log())
    assert found[0] < found[1] < found[2]
    found = EnergyScorer(score="foreground").evidence(logits)
    torch.testing.assert_close(found, -(1 - p[:, 0]).log())
    sure = torch.tensor([[-40.0, 0, 60, 0]])
    assert EnergyScorer(score="foreground").evidence(sure).item() == pytest.approx(0, abs=1e-6)


# --- densities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [(2.0, -10.0, 5.0), (1.3, 0.0, 1.0), (5.0, -3.0, 2.0)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_fits_recover_the_density_of_synthetic_samples(parameters, mirrored):
    x = stats.weibull_min.rvs(*parameters, size=2000, random_state=np.random.default_rng(3))
    x = -x if mirrored else x
    density, problem = fit_density(x)
    assert problem is None
    grid = np.linspace(*np.quantile(x, [0.01, 0.99]), 200)
    true = stats.weibull_min.pdf(-grid if mirrored else grid, *parameters)
    assert np.abs(np.exp(density.log_pdf(grid)) - true).max() < 0.1 * true.max()
    # The shape is told apart from its neighbours where the likelihood can tell it.
    if density.mirrored == mirrored and parameters[0] < 5:
        assert density.parameters[0] == pytest.approx(parameters[0], rel=0.15)


@pytest.mark.parametrize("shape", [0.4, 0.9])
def test_a_density_that_would_rise_without_limit_is_kept_bounded(shape):
    x = stats.weibull_min.rvs(shape, size=500, random_state=np.random.default_rng(0))
    density, _ = fit_density(x)
    assert np.isfinite(density.log_pdf(np.linspace(x.min(), x.max(), 1000))).all()
    assert density.parameters[0] >= 1


@pytest.mark.parametrize("x", [np.full(50, 3.0), np.zeros(50), np.full(30, -1e6)])
def test_equal_values_get_a_normal_density_and_a_sentence(x):
    density, problem = fit_density(x)
    assert density.kind == "normal"
    assert "to which no Weibull density can be fitted" in problem
    assert np.isfinite(density.log_pdf(x)).all()


def test_where_scipy_fails_a_normal_density_takes_over(monkeypatch):
    def fails(*args, **options):
        raise stats.FitError("no")

    monkeypatch.setattr(stats.weibull_min, "fit", fails)
    density, problem = fit_density(np.random.default_rng(0).normal(size=100))
    assert (density.kind, problem) == ("normal", "scipy found no Weibull density")
    scorer = fitted(normal(-8, 1, 100), normal(0, 1, 100, 1))
    assert (scorer.log_odds(torch.tensor([-8.0, 0.0])) > 0).tolist() == [False, True]
    assert len(scorer.report.sentences) == 2
    assert "a normal density takes its place" in scorer.report.sentences[0]


# --- the decision ---------------------------------------------------------------------------------------------------


def test_the_odds_are_those_of_the_densities_where_these_rise_alike():
    known, unknown = normal(-8, 2, 4000), normal(-4, 2, 4000, 1)
    scorer = fitted(known, unknown, prior=0.3)
    energies = torch.linspace(-9, -3, 13, dtype=F64)
    ratio = (-((energies + 4) ** 2) + (energies + 8) ** 2) / 8 + math.log(0.3 / 0.7)
    torch.testing.assert_close(scorer.log_odds(energies).double().sigmoid(), ratio.sigmoid(), atol=0.04, rtol=0)
    assert scorer.report.auroc == pytest.approx(0.921, abs=0.02)  # of normal densities two deviations apart
    assert scorer.report.threshold == pytest.approx(-6, abs=0.2)  # where the densities cross


CASES = {
    "far apart": (normal(-20, 1, 300), normal(0, 1, 300, 1)),
    "wide unknown, which crosses twice": (normal(-8, 1, 500), normal(-6, 6, 500, 1)),
    "wide known": (normal(-8, 6, 500), normal(-6, 1, 500, 1)),
    "few": (normal(-8, 1, FEWEST), normal(-6, 2, FEWEST, 1)),
    "the wrong way round": (normal(0, 1, 200), normal(-5, 1, 200, 1)),
    "equal": (normal(0, 1, 200), normal(0, 1, 200)),
    "a constant": (torch.full((40,), -7.0, dtype=F64), normal(-3, 1, 100)),
    "two constants": (torch.full((40,), -7.0, dtype=F64), torch.full((40,), -7.0, dtype=F64)),
    "outliers": (torch.cat([normal(-8, 1, 200), torch.tensor([-4000.0], dtype=F64)]), normal(-3, 1, 100)),
    "heavy tails": (-(normal(0, 1, 300).exp() ** 2), normal(0, 1, 300, 1).exp()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_odds_never_fall_and_are_always_numbers(case):
    scorer = fitted(*CASES[case])
    low, high = scorer.energies[[0, -1]].tolist()
    energies = torch.cat(
        [torch.tensor([-1e30, -1e4]), torch.linspace(low - 5, high + 5, 5000), torch.tensor([1e4, 1e30])]
    )
    odds = scorer.log_odds(energies.sort().values)
    assert odds.isfinite().all()
    assert (odds.diff() >= -1e-5).all()
    json.dumps(scorer.report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("case", ["wide unknown, which crosses twice", "far apart", "outliers"])
def test_very_confident_known_regions_stay_known(case):
    known, unknown = CASES[case]
    scorer = fitted(known, unknown)
    assert (scorer.log_odds(torch.tensor([-1e6, -100.0, -30.0, -20.0, -17.0])) < 0).all()
    assert scorer.log_odds(torch.tensor([100.0])) > 0


def test_energies_the_wrong_way_round_say_nothing_and_the_report_says_so():
    scorer = fitted(*CASES["the wrong way round"])
    said = scorer.report.sentences[-1]
    assert "do not have a higher energy than known ones (AUROC 0." in said and "hardly counts" in said
    assert "decided by the classifier's unknown logit and the prior; a new run with more training steps, or" in said
    torch.testing.assert_close(scorer.log_odds(torch.tensor([-9.0, 0, 9])), torch.zeros(3), atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("score", "named"),
    [("max_probability", "-log of the greatest known probability"), ("foreground", "-log of 1 - p(background)")],
)
def test_the_evidence_is_named_as_what_it_is(score, named):
    scorer = EnergyScorer(score=score)
    scorer.fit(*CASES["the wrong way round"], source="here")
    assert f"do not have a higher {named} than known ones" in scorer.report.sentences[-1]


def test_monotone_ratios_pool_masses():
    known, unknown = np.array([1.0, 2, 1, 1]), np.array([1.0, 1, 3, 1])
    # Ratios 1, 1/2, 3, 1: the first two pool to 2/3, the last two to 2.
    np.testing.assert_allclose(np.exp(monotone_log_ratio(known, unknown)), [2 / 3, 2 / 3, 2, 2])


@pytest.mark.parametrize("few", [(300, 100), (300, 5), (5, 100)])
def test_the_prior_shifts_all_odds_alike(few):
    samples = normal(-8, 1, few[0]), normal(0, 1, few[1])
    even, rare = fitted(*samples), fitted(*samples, prior=0.2)
    energies = torch.linspace(-12, 4, 9)
    torch.testing.assert_close(rare.log_odds(energies), even.log_odds(energies) + math.log(0.2 / 0.8))
    assert "with a prior of 0.2." in rare.status()
    assert torch.equal(rare.log_ratio, even.log_ratio) and rare.report.threshold == even.report.threshold
    rare.fit(*samples, source="again")
    assert rare.prior == 0.5  # it belonged to other densities


@pytest.mark.parametrize("prior", [0.0, 1.0, -1, math.nan])
def test_a_prior_that_is_no_probability_is_refused(prior):
    with pytest.raises(ValueError, match="prior is a probability between 0 and 1"):
        fitted(normal(-8, 1, 100), normal(0, 1, 100), prior=prior).log_odds(torch.zeros(1))


# --- what can go wrong ----------------------------------------------------------------------------------------------


def test_too_few_unknown_regions_leave_a_threshold_of_the_known_ones():
    known = normal(-8, 1, 400)
    scorer = fitted(known, normal(0, 1, FEWEST - 1))
    at = float(np.quantile(known, 0.95))
    assert scorer.report.kind == "threshold"
    assert (scorer.log_odds(torch.tensor([at - 1e-3, at + 1e-3])) > 0).tolist() == [False, True]
    # The odds rise by one each fifth of a deviation.
    rise = scorer.log_odds(torch.tensor([at, at + known.std().item() / 5])).diff()
    assert rise.item() == pytest.approx(1, abs=0.01)
    assert scorer.report.threshold == pytest.approx(at, abs=0.01)
    assert "19 unknown regions are too few to fit a density" in scorer.report.sentences[0]
    assert "a threshold for want of samples" in scorer.status()


def test_too_few_known_regions_leave_a_threshold_of_the_unknown_ones():
    unknown = normal(0, 1, 400)
    scorer = fitted(normal(-8, 1, 3), unknown)
    at = float(np.quantile(unknown, 0.05))
    assert (scorer.log_odds(torch.tensor([at - 0.01, at + 0.01])) > 0).tolist() == [False, True]
    assert "the 5th percentile of unknown regions, more speaks for unknown" in scorer.report.sentences[0]
    # Whatever the few known ones are: the threshold decides, and nothing else is said.
    assert len(fitted(normal(9, 1, 3), unknown).report.sentences) == 1


@pytest.mark.parametrize("counts", [(0, 0), (3, 0), (0, 19)])
def test_too_few_of_both_fit_nothing(counts):
    scorer = fitted(normal(-8, 1, counts[0]), normal(0, 1, counts[1]))
    assert not scorer.fitted
    assert "too few to fit anything" in scorer.report.sentences[0]
    with pytest.raises(ValueError, match="were not fitted: call fit"):
        scorer.log_odds(torch.zeros(1))
    assert "was not fitted: the classifier" in scorer.status()


def test_values_that_are_not_finite_are_left_out_with_a_sentence():
    bad = torch.tensor([math.nan, math.inf, -math.inf], dtype=F64)
    known, unknown = normal(-8, 1, 100), normal(0, 1, 100, 1)
    scorer = fitted(torch.cat([known, bad]), unknown)
    assert scorer.report.sentences == ("3 of 103 known values are not finite and were left out",)
    assert torch.equal(scorer.log_ratio, fitted(known, unknown).log_ratio)


def test_outliers_are_left_out_with_a_sentence():
    scorer = fitted(*CASES["outliers"])
    assert scorer.report.sentences == (
        "1 of 201 known values lie far outside the others (below -40.8 or above 24.7) and were left out",
    )
    assert torch.equal(scorer.log_ratio, fitted(normal(-8, 1, 200), normal(-3, 1, 100)).log_ratio)


def test_a_new_fit_replaces_the_old_one_and_can_be_forgotten():
    scorer = fitted(normal(-8, 1, 100), normal(0, 1, 100))
    scorer.fit(normal(-80, 1, 100), normal(-70, 1, 100), source="again")
    assert "(again)" in scorer.status()
    assert scorer.log_odds(torch.tensor([-70.0])) > 2
    scorer.fit(normal(0, 1, 1), normal(0, 1, 1), source="nothing")
    assert not scorer.fitted
    scorer = fitted(normal(-8, 1, 100), normal(0, 1, 100))
    scorer.forget()
    assert not scorer.fitted


def test_what_a_fit_found_wanting_survives_a_checkpoint():
    scorer = fitted(normal(0, 1, 100), normal(-8, 1, 100))
    other = EnergyScorer()
    other.load_state_dict(scorer.state_dict())
    assert other.notes == scorer.notes == scorer.report.sentences
    assert any("unknown regions do not have a higher energy than known ones" in note for note in other.notes)
    assert fitted(normal(-8, 1, 100), normal(0, 1, 100)).notes == EnergyScorer().notes == ()


def test_the_fit_survives_a_checkpoint():
    scorer = fitted(normal(-8, 1, 100), normal(0, 1, 100), temperature=1.5, prior=0.3)
    other = EnergyScorer(temperature=1.5)
    other.load_state_dict(scorer.state_dict())
    energies = torch.linspace(-12, 5, 50)
    assert torch.equal(other.log_odds(energies), scorer.log_odds(energies))
    assert other.status() == scorer.status()
    empty = EnergyScorer(temperature=1.5)
    empty.load_state_dict(EnergyScorer(temperature=1.5).state_dict())
    assert not empty.fitted


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"temperature": 1.5, "score": "foreground"}])
def test_a_fit_at_another_temperature_or_of_another_score_is_refused(settings):
    scorer = fitted(normal(-8, 1, 100), normal(0, 1, 100), temperature=1.5)
    with pytest.raises(CheckpointError, match="was fitted with"):
        EnergyScorer(**settings).load_state_dict(scorer.state_dict())


def test_arguments_are_checked():
    for settings in ({"score": "entropy"}, {"temperature": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            EnergyScorer(**settings)
