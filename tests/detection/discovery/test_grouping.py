import numpy as np
import pytest

from detection.discovery import Grouping, group_embeddings
from detection.discovery.grouping import REST
from sslcore.errors import DataError


def clusters(sizes=(20, 12, 7), dim=64, spread=0.02, strays=0, seed=0):
    """Points around random directions, of random length, in a shuffled order; and the cluster of each."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(len(sizes) + strays, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    kinds = np.repeat(np.arange(len(centres)), [*sizes, *[1] * strays])
    points = centres[kinds] + spread * random.normal(size=(len(kinds), dim)) / dim**0.5
    points *= random.uniform(0.5, 20, size=(len(kinds), 1))
    order = random.permutation(len(kinds))
    return points[order], kinds[order]


@pytest.mark.parametrize("components", [None, 8])
def test_hdbscan_finds_the_clusters_by_falling_size(components):
    points, kinds = clusters()
    found = group_embeddings(points, components=components)
    assert [group.number for group in found.groups] == [1, 2, 3]
    assert [len(group) for group in found.groups] == [20, 12, 7]
    assert [set(kinds[group.members]) for group in found.groups] == [{0}, {1}, {2}]
    assert found.notes == ()


def test_strays_fit_no_group_or_come_last_in_one():
    points, kinds = clusters(strays=10, spread=0.3)
    found = group_embeddings(points)
    assert found.groups[-1].number == REST and min(kinds[found.groups[-1].members]) > 2
    assert sum(len(group) for group in found.groups) == len(points)
    for group in found.groups[:3]:
        own = kinds[group.members] == kinds[group.members[0]]
        assert own.sum() in (20, 12, 7) and own[: own.sum()].all()


def test_kinds_that_run_into_each_other_are_not_one_group():
    random = np.random.default_rng(4)
    near = np.array([[1.0, 0, 0], [0.9, 0.35, 0], [0.9, -0.35, 0]])
    far = np.array([-1.0, 0, 0.2])
    points = [centre + random.normal(0, 0.09, (80, 3)) for centre in near] + [far + random.normal(0, 0.02, (12, 3))]
    kinds = np.repeat([0, 1, 2, 3], [80, 80, 80, 12])
    found = group_embeddings(np.concatenate(points), min_group=10)
    named = [group for group in found.groups if group.number != REST]
    assert len(named) == 4
    assert {np.bincount(kinds[group.members]).argmax() for group in named} == {0, 1, 2, 3}
    assert min(np.bincount(kinds[group.members]).max() / len(group) for group in named) > 0.9


def test_kmeans_makes_as_many_groups_as_asked_for():
    points, kinds = clusters()
    found = group_embeddings(points, method="kmeans", groups=3)
    assert [len(group) for group in found.groups] == [20, 12, 7]
    assert [set(kinds[group.members]) for group in found.groups] == [{0}, {1}, {2}]


def test_members_are_ordered_from_the_centre_outwards():
    # The unit vectors at -20, 0, 5 and 45 degrees have their mean at about 7 degrees.
    degrees = np.radians([45, -20, 0, 5])
    points = np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * [[3], [1], [9], [0.1]]
    (group,) = group_embeddings(points, method="kmeans", groups=1).groups
    assert group.members.tolist() == [3, 2, 1, 0]
    units = points / np.linalg.norm(points, axis=1, keepdims=True)
    centre = units.mean(axis=0) / np.linalg.norm(units.mean(axis=0))
    np.testing.assert_allclose(group.likeness, (units @ centre)[group.members])


def test_the_length_of_an_embedding_does_not_matter():
    points, _ = clusters()
    scaled = points * np.random.default_rng(1).uniform(1e-3, 1e3, size=(len(points), 1))
    assert group_embeddings(points).fingerprint == group_embeddings(scaled).fingerprint


@pytest.mark.parametrize("how", [{}, {"method": "kmeans", "groups": 4, "seed": 3}])
def test_the_same_input_gives_the_same_groups(how):
    points, _ = clusters(spread=0.5, strays=5)
    assert group_embeddings(points, **how).fingerprint == group_embeddings(points.copy(), **how).fingerprint


def test_embeddings_without_a_direction_fit_no_group_and_come_last():
    points, _ = clusters(sizes=(12, 9))
    points[3], points[5], points[7] = np.nan, 0.0, np.inf
    found = group_embeddings(points)
    assert found.groups[-1].number == REST and set(found.groups[-1].members) == {3, 5, 7}
    assert np.isnan(found.groups[-1].likeness).all()
    assert "3 of 21 objects" in found.notes[0]
    assert sorted(np.concatenate([group.members for group in found.groups])) == list(range(21))


def test_huge_and_tiny_embeddings_have_a_direction_too():
    points = np.array([[1e300, 1e300], [1e-300, 1e-300], [2.0, 2.0]])
    (group,) = group_embeddings(points).groups
    np.testing.assert_allclose(group.likeness, 1)


def test_all_embeddings_without_a_direction():
    found = group_embeddings(np.full((3, 4), np.nan))
    assert [group.number for group in found.groups] == [REST]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_too_few_objects_are_one_group_and_it_is_said(count):
    found = group_embeddings(np.random.default_rng(0).normal(size=(count, 8)))
    assert [group.number for group in found.groups] == [1]
    assert "too few to be grouped" in found.notes[0]


def test_objects_exactly_alike():
    points = np.ones((9, 5))
    assert [len(group) for group in group_embeddings(points).groups] == [9]
    assert sum(len(group) for group in group_embeddings(points, method="kmeans", groups=3).groups) == 9


def test_no_objects_no_groups():
    assert group_embeddings(np.zeros((0, 8))).groups == ()


def test_more_groups_than_objects_are_refused():
    with pytest.raises(DataError, match="5 groups cannot be made of 3 objects"):
        group_embeddings(np.eye(3), method="kmeans", groups=5)


@pytest.mark.parametrize(
    "how", [{"method": "kmeans"}, {"groups": 3}, {"method": "kmeans", "groups": 0}, {"min_group": 1}, {"components": 0}]
)
def test_arguments_that_do_not_fit_are_refused(how):
    with pytest.raises(ValueError):
        group_embeddings(np.eye(6), **how)


def test_groups_come_back_from_their_file(tmp_path):
    points, _ = clusters(strays=2)
    points[0] = np.nan
    found = group_embeddings(points)
    found.save(tmp_path)
    back = Grouping.load(tmp_path, objects=len(points))
    assert back.fingerprint == found.fingerprint and back.notes == found.notes
    for ours, theirs in zip(found.groups, back.groups, strict=True):
        np.testing.assert_allclose(ours.likeness, theirs.likeness, atol=1e-4)


def test_groups_of_other_objects_are_refused(tmp_path):
    group_embeddings(np.eye(6)).save(tmp_path)
    with pytest.raises(DataError, match="not those of the 7 objects"):
        Grouping.load(tmp_path, objects=7)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 1, "notes": [], "groups": [{"number": 1}]}', '{"schema": 1']
)
def test_a_damaged_file_of_groups_is_refused(tmp_path, text):
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(DataError, match="group"):
        Grouping.load(tmp_path, objects=0)
