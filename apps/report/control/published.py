"""Published scores of dm_control tasks from pixels, by environment steps, to draw beside a run's own."""

from dataclasses import dataclass

K = 1000
BUDGETS = (100 * K, 500 * K)
"""The environment steps at which the field compares."""


@dataclass(frozen=True)
class Published:
    """One method's scores on the six tasks, means over seeds.

    Attributes:
        method: its name.
        source: where the numbers are from.
        scores: by task, by environment steps.
    """

    method: str
    source: str
    scores: dict[str, dict[int, float]]


TASKS = ("finger-spin", "cartpole-swingup", "reacher-easy", "cheetah-run", "walker-walk", "ball_in_cup-catch")


Column = tuple[float, float, float, float, float, float]
"""Scores in the order of `TASKS`."""


def _of(at_100k: Column, at_500k: Column | None) -> dict[str, dict[int, float]]:
    """None where nothing was published: no number takes its place."""
    columns = {budget: column for budget, column in zip(BUDGETS, (at_100k, at_500k), strict=True) if column is not None}
    return {task: {budget: column[i] for budget, column in columns.items()} for i, task in enumerate(TASKS)}


PUBLISHED = (
    Published(
        "CURL",
        "Laskin, Srinivas, Abbeel, ICML 2020, Table 1, 10 seeds",
        _of((767, 582, 538, 299, 403, 769), (926, 841, 929, 518, 902, 959)),
    ),
    Published(
        "DrQ",
        "Kostrikov, Yarats, Fergus, ICLR 2021, batch 512, means of the curves its repository holds, 10 seeds",
        _of((901, 759, 600, 361, 634, 914), (939, 869, 945, 680, 924, 964)),
    ),
    Published(
        "ResAct",
        "as tabulated by its successors in 2026",
        _of((974, 819, 917, 503, 772, 948), None),
    ),
)


def of_task(name: str) -> list[tuple[str, dict[int, float]]]:
    """Method and scores by environment steps, of each method that has published some; [] for other tasks.

    Args:
        name: the task, "cartpole-swingup"; - and _ are the same.
    """
    wanted = name.replace("_", "-")
    task = next((task for task in TASKS if task.replace("_", "-") == wanted), None)
    return [] if task is None else [(one.method, one.scores[task]) for one in PUBLISHED]
