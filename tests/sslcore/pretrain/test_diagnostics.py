import math

import pytest
import torch
import torch.nn.functional as F

from sslcore.pretrain.diagnostics import (
    alignment,
    embedding_std,
    measure_health,
    rank_me,
    uniformity,
    verdict,
)

N, D = 400, 64
HEALTHY = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
CONSTANT = torch.ones(N, D) + 1e-5 * HEALTHY
CHANCE = math.log(511)
LINE = HEALTHY[:, :1] * HEALTHY[0]  # rank 1: both directions of one line


def health(embeddings):
    return measure_health(features=HEALTHY, view_a=embeddings, view_b=embeddings)


def levels(chance):
    return {} if chance is None else {"loss": chance}


def say(embeddings=HEALTHY, losses=(5.0, 4.0, 3.0), epochs=3, chance=CHANCE, method=""):
    history = [health(embeddings)] * epochs
    signs = verdict(history, {"loss": list(losses)}, chance=levels(chance), epoch=epochs, method=method)
    return [sign.sentence for sign in signs]


def test_rank_me_equals_its_definition():
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])
    embeddings = torch.linalg.qr(torch.randn(10, 4)).Q * values
    share = values / 8
    assert rank_me(embeddings) == pytest.approx(math.exp(-sum(p * math.log(p) for p in share.tolist())), rel=1e-4)


def test_rank_me_runs_from_one_direction_to_all():
    assert rank_me(LINE) == pytest.approx(1, abs=1e-3)
    assert rank_me(torch.eye(16)) == pytest.approx(16, rel=1e-4)
    assert rank_me(torch.zeros(5, 3)) < 3.1  # nothing there: no nan


def test_alignment_and_uniformity_equal_their_loops():
    a, b = HEALTHY[:7, :5], HEALTHY[7:14, :5]
    x, y = F.normalize(a, dim=1), F.normalize(b, dim=1)
    assert alignment(a, b) == pytest.approx(sum(((p - q) ** 2).sum().item() for p, q in zip(x, y)) / 7, rel=1e-5)
    pairs = [math.exp(-2 * ((x[i] - x[j]) ** 2).sum().item()) for i in range(7) for j in range(7) if i != j]
    for chunk in (1, 3, 7, 100):
        assert uniformity(a, chunk=chunk) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_readings_at_their_ends():
    assert embedding_std(HEALTHY) == pytest.approx(1 / math.sqrt(D), rel=0.02)
    assert embedding_std(CONSTANT) < 1e-5
    assert alignment(HEALTHY, 3 * HEALTHY) == pytest.approx(0, abs=1e-6)
    assert uniformity(CONSTANT) == pytest.approx(0, abs=1e-4)
    assert uniformity(HEALTHY) == pytest.approx(-4, abs=0.2)
    with pytest.raises(ValueError, match="at least two"):
        uniformity(HEALTHY[:1])


def test_all_readings_of_a_batch():
    reading = measure_health(features=LINE, view_a=HEALTHY, view_b=HEALTHY + 0.1)
    assert (reading.samples, reading.dim) == (N, D)
    assert reading.spread == pytest.approx(1, rel=0.02)
    assert reading.rank_me == pytest.approx(1, abs=1e-3)
    assert reading.embedding_rank > 50
    assert 0 < reading.alignment < 0.1
    assert reading.as_dict().keys() == {
        "embedding_std", "embedding_spread", "embedding_rank", "rank_me", "alignment", "uniformity",
    }  # fmt: skip


def test_a_healthy_run_is_not_commented():
    assert say() == []
    assert verdict([], {}, chance={}, epoch=0) == []


def test_a_loss_at_chance_is_told_with_the_numbers_and_a_cure():
    (sentence,) = say(losses=[6.24, 6.25, 6.23], method="simclr")
    assert "at chance (6.23 of 6.24 = ln(511)) for 3 epochs" in sentence
    assert "usual cures: a lower learning rate" in sentence


def test_only_the_last_epochs_in_a_row_count():
    stuck, learning = [6.24] * 10, [5.0] * 10  # ten values an epoch
    assert say(losses=stuck * 2, epochs=2) == []
    assert say(losses=stuck * 2 + learning + stuck * 2, epochs=5) == []
    assert say(losses=stuck * 4 + learning, epochs=5) == []
    assert "for 4 epochs" in say(losses=learning + stuck * 4, epochs=5)[0]


def test_a_resumed_run_counts_the_epochs_it_saw():
    history = [health(HEALTHY)] * 2
    assert verdict(history, {"loss": [6.24] * 20}, chance={"loss": CHANCE}, epoch=50) == []


def test_a_part_of_an_epoch_is_not_three():
    history = [health(HEALTHY)] * 3
    assert verdict(history, {"loss": [6.24] * 20}, chance={"loss": CHANCE}, epoch=0.4) == []


def test_a_method_without_a_chance_level_gets_no_sentence_about_its_loss():
    assert say(losses=[2.0, 2.0, 2.0], chance=None, method="byol") == []


def test_one_point_is_a_collapse():
    (sentence,) = say(CONSTANT, method="byol")
    assert "collapsed to a point" in sentence
    assert "1/sqrt(64)" in sentence
    assert "momentum closer to 1" in sentence
    assert say(CONSTANT, epochs=2) == []


def test_one_line_is_a_collapse_though_its_std_looks_healthy():
    assert health(LINE).spread > 0.5
    (sentence,) = say(LINE)
    assert "few directions: RankMe 1.0 of at most 64" in sentence


def test_divergence_is_told_at_once():
    (sentence,) = say(losses=[5.0, math.nan], epochs=1)
    assert sentence.startswith("the loss is nan: the run has diverged")
    broken = HEALTHY.clone()
    broken[3, 4] = math.inf
    (sentence,) = say(broken, epochs=1)
    assert "nan or infinite" in sentence


def test_every_term_is_held_against_its_own_chance_and_named():
    history = [health(HEALTHY)] * 4
    terms = {"loss": [9.0] * 8, "instance": [4.1, 3.0, 2.0, 1.5] * 2, "prototype": [2.30] * 8}
    signs = verdict(history, terms, chance={"instance": 4.17, "prototype": 2.3026}, epoch=4)
    assert [sign.kind for sign in signs] == ["prototype at chance"]
    assert signs[0].sentence.startswith("the prototype loss has stayed at chance (2.30 of 2.30 = ln(10))")


def test_a_loss_above_chance_is_not_called_at_chance():
    (sentence,) = say(losses=[9.0, 9.1, 9.2])
    assert "stayed above chance (9.20 of 6.24" in sentence


def test_the_kind_of_a_sign_does_not_change_with_its_numbers():
    def kinds(epochs):
        return [s.kind for s in verdict([health(CONSTANT)] * epochs, {}, chance={}, epoch=epochs)]

    assert kinds(3) == kinds(7) == ["collapsed to a point"]
