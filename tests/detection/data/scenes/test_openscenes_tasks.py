import numpy as np
import pytest

from detection.data.scenes import ArtCatalogue, Drawing, kenney
from detection.data.scenes.openscenes_tasks import Deal, deal_kenney, deal_own
from sslcore.errors import DataError


def catalogue(**supercategories):
    """Art with drawings that tell nothing: super-category -> {class: number of drawings}."""
    rng = np.random.default_rng(0)
    drawings = []
    for group, classes in supercategories.items():
        for name, count in classes.items():
            for k in range(count):
                pixels = rng.integers(0, 256, (24, 24, 4)).astype(np.uint8)
                drawings.append(Drawing(f"{name}/{k}", name, group.replace("_", " "), pixels))
    return ArtCatalogue(drawings)


def test_the_demos_classes_are_all_dealt_once():
    every = {name for classes in kenney.TABLE.values() for name in classes}
    for variant in ("M", "S"):
        deal = deal_kenney(variant)
        assert len(deal.tasks) == 4
        assert all(len(names) >= 6 for names in deal.tasks)
        assert sorted((*deal.known, *deal.far)) == sorted(every)
        assert set(deal.far) == set(kenney.TABLE[kenney.FAR])
        assert set(deal.far_seen) < set(deal.far)
        assert len(deal.far_seen) == 8


def test_tasks_of_s_share_no_supercategory_and_those_of_m_have_all():
    groups = {name: group for group, classes in kenney.TABLE.items() for name in classes}
    shown = [{groups[name] for name in names} for names in deal_kenney("S").tasks]
    assert all(len(names) == 1 for names in shown)
    assert len(set.union(*shown)) == 4
    assert all(len({groups[name] for name in names}) == 4 for names in deal_kenney("M").tasks)


def test_others_takes_turns_between_the_tasks():
    deal = Deal((("a1", "a2"), ("b1", "b2", "b3"), ("c1",)), ("far",))
    assert deal.others(1) == ("b1", "c1", "b2", "b3")
    assert deal.others(3) == ("a1", "b1", "a2", "b2", "b3")
    assert deal.known == ("a1", "a2", "b1", "b2", "b3", "c1")


def test_m_deals_round_robin_those_with_most_drawings_first():
    deal = deal_own(catalogue(s={"a": 1, "b": 4, "c": 2, "d": 3}), "M", "art")
    assert deal == Deal((("b", "c"), ("d", "a")), ())


@pytest.mark.parametrize(("classes", "tasks", "far"), [(4, 2, 0), (5, 2, 1), (8, 3, 1), (10, 4, 2), (40, 4, 8)])
def test_m_makes_up_to_four_tasks_and_leaves_a_fifth_untaught(classes, tasks, far):
    deal = deal_own(catalogue(s={f"c{k:02d}": 1 for k in range(classes)}), "M", "art")
    assert len(deal.tasks) == tasks
    assert len(deal.far) == far
    assert min(map(len, deal.tasks)) >= 2
    assert max(map(len, deal.tasks)) - min(map(len, deal.tasks)) <= 1
    assert len({*deal.known, *deal.far}) == classes


def test_m_spreads_supercategories_over_the_tasks():
    art = catalogue(pets={f"p{k}": 2 for k in range(5)}, tools={f"t{k}": 2 for k in range(5)})
    deal = deal_own(art, "M", "art")
    assert [sorted(name[0] for name in names) for names in deal.tasks] == [["p", "t"]] * 4
    assert sorted(name[0] for name in deal.far) == ["p", "t"]


def test_a_supercategory_called_far_unknown_is_never_taught():
    pets, tools = {"cat": 3, "dog": 2, "owl": 1}, {"saw": 3, "axe": 2}
    art = catalogue(pets=pets, far_unknown={"ufo": 9, "elf": 1}, tools=tools)
    assert deal_own(art, "M", "art") == Deal((("cat", "owl", "axe"), ("dog", "saw")), ("ufo", "elf"))
    assert deal_own(art, "S", "art") == Deal((("cat", "dog", "owl"), ("saw", "axe")), ("ufo", "elf"))


def test_s_leaves_the_smallest_of_three_supercategories_untaught():
    art = catalogue(a={"a1": 1, "a2": 1, "a3": 1}, b={"b1": 1, "b2": 1}, c={"c1": 1, "c2": 1, "c3": 1})
    assert deal_own(art, "S", "art") == Deal((("a1", "a2", "a3"), ("c1", "c2", "c3")), ("b1", "b2"))


def test_s_leaves_supercategories_of_one_class_untaught():
    art = catalogue(a={"a1": 1, "a2": 1}, b={"b1": 1, "b2": 1}, c={"c1": 1})
    assert deal_own(art, "S", "art") == Deal((("a1", "a2"), ("b1", "b2")), ("c1",))


def test_s_makes_four_tasks_of_many_supercategories_none_of_them_in_two():
    art = catalogue(**{f"g{k}": {f"g{k}x": 1, f"g{k}y": 1} for k in range(7)})
    deal = deal_own(art, "S", "art")
    assert len(deal.tasks) == 4
    assert [len(names) for names in deal.tasks] == [4, 4, 2, 2]
    for k in range(7):
        assert sum(f"g{k}x" in names and f"g{k}y" in names for names in (*deal.tasks, deal.far)) == 1


def test_too_little_art_is_named_with_what_is_needed():
    with pytest.raises(DataError, match=r"toys has 3 classes to learn \(a, b, c\): OpenScenes needs at least 4"):
        deal_own(catalogue(s={"a": 1, "b": 1, "c": 1}, far_unknown={"d": 1, "e": 1}), "M", "toys")
    with pytest.raises(DataError, match="toys has 1 super-categories of at least 2 classes: the variant S needs 2"):
        deal_own(catalogue(s={"a": 1, "b": 1, "c": 1, "d": 1}, one={"e": 1}), "S", "toys")
