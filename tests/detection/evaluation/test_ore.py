"""Mode `ore`: the original's numbers, and a slow, literal reading of its conventions beside it on random inputs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.evaluation.ore import printed
from detection.tasks import TaskSet

GOLDEN = Path(__file__).parent / "golden_ore"
VARIANTS = ("expected", "detections_once_per_image", "ground_truth_boxes_as_coco_script")


def near(expected):
    """Equal to 1e-12, also inside, where null is null."""
    if isinstance(expected, dict):
        return {key: near(value) for key, value in expected.items()}
    return None if expected is None else pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", ["t1_unique", "t1_dup", "t2_unique", "t2_dup"])
def test_numbers_of_the_original(case, variant):
    golden = json.loads((GOLDEN / f"case_{case}.json").read_text())
    expected = golden["expected"] if variant == "expected" else golden["variants"].get(variant)
    if expected is None:  # listed once, detections once per image are all of them
        expected = golden["expected"]
    result = evaluate(
        GroundTruth.from_coco(GOLDEN / "annotations.json"),
        DetectionArrays.from_results(GOLDEN / f"detections_t{golden['task']}.json"),
        TaskSet("golden", tuple(map(tuple, golden["tasks"]))),
        golden["task"],
        mode="ore",
        image_list=golden["image_list"],
        **({} if variant == "expected" else {variant: True}),
    )
    assert {key: result[key] for key in expected} == near(expected)


# --- a literal reading -----------------------------------------------------------------------------------------------


def iou(one, other):
    width = max(min(one[2], other[2]) - max(one[0], other[0]) + 1.0, 0.0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]) + 1.0, 0.0)
    areas = [(box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0) for box in (one, other)]
    return width * height / (areas[0] + areas[1] - width * height)


def divide(above, below):
    return above / below if below else math.nan


def look(box, objects):
    """The object that the box overlaps most, the first of equals, and how much."""
    best, at = -math.inf, None
    for place, other in enumerate(objects):
        value = iou(box, other["box"])
        if value > best:
            best, at = value, place
    return best, at


def one_class(name, lines, objects, runs):
    """Curve of a class. `objects`: image -> list; `runs`: (image, list of detections) in the order of the lines."""
    positives = sum(not o["difficult"] for image in lines for o in objects[image] if o["name"] == name)
    rows = [(image, d) for image, found in runs for d in found if d["name"] == name]
    rows.sort(key=lambda row: -float(f"{row[1]['score']:.3f}"))  # sort() is stable
    taken, recall, precision, judged, open_set = set(), [], [], [], []
    right = wrong = wild = 0
    for image, d in rows:
        left, top, end, bottom = d["box"]
        box = [float(f"{value:.1f}") for value in (left + 1, top + 1, end, bottom)]
        mine = [o for o in objects[image] if o["name"] == name]
        best, at = look(box, mine)
        if best > 0.5:
            if not mine[at]["difficult"]:
                if (image, at) in taken:
                    wrong += 1
                else:
                    right += 1
                    taken.add((image, at))
        else:
            wrong += 1
        if name != "unknown":
            wild += look(box, [o for o in objects[image] if o["name"] == "unknown"])[0] > 0.5
        recall.append(divide(right, positives))
        precision.append(right / max(right + wrong, 2.220446049250313e-16))
        judged.append(right + wrong)
        open_set.append(wild)
    return {"recall": recall, "precision": precision, "judged": judged, "open": open_set}


def area_under(curve):
    recall, precision = [0.0, *curve["recall"], 1.0], [0.0, *curve["precision"], 0.0]
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = [i for i in range(len(recall) - 1) if recall[i + 1] != recall[i]]
    return sum((recall[i + 1] - recall[i]) * precision[i + 1] for i in steps)


def at_eleven_points(curve):
    total = 0.0
    for level in np.arange(0.0, 1.1, 0.1):
        there = [p for r, p in zip(curve["recall"], curve["precision"]) if r >= level]
        total += (max(there) if there else 0.0) / 11.0
    return total


def wilderness(curves, level):
    judged, wild = [], []
    for curve in curves:
        if curve["recall"]:
            distance = [abs(recall - level) for recall in curve["recall"]]
            at = min(range(len(distance)), key=distance.__getitem__)
            judged.append(curve["judged"][at])
            wild.append(curve["open"][at])
    return 0.0 if not judged else divide(sum(wild), sum(judged))


def average(values):
    return sum(values) / len(values) if values else math.nan


def literally(scene, task, lines, *, once=False, as_coco_script=False):
    """What mode `ore` has to give, by loops over dicts and printed text."""
    names = [name for group in scene["tasks"] for name in group]
    known = [name for group in scene["tasks"][:task] for name in group]
    previous = [name for group in scene["tasks"][: task - 1] for name in group]
    objects = {}
    for image, listed in scene["objects"].items():
        objects[image] = [
            {
                "name": o["name"] if o["name"] in known else "unknown",
                "difficult": o["difficult"],
                "box": [
                    int(o["box"][0] + 1),
                    int(o["box"][1] + 1),
                    int(o["box"][2] + as_coco_script),
                    int(o["box"][3] + as_coco_script),
                ],
            }
            for o in listed
        ]
    run = list(dict.fromkeys(lines)) if once else lines
    runs = [(image, [d for d in scene["detections"] if d["image"] == image]) for image in run]
    curves = {name: one_class(name, lines, objects, runs) for name in [*names, "unknown"]}
    aps = {name: area_under(curve) for name, curve in curves.items()}
    eleven = {name: at_eleven_points(curve) for name, curve in curves.items()}
    last = {name: (curve["recall"] or [0.0])[-1] for name, curve in curves.items()}
    unknown = curves["unknown"]
    result = {
        "map_previous": average([aps[name] for name in previous]),
        "map_current": average([aps[name] for name in known[len(previous) :]]),
        "map_both": average([aps[name] for name in known]),
        "map_both_11": average([eleven[name] for name in known]),
        "ap50_mean_over_all_names": average(list(aps.values())),
        "ap_per_class": aps,
        "recall_per_class": last,
        "precision_per_class": {name: (curve["precision"] or [0.0])[-1] for name, curve in curves.items()},
        "u_recall": last["unknown"],
        "u_ap": aps["unknown"],
        "u_precision": (unknown["precision"] or [0.0])[-1],
        "wi_at_recall": {str(r / 10): wilderness([curves[name] for name in known], r / 10) for r in range(1, 10)},
        "wi": wilderness([curves[name] for name in known], 0.8),
        "a_ose": sum((curves[name]["open"] or [0])[-1] for name in names),
        "a_ose_per_class": {name: (curves[name]["open"] or [0])[-1] for name in names},
        "num_unknown_gt": sum(
            o["name"] == "unknown" and not o["difficult"] for image in lines for o in objects[image]
        ),
    }  # fmt: skip
    for k in (2, 10):
        few = [(image, cut(found, k)) for image, found in runs]
        result[f"u_recall_{k}"] = (one_class("unknown", lines, objects, few)["recall"] or [0.0])[-1]
    return result


def cut(found, k):
    """The k best unknown detections of an image by printed score."""
    unknown = [d for d in found if d["name"] == "unknown"]
    return sorted(unknown, key=lambda d: -float(f"{d['score']:.3f}"))[:k]


def random_scene(random):
    """Few places and few scores, so that boxes coincide, overlap by exactly a half and tie; some classes lack objects,
    some detections, some both."""
    tasks = [["a", "b"], ["c"], ["d", "e"]]
    names = [name for group in tasks for name in group]
    with_objects = [name for name in names if random.random() < 0.75] + ["far"]
    with_detections = [name for name in names if random.random() < 0.75] + ["unknown"] * int(random.random() < 0.9)

    def box():
        left, top = random.integers(0, 3, 2) * 10
        return [int(v) for v in (left, top, left + random.choice([10, 20, 21]), top + random.choice([10, 20, 40]))]

    objects = {
        image: [
            {"name": str(random.choice(with_objects)), "box": box(), "difficult": bool(random.random() < 0.1)}
            for _ in range(random.integers(0, 6))
        ]
        for image in range(5)
    }
    detections = []
    for _ in range(int(random.integers(0, 90)) if with_detections else 0):
        moved = [value + float(random.choice([0, 0, 0.05, 0.25, -0.15, 3.7])) for value in box()]
        score = float(random.choice([0.1, 0.2, 0.2004, 0.2005, 0.5, random.random()]))
        name = str(random.choice(with_detections))
        detections.append({"image": int(random.integers(5)), "name": name, "box": moved, "score": score})
    return {"tasks": tasks, "objects": objects, "detections": detections}


def plain(value):
    """NaN as None, also inside."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return None if math.isnan(value) else value


