"""Mode `strict` on cases that were computed by hand."""

import json
from dataclasses import replace

import pytest

from detection.evaluation import evaluate
from sslcore.errors import ConfigError


def at(place, width=100, height=100):
    """A box in a row of places that do not touch."""
    return (200 * place, 0, 200 * place + width, height)


def test_average_precision(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "a", at(1)), (0, "b", at(2))]
    found = [(0, "a", at(0), 0.9), (0, "a", at(5), 0.8), (0, "a", at(1), 0.7)]
    result = evaluate(truth(objects), detections(found), tasks, 1)
    # a: recall 1/2 1/2 1 at precision 1 1/2 2/3: the area is 1/2 * 1 + 1/2 * 2/3
    assert result["ap_per_class"] == {"a": pytest.approx(5 / 6), "b": 0.0, "unknown": None}
    # precision 1 up to recall .5 (6 levels), 2/3 beyond (5 levels)
    assert result["ap_11_per_class"]["a"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert result["map_previous"] is None
    assert result["map_current"] == result["map_both"] == pytest.approx(5 / 12)  # of a and b
    assert result["recall_per_class"] == {"a": 1.0, "b": 0.0, "unknown": None}
    assert result["precision_per_class"] == {"a": pytest.approx(2 / 3), "b": None, "unknown": None}


def test_averages_are_over_classes_that_have_objects(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "c", at(1))]
    found = [(0, "a", at(0), 0.9), (0, "b", at(3), 0.9)]  # b has no object: its detection says nothing about its AP
    result = evaluate(truth(objects), detections(found), tasks, 2)
    assert (result["map_previous"], result["map_current"], result["map_both"]) == (1.0, 0.0, 0.5)


def test_half_an_overlap_is_enough(truth, detections, tasks):
    result = evaluate(truth([(0, "a", at(0))]), detections([(0, "a", at(0, height=50), 0.9)]), tasks, 1)
    assert result["map_both"] == 1.0
    result = evaluate(truth([(0, "a", at(0))]), detections([(0, "a", at(0, height=49.9), 0.9)]), tasks, 1)
    assert result["map_both"] == 0.0


def test_an_object_is_found_once_and_the_next_best_is_taken_if_free(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "a", at(0, height=80))]
    # The second lies best on the first object (95 / 100), which is taken, and well on the other (80 / 95).
    found = [(0, "a", at(0), 0.9), (0, "a", at(0, height=95), 0.8), (0, "a", at(0, height=98), 0.7)]
    result = evaluate(truth(objects), detections(found), tasks, 1)
    assert result["recall_per_class"]["a"] == 1.0
    assert result["precision_per_class"]["a"] == pytest.approx(2 / 3)


def test_crowds_and_difficult_objects_count_neither_way(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "a", (400, 0, 1000, 600), "crowd"), (0, "a", at(6), "difficult")]
    found = [
        (0, "a", at(2), 0.9),  # within the crowd
        (0, "a", at(3), 0.9),  # within the crowd, too
        (0, "a", at(6), 0.8),  # on the difficult one, twice
        (0, "a", at(6), 0.7),
        (0, "b", at(6), 0.6),  # of another class: wrong, but b has no object
        (0, "a", at(0), 0.5),
        (0, "a", (350, 0, 420, 100), 0.4),  # 20 of its 70 columns in the crowd: wrong
    ]
    result = evaluate(truth(objects), detections(found), tasks, 1)
    assert result["ap_per_class"]["a"] == 1.0
    assert result["precision_per_class"]["a"] == 0.5
    assert result["known_objects"] == 1


