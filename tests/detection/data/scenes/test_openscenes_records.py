from detection.data.scenes.openscenes_records import Record, with_recurring
from detection.data.scenes.openscenes_tasks import Deal

DEAL = Deal((("a",), ("b",), ("c",)), ())  # category ids 1, 2, 3


def record(number, *category_ids):
    return Record({"id": number}, [{"category_id": k} for k in category_ids], [])


def ids(parts):
    return [[one.image["id"] for one in part] for part in parts]


def test_images_recur_where_they_show_a_class_of_the_task_and_the_right_number_of_others():
    first = [
        record(1, 1, 2, 3, 3),  # serves b (3 others) and c (2 others)
        record(2, 1, 1, 3),  # serves c only
        record(3, 1, 2),  # one other: too few
        record(4, 2, 1, 1, 1, 1, 3),  # five others: too many
    ]
    second, third = [record(5, 2, 3, 1)], [record(6, 3, 1, 1)]
    parts = with_recurring([first, second, third], DEAL, wanted=9, unlabelled=(2, 4), seed=0)
    assert ids(parts) == [[1, 2, 3, 4], [1, 5], [1, 2, 5, 6]]
    assert parts[2][0] is first[0]


def test_so_many_recur_as_are_wanted_and_the_seed_chooses_them():
    first = [record(k, 1, 1, 2) for k in range(1, 31)]
    chosen = [
        ids(with_recurring([first, [record(99, 2, 1, 1)]], Deal((("a",), ("b",)), ()), 6, (2, 4), seed))[1]
        for seed in (0, 0, 1)
    ]
    assert all(len(numbers) == 7 and numbers[-1] == 99 and numbers == sorted(set(numbers)) for numbers in chosen)
    assert chosen[0] == chosen[1] != chosen[2]
