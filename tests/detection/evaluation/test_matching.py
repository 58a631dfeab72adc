"""Overlaps and pairing off, against loops."""

import numpy as np
import pytest

from detection.evaluation import matching
from detection.evaluation.matching import Pairs, best_truth, first_of_each, greedy, overlapping


def boxes(random, count, step=10):
    corner = random.integers(0, 3, (count, 2)) * step
    return np.concatenate([corner, corner + random.integers(0, 4, (count, 2)) * step], axis=1).astype(float)


def overlap(one, other, pixel, of_detection):
    width = min(one[2], other[2]) - max(one[0], other[0]) + pixel
    height = min(one[3], other[3]) - max(one[1], other[1]) + pixel
    shared = max(width, 0) * max(height, 0)
    area = (one[2] - one[0] + pixel) * (one[3] - one[1] + pixel)
    whole = area if of_detection else area + (other[2] - other[0] + pixel) * (other[3] - other[1] + pixel) - shared
    return shared / whole if whole else 0.0


@pytest.mark.parametrize(("pixel", "of_detection", "strictly"), [(0, False, False), (1, False, True), (0, True, False)])
def test_overlaps_of_all_images(monkeypatch, pixel, of_detection, strictly):
    monkeypatch.setattr(matching, "CHUNK", 7)
    random = np.random.default_rng(0)
    image, truth_image = random.integers(0, 6, 90), random.integers(0, 7, 60)
    ours, theirs = boxes(random, 90), boxes(random, 60)
    pairs = overlapping(
        image, ours, truth_image, theirs, above=0.5, strictly=strictly, pixel=pixel, of_detection=of_detection
    )
    found = {(d, t): v for d, t, v in zip(pairs.detection.tolist(), pairs.truth.tolist(), pairs.overlap.tolist())}
    expected = {}
    for d in range(90):
        for t in range(60):
            value = overlap(ours[d], theirs[t], pixel, of_detection)
            if image[d] == truth_image[t] and (value > 0.5 or (value == 0.5 and not strictly)):
                expected[d, t] = value
    assert len(expected) > 10
    assert found == pytest.approx(expected)
    assert set(found) == set(expected)


def taking_turns(pairs, detections):
    taken, got = set(), [-1] * detections
    for d in range(detections):
        mine = [
            (-v, t) for i, t, v in zip(pairs.detection.tolist(), pairs.truth.tolist(), pairs.overlap.tolist()) if i == d
        ]
        for _, t in sorted(mine):
            if t not in taken:
                taken.add(t)
                got[d] = t
                break
    return got


@pytest.mark.parametrize("seed", range(20))
def test_greedy_is_taking_turns(seed):
    random = np.random.default_rng(seed)
    detections, truths = int(random.integers(1, 40)), int(random.integers(1, 15))
    there = random.random((detections, truths)) < random.random()
    detection, truth = np.nonzero(there)
    shuffled = random.permutation(len(detection))
    pairs = Pairs(detection[shuffled], truth[shuffled], random.integers(5, 9, len(detection)) / 10)  # with ties
    assert greedy(pairs, detections, truths).tolist() == taking_turns(pairs, detections)


def test_many_on_one_spot():
    count, truths = 2000, 30
    detection, truth = (part.reshape(-1) for part in np.indices((count, truths)))
    pairs = Pairs(detection, truth, np.tile(np.linspace(0.9, 0.5, truths), count))
    assert greedy(pairs, count, truths).tolist() == [*range(truths), *[-1] * (count - truths)]


def test_best_truth_is_the_first_of_equals():
    pairs = Pairs(np.array([2, 2, 0, 0]), np.array([5, 3, 1, 4]), np.array([0.7, 0.7, 0.6, 0.8]))
    assert best_truth(pairs, 3).tolist() == [4, -1, 3]


def test_first_of_each():
    assert first_of_each(np.array([-1, 4, 2, 4, -1, 2])).tolist() == [False, True, True, False, False, False]
    assert first_of_each(np.zeros(0, dtype=np.int64)).tolist() == []