def test_unknown_is_what_no_task_so_far_has_brought(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "c", at(1)), (0, "d", at(2)), (1, "far", at(0)), (1, "c", at(3))]
    found = [
        (0, "unknown", at(1), 0.9),
        (0, "unknown", at(5), 0.8),
        (0, "unknown", at(2), 0.7),
        (1, "unknown", at(0), 0.6),
        (1, "unknown", at(0), 0.5),
        (1, "unknown", at(7), 0.4),
    ]
    result = evaluate(truth(objects, images=2), detections(found), tasks, 1)
    assert result["num_unknown_gt"] == 4
    assert result["u_recall"] == 0.75
    assert result["u_precision"] == 0.5
    assert result["u_f1"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    # precision 1 1/2 2/3 3/4 ..: made falling 1 3/4 3/4 3/4, three steps of a quarter
    assert result["u_ap"] == pytest.approx((1 + 0.75 + 0.75) / 4)
    later = evaluate(truth(objects, images=2), detections(found), tasks, 2)
    assert later["num_unknown_gt"] == 2  # d and far
    assert later["u_recall"] == 1.0
    assert later["map_current"] == 0.0  # c is known now, and nothing is called c


def test_unknown_recall_of_the_best_k_per_image(truth, detections, tasks):
    objects = [(0, "far", at(0)), (0, "far", at(1)), (1, "far", at(0))]
    wrong = [(0, "unknown", at(3 + i), 0.5) for i in range(9)]
    # In image 0 one is third, one is eleventh; known ones do not take places. In image 1 it is the only one.
    found = [(0, "a", at(0), 0.99), (0, "unknown", at(0), 0.5), *wrong, (0, "unknown", at(1), 0.4)]
    found.append((1, "unknown", at(0), 0.01))
    result = evaluate(truth(objects, images=2), detections(found), tasks, 1)
    assert result["u_recall_10"] == pytest.approx(2 / 3)
    assert result["u_recall_50"] == result["u_recall_100"] == result["u_recall"] == 1.0


def test_wilderness_impact(truth, detections, tasks):
    objects = [(0, "a", at(i)) for i in range(5)] + [(0, "b", at(5)), (0, "far", at(6))]
    found = [
        (0, "a", at(0), 0.9),
        (0, "a", at(1), 0.8),
        (0, "a", at(6), 0.75),  # on the unknown object
        (0, "a", at(2), 0.7),
        (0, "a", at(8), 0.65),  # on nothing
        (0, "a", at(3), 0.6),  # recall 4/5 is reached here
        (0, "a", at(6), 0.5),
        (0, "b", at(6), 0.9),  # b does not reach the recall
    ]
    result = evaluate(truth(objects), detections(found), tasks, 1)
    # P_K = 4/5, P_KuU = 4/6, and 4/5 / (4/6) - 1 = 1/5
    assert result["wi"] == pytest.approx(0.2)
    assert result["wi_classes"] == 1
    assert result["wi_at_recall"]["0.2"] == 0.0
    assert result["wi_at_recall"]["0.6"] == pytest.approx(1 / 3)  # after the fourth: 3 right, 1 on the unknown
    assert result["wi_at_recall"]["0.9"] is None


def test_open_set_errors(truth, detections, tasks):
    both = at(4, height=60)
    objects = [
        (0, "far", at(0)),
        (0, "far", at(1)),
        (0, "far", at(2)),
        (0, "far", at(4)),
        (0, "a", both),
        (0, "b", at(6)),
    ]
    found = [
        (0, "a", at(0), 0.9),
        (0, "b", at(0), 0.8),
        (0, "a", both, 0.7),  # right about a known object: no error, although it lies on an unknown one
        (0, "a", at(1), 0.6),
        (0, "b", at(6), 0.5),
        (0, "b", at(2), 0.4),
        (0, "b", at(2, height=40), 0.3),  # overlaps too little
        (0, "unknown", at(2), 0.2),
    ]
    result = evaluate(truth(objects), detections(found), tasks, 1)
    assert result["a_ose"] == 4
    assert result["a_ose_per_class"] == {"a": 2, "b": 2}
    assert result["a_ose_objects"] == 3
    # Half of the known objects at score .7, all of them at .5
    assert [result["a_ose_at_recall"][level] for level in ("0.1", "0.5", "0.6", "0.9")] == [2, 2, 3, 3]
    assert [result["a_ose_objects_at_recall"][level] for level in ("0.1", "0.5", "0.6", "0.9")] == [1, 1, 2, 2]


def test_what_lies_in_a_crowd_of_its_class_is_no_error(truth, detections, tasks):
    objects = [(0, "a", at(0, width=500), "crowd"), (0, "far", at(0)), (0, "b", at(5))]
    result = evaluate(truth(objects), detections([(0, "a", at(0), 0.9), (0, "b", at(0), 0.8)]), tasks, 1)
    assert result["a_ose_per_class"] == {"a": 0, "b": 1}


def test_errors_at_a_recall_that_is_not_reached_are_undefined(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "a", at(1)), (0, "far", at(2))]
    result = evaluate(truth(objects), detections([(0, "a", at(0), 0.9), (0, "a", at(2), 0.9)]), tasks, 1)
    # Both have the score .9: who takes one takes the other.
    assert result["a_ose_at_recall"]["0.5"] == 1
    assert result["a_ose_at_recall"]["0.6"] is None


