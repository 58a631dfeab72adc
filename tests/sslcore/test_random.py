import math

import pytest
import torch

from sslcore.random import hash_seed, permutation, uniform, uniform_row


def numbers(n=2000, draws=50, seed=0, step=0, stream=0, first=0):
    return uniform(seed, step, torch.arange(first, first + n), stream=stream, draws=draws).double()


def correlation(x, y):
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()


# --- the numbers are uniform and independent; the bounds are five standard deviations of the statistic -------------


def test_moments_are_those_of_the_uniform_distribution():
    u = numbers()
    n = u.numel()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)


@pytest.mark.parametrize("bins", [16, 1000])
@pytest.mark.parametrize("fold", ["all", "top bits kept apart"])
def test_chi_square(bins, fold):
    u = numbers()
    if fold != "all":
        u = (u * 256) % 1  # the lower bits must be as uniform as the upper ones
    counts = torch.histc(u, bins, 0, 1)
    statistic = ((counts - u.numel() / bins) ** 2).sum() * bins / u.numel()
    assert abs(statistic - (bins - 1)) < 5 * math.sqrt(2 * (bins - 1))


def test_pairs_fill_the_square():
    u = numbers()
    cells = (u[:, 0::2] * 32).long() * 32 + (u[:, 1::2] * 32).long()
    counts = torch.bincount(cells.flatten(), minlength=1024).double()
    expected = cells.numel() / 1024
    assert abs(((counts - expected) ** 2 / expected).sum() - 1023) < 5 * math.sqrt(2 * 1023)


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbouring_draws_and_samples_do_not_correlate(lag):
    u = numbers()
    bound = 5 / math.sqrt(u.numel() * 0.8)
    assert abs(correlation(u[:, lag:], u[:, :-lag])) < bound
    assert abs(correlation(u[lag:], u[:-lag])) < bound


@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"stream": 1}, {"first": 2000}, {"step": -1}])
def test_every_argument_gives_fresh_numbers(change):
    u, v = numbers(), numbers(**change)
    assert (u == v).double().mean() < 1e-4
    assert abs(correlation(u, v)) < 5 / math.sqrt(u.numel())


def test_arguments_are_not_interchangeable():
    assert len({float(numbers(1, 1, seed=a, step=b, stream=c)) for a, b, c in [(1, 2, 3), (2, 1, 3), (3, 2, 1)]}) == 3


# --- a number is a function of its coordinates alone ----------------------------------------------------------------


def test_pinned_values():
    """A change of the hash changes every run in progress: it must not happen by accident."""
    expected = torch.tensor([[6891839, 1174881], [15928292, 9515605], [10268280, 6643410]]) / 2**24
    assert torch.equal(uniform(1, 2, torch.tensor([0, 1, 10**12]), stream=3, draws=2), expected)


def test_a_row_depends_on_its_own_id_only():
    ids = torch.tensor([5, 123456789, 0, 7])
    batch = uniform(3, 9, ids, stream=1, draws=6)
    for i, sample in enumerate(ids):
        assert torch.equal(uniform(3, 9, sample[None], stream=1, draws=6)[0], batch[i])
    assert torch.equal(uniform(3, 9, ids.int(), stream=1, draws=6), batch)
    assert torch.equal(uniform(3, 9, ids, stream=1, draws=2), batch[:, :2])


@pytest.mark.parametrize("seed", [0, -7, 2**63 + 11])
def test_plain_python_gives_the_same_bits(seed):
    ids = torch.tensor([0, 1, 99, 2**40 + 3, -5])
    batch = uniform(seed, 17, ids, stream=4, draws=25)
    rows = [uniform_row(seed, 17, i, stream=4, draws=25) for i in ids.tolist()]
    assert batch.double().tolist() == rows


def test_no_samples_and_no_draws():
    assert uniform(0, 0, torch.empty(0, dtype=torch.long), stream=0, draws=3).shape == (0, 3)
    assert uniform(0, 0, torch.arange(4), stream=0, draws=0).shape == (4, 0)


def test_ids_must_be_integers():
    with pytest.raises(ValueError, match="ids must be integers"):
        uniform(0, 0, torch.rand(3), stream=0, draws=1)


# --- permutations and seeds -----------------------------------------------------------------------------------------


def test_permutation_is_one_and_changes_with_each_argument():
    base = permutation(0, 0, 1000)
    assert torch.equal(base.sort().values, torch.arange(1000))
    assert torch.equal(base, permutation(0, 0, 1000))
    for other in (permutation(1, 0, 1000), permutation(0, 1, 1000), permutation(0, 0, 1000, stream=1)):
        assert not torch.equal(base, other)
    assert len(permutation(0, 0, 0)) == 0


def test_permutation_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    permutation(0, 0, 10)
    assert torch.equal(torch.rand(1), expected)


def test_hash_seed_is_a_63_bit_mix():
    seeds = {hash_seed(*numbers) for numbers in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (-1,), (2**64 - 2,)]}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