@pytest.mark.parametrize("seed", range(150))
def test_as_a_literal_reading(seed, truth, monkeypatch):
    monkeypatch.setattr("detection.evaluation.ore.TOP", (2, 10))
    random = np.random.default_rng(seed)
    scene = random_scene(random)
    rows = [
        (image, o["name"], o["box"], "difficult" if o["difficult"] else "")
        for image, listed in scene["objects"].items()
        for o in listed
    ]
    names = ("a", "b", "c", "d", "e", "far")
    annotations = truth(rows, images=5, categories=names)
    ids = {"unknown": 0, **{name: i for i, name in enumerate(names, start=1)}}
    found = [
        (10 + d["image"], ids[d["name"]], d["box"], d["score"])
        for d in scene["detections"]
    ]  # fmt: skip
    arrays = DetectionArrays(
        np.array([row[0] for row in found], dtype=np.int64),
        np.array([row[1] for row in found], dtype=np.int64),
        np.array([row[2] for row in found], dtype=np.float64).reshape(-1, 4),
        np.array([row[3] for row in found]),
    )
    tasks = TaskSet("letters", tuple(map(tuple, scene["tasks"])))
    lines = random.integers(0, 5, int(random.integers(1, 12))).tolist()
    task, once, script = int(random.integers(1, 4)), bool(random.integers(2)), bool(random.integers(2))
    result = evaluate(
        annotations,
        arrays,
        tasks,
        task,
        mode="ore",
        image_list=[f"img_{line}" for line in lines],
        detections_once_per_image=once,
        ground_truth_boxes_as_coco_script=script,
    )
    expected = plain(literally(scene, task, lines, once=once, as_coco_script=script))
    assert {key: result[key] for key in expected} == near(expected)