def test_floor_and_cap(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "a", at(1)), (0, "far", at(2))]
    found = detections([(0, "a", at(0), 0.5), (0, "unknown", at(2), 0.4), (0, "a", at(1), 0.3)])
    result = evaluate(truth(objects), found, tasks, 1, score_floor=0.3, per_image=2)
    assert (result["score_floor"], result["per_image"], result["detections"]) == (0.3, 2, 2)
    assert (result["recall_per_class"]["a"], result["u_recall"]) == (0.5, 1.0)
    result = evaluate(truth(objects), found, tasks, 1, score_floor=0.3)  # a score of .3 is enough
    assert result["recall_per_class"]["a"] == 1.0
    result = evaluate(truth(objects), found, tasks, 1, score_floor=0.31)
    assert result["recall_per_class"]["a"] == 0.5
    with pytest.raises(ConfigError, match="per_image"):
        evaluate(truth(objects), found, tasks, 1, per_image=0)


def test_the_image_list_chooses_and_does_not_repeat(truth, detections, tasks):
    objects = [(i, "a", at(0)) for i in range(3)]
    found = detections([(i, "a", at(0), 0.9) for i in range(2)])
    result = evaluate(truth(objects, images=3), found, tasks, 1, image_list=["img_0", "folder/img_2.jpg", "img_0", 12])
    assert (result["images"], result["image_lines"], result["detections"]) == (2, 4, 1)
    assert result["map_both"] == 0.5


def test_what_later_tasks_bring_is_not_scored_as_detection(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "d", at(1))]
    result = evaluate(truth(objects), detections([(0, "a", at(0), 0.9), (0, "d", at(1), 0.9)]), tasks, 1)
    assert result["later_class_detections"] == 1
    assert (result["a_ose"], result["u_recall"]) == (0, 0.0)


