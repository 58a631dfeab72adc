"""Published scores of dm_control's six tasks from pixels, mean returns of 1000, to be compared with.

CURL: Laskin et al., ICML 2020, Table 1 (10 seeds); SAC+AE and pixel SAC from the same table.
DrQ: means of the per-seed results that its authors published (10 seeds). ResAct: its own table. Protocols differ in
details; action repeats are the same.
"""

from types import MappingProxyType
from typing import NamedTuple


class Published(NamedTuple):
    """Mean scores after 100,000 and 500,000 environment steps; None where none was published."""

    at_100k: float
    at_500k: float | None


TASKS = (
    "finger-spin",
    "cartpole-swingup",
    "reacher-easy",
    "cheetah-run",
    "walker-walk",
    "ball_in_cup-catch",
)

_AT_100K = {
    "CURL": (767, 582, 538, 299, 403, 769),
    "DrQ": (901, 759, 600, 361, 634, 914),
    "ResAct": (974, 819, 917, 503, 772, 948),
    "SAC+AE": (740, 311, 274, 267, 394, 391),
    "pixel SAC": (179, 419, 145, 197, 42, 312),
}
_AT_500K = {
    "CURL": (926, 841, 929, 518, 902, 959),
    "DrQ": (939, 869, 945, 680, 924, 964),
    "SAC+AE": (884, 735, 627, 550, 847, 794),
    "pixel SAC": (179, 419, 145, 197, 42, 312),
}


def published_scores(task: str) -> dict[str, Published]:
    """{method: scores} of a task; {} for others. `-` and `_` are the same."""
    for i, name in enumerate(TASKS):
        if name.replace("_", "-") == task.replace("_", "-"):
            return {
                method: Published(scores[i], _AT_500K[method][i] if method in _AT_500K else None)
                for method, scores in _AT_100K.items()
            }
    return {}


PUBLISHED = MappingProxyType({task: published_scores(task) for task in TASKS})
