"""What a detector keeps of earlier tasks, from its results after each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detection.evaluation.average_precision import mean
from sslcore.errors import ConfigError

if TYPE_CHECKING:
    from detection.tasks import TaskSet


def forgetting(results: Sequence[Mapping[str, Any]], tasks: "TaskSet") -> dict[str, Any]:
    """Forgetting per task (Chaudhry et al., ECCV 2018): the best mAP its classes ever had, less what they have now.

    Args:
        results: of `evaluate` after task 1, 2, ...; none left out.

    Returns:
        map_by_task: [t][j] mAP after task t + 1 on the classes of task j + 1, j <= t.
        forgetting: [t][j] the highest of [j .. t - 1][j] less [t][j], for j < t; negative where later tasks helped.
        forgetting_mean: the mean over j after the last task; None after the first.

    Raises:
        ConfigError: the results are not those of task 1, 2, ... in one mode.
    """
    if [result["task"] for result in results] != list(range(1, len(results) + 1)) or len(results) > tasks.count:
        given = ", ".join(str(result["task"]) for result in results)
        raise ConfigError(f"forgetting needs results after tasks 1, 2, ... in order, not after {given}.")
    for name in ("mode", "score_floor", "per_image"):
        if len({result[name] for result in results}) > 1:
            raise ConfigError(f"forgetting needs results with the same {name}; evaluate all tasks alike.")
    by_task = [
        [mean(result["ap_per_class"][name] for name in tasks.current(j)) for j in range(1, t + 1)]
        for t, result in enumerate(results, start=1)
    ]
    lost = [
        [_lost([by_task[earlier][j] for earlier in range(j, t)], by_task[t][j]) for j in range(t)]
        for t in range(len(results))
    ]
    return {"map_by_task": by_task, "forgetting": lost, "forgetting_mean": mean(lost[-1]) if lost else None}


def _lost(before: list[float | None], now: float | None) -> float | None:
    known = [value for value in before if value is not None]
    return None if now is None or not known else max(known) - now