def test_the_order_of_the_file_does_not_matter_between_images(truth, detections, tasks):
    objects = [(0, "a", at(0)), (1, "a", at(0))]
    rows = [(0, "a", at(0), 0.5), (1, "a", at(3), 0.5), (1, "a", at(0), 0.5)]
    one = evaluate(truth(objects, images=2), detections(rows), tasks, 1)
    other = evaluate(truth(objects, images=2), detections([rows[1], rows[2], rows[0]]), tasks, 1)
    assert one == other
    assert one["ap_per_class"]["a"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


@pytest.mark.parametrize("mode", ["strict", "ore"])
def test_nothing_at_all(truth, detections, tasks, mode):
    empty = evaluate(truth([], images=0), detections([]), tasks, 1, mode=mode)
    assert empty["images"] == 0
    json.dumps(empty, allow_nan=False)
    result = evaluate(truth([(0, "a", at(0)), (0, "far", at(1))]), detections([]), tasks, 1, mode=mode)
    assert (result["ap_per_class"]["a"], result["map_both"], result["u_recall"], result["u_ap"]) == (0.0, 0.0, 0.0, 0.0)
    assert (result["a_ose"], result["h_score"], result["unknown_per_image"], result["auroc"]) == (0, 0.0, 0.0, None)
    json.dumps(result, allow_nan=False)
    only_wrong = evaluate(truth([], images=1), detections([(0, "a", at(0), 0.5)]), tasks, 3, mode=mode)
    assert (only_wrong["map_both"], only_wrong["h_score"], only_wrong["distractor_recall"]) == (None, None, None)
    json.dumps(only_wrong, allow_nan=False)


def test_a_box_without_area_hits_nothing(truth, detections, tasks):
    objects = [(0, "a", (5, 5, 9, 9)), (0, "far", (5, 5, 8, 9))]
    found = [(0, "a", (5, 5, 5, 9), 0.9), (0, "unknown", (5, 5, 5, 9), 0.9)]
    result = evaluate(truth(objects), detections(found), tasks, 1)
    assert (result["map_both"], result["u_recall"], result["a_ose"]) == (0.0, 0.0, 0)


def test_an_object_without_area_or_outside_its_image_is_none_and_what_reaches_out_is_clipped(truth, detections, tasks):
    """As in the data of a run; images here have 2000 x 2000 pixels."""
    objects = [
        (0, "a", (10, 10, 30, 30)), (0, "a", (5, 5, 5, 9)), (0, "a", (2000, 0, 2010, 9)), (0, "b", (9, 9, 4, 20)),
        (0, "far", (1980, 1980, 2040, 2040)),
    ]  # fmt: skip
    found = detections([(0, "a", (10, 10, 30, 30), 0.9), (0, "unknown", (1980, 1980, 2000, 2000), 0.9)])
    result = evaluate(truth(objects), found, tasks, 1)
    assert (result["known_objects"], result["boxes_ignored"], result["boxes_clipped"]) == (1, 3, 1)
    assert (result["map_both"], result["ap_per_class"]["b"], result["u_recall"]) == (1.0, None, 1.0)
    # The original's numbers are with all of them.
    del objects[3]
    result = evaluate(truth(objects), found, tasks, 1, mode="ore")
    assert (result["boxes_ignored"], result["boxes_clipped"]) == (0, 0)
    assert (result["recall_per_class"]["a"], result["u_recall"]) == (pytest.approx(1 / 3), 0.0)
    # Where sizes are not known, nothing is clipped.
    unsized = evaluate(replace(truth(objects), sides=None), found, tasks, 1)
    assert (unsized["boxes_ignored"], unsized["boxes_clipped"], unsized["u_recall"]) == (1, 0, 0.0)


@pytest.mark.parametrize("task", [0, 4, -1])
def test_there_is_no_such_task(truth, detections, tasks, task):
    with pytest.raises(ConfigError, match="tasks 1 to 3"):
        evaluate(truth([]), detections([]), tasks, task)


def test_variants_belong_to_ore(truth, detections, tasks):
    with pytest.raises(ConfigError, match="variant of mode ore"):
        evaluate(truth([]), detections([]), tasks, 1, detections_once_per_image=True)
    with pytest.raises(ConfigError, match="strict or ore"):
        evaluate(truth([]), detections([]), tasks, 1, mode="legacy")


def test_both_modes_have_the_same_keys(truth, detections, tasks):
    strict = evaluate(truth([(0, "a", at(0))]), detections([]), tasks, 1)
    ore = evaluate(truth([(0, "a", at(0))]), detections([]), tasks, 1, mode="ore")
    own = {"detections_once_per_image", "ground_truth_boxes_as_coco_script", "ap50_mean_over_all_names"}
    assert set(ore) - set(strict) == own
    assert set(strict) <= set(ore)