# --- single conventions ----------------------------------------------------------------------------------------------


def at(place, width=100, height=100):
    return (200 * place, 0, 200 * place + width, height)


def test_where_ore_differs_from_strict(truth, detections, tasks):
    both = at(3, height=60)
    objects = [(0, "a", at(0)), (0, "a", at(0, height=80)), (0, "b", at(1)), (0, "a", both), (0, "far", at(3))]
    found = detections(
        [
            (0, "a", at(0), 0.9),
            (0, "a", at(0, height=95), 0.8),  # its best object is taken; the other is free
            (0, "a", both, 0.7),  # right, and on an unknown object
            (0, "b", at(1, height=50), 0.6),  # IoU of exactly .5
            (0, "d", at(3), 0.5),  # of a later task
        ]
    )
    strict = evaluate(truth(objects), found, tasks, 1)
    ore = evaluate(truth(objects), found, tasks, 1, mode="ore")
    assert strict["recall_per_class"] == {"a": 1.0, "b": 1.0, "unknown": 0.0}
    assert (ore["recall_per_class"]["a"], ore["recall_per_class"]["b"]) == (pytest.approx(2 / 3), 0.0)
    assert (strict["a_ose"], ore["a_ose"], ore["a_ose_objects"]) == (0, 2, 1)


def test_wilderness_contains_its_numerator(truth, detections, tasks):
    objects = [(0, "a", at(i)) for i in range(5)] + [(0, "far", at(6))]
    found = [(0, "a", at(place), score) for place, score in zip((0, 1, 6, 2, 8, 3, 6), np.linspace(0.9, 0.3, 7))]
    result = evaluate(truth(objects), detections(found), tasks, 1, mode="ore")
    assert result["wi"] == pytest.approx(1 / 6)  # recall .8 is reached after six, one of them on the unknown
    assert result["wi_at_recall"]["0.9"] == pytest.approx(1 / 6)  # not reached: the first rank of the highest recall


def test_eleven_points_as_voc_writes_them(truth, detections, tasks):
    objects = [(0, "a", at(i)) for i in range(10)]
    found = detections([(0, "a", at(i), 0.9) for i in range(3)])  # recall .3; VOC's fourth level is 3 * .1 > .3
    assert evaluate(truth(objects), found, tasks, 1, mode="ore")["ap_11_per_class"]["a"] == pytest.approx(3 / 11)
    assert evaluate(truth(objects), found, tasks, 1)["ap_11_per_class"]["a"] == pytest.approx(4 / 11)


def test_crowds_are_ordinary_objects(truth, detections, tasks):
    objects = truth([(0, "a", at(0), "crowd"), (0, "far", at(1), "crowd")])
    found = detections([(0, "a", at(0), 0.9), (0, "unknown", at(1), 0.9)])
    ore = evaluate(objects, found, tasks, 1, mode="ore")
    assert (ore["ap_per_class"]["a"], ore["u_recall"]) == (1.0, 1.0)
    strict = evaluate(objects, found, tasks, 1)
    assert (strict["ap_per_class"]["a"], strict["u_recall"], strict["u_precision"]) == (None, None, None)


def test_equal_scores_after_printing(truth, detections, tasks):
    # .2004 and .2001 are printed alike, so that the order given decides
    rows = [(0, "a", at(3), 0.2001), (0, "a", at(0), 0.2004)]
    one = evaluate(truth([(0, "a", at(0))]), detections(rows), tasks, 1, mode="ore")
    other = evaluate(truth([(0, "a", at(0))]), detections(rows[::-1]), tasks, 1, mode="ore")
    assert (one["ap_per_class"]["a"], other["ap_per_class"]["a"]) == (0.5, 1.0)


def test_printed_is_what_python_prints():
    random = np.random.default_rng(0)
    values = np.concatenate(
        [
            random.uniform(-1000, 1000, 2000),
            np.round(random.uniform(0, 700, 2000), 2),  # many near .x5
            random.integers(0, 4000, 2000) / 20,  # ties, some exact in binary
            random.integers(0, 4000, 2000) / 2000,
            [0.0, 0.25, 0.75, 0.05, 0.35, 2.5, 1e15 + 0.25, 1e300, 123456789.05, 0.0005, 0.0015],
        ]
    )
    for digits in (1, 3):
        assert printed(values, digits).tolist() == [float(f"{value:.{digits}f}") for value in values.tolist()]
