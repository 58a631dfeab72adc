"""Whether groups of unknown objects were found by the run that is to learn them.

What a person named stays true of the pictures, whoever found the objects. But what a detector of other classes calls
unknown says nothing of what this one does not know: some of it may be known here, and what is unknown here was never
looked for.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from detection.discovery.records import FoundBy, UnknownObjects
from detection.tasks import TaskSet
from sslcore.errors import CheckpointError, ConfigError
from sslcore.storage.checkpoint import weights_hash
from sslcore.storage.messages import show_names, show_path


def check_origin(unknowns: UnknownObjects, collection: Path, run: Path, tasks: TaskSet, task: int) -> str | None:
    """A sentence for the person if another detector than the run's found the objects.

    The run's own are those of all its tasks and checkpoints, by their weights: a run may have been copied, resumed
    or continued by `surnia detect learn` since. Without a note of the weights, as older collections are, the classes
    that the detector knew must be those of one of the run's tasks.

    Args:
        unknowns: the objects.
        collection: their folder, for messages.
        run: the run that is to learn them.
        tasks, task: its label space and the last task that it has learnt.

    Raises:
        ConfigError: the detector that found them knew other classes than the run after any of its tasks.
    """
    by = unknowns.found_by
    if by is not None and by.weights in _own_weights(run):
        return None
    known, now = set(unknowns.known), tasks.known(task)
    after = next((k for k in range(1, task + 1) if known == set(tasks.known(k))), None)
    if by is None and (after is not None or not known):
        return None
    here = show_path(run)
    begin = f"the groups in {show_path(collection)} were found by {_whose(by, run)}, which"
    anew = f"surnia detect unknowns {here} IMAGES --out FOLDER"
    if after is None:
        raise ConfigError(
            f"{begin} {_difference(unknowns.known, now, here)}: learn them with the run that found them, or collect "
            f"anew with {anew}"
        )
    earlier = "" if after == task else " after task 1" if after == 1 else f" after tasks 1 to {after}"
    return (
        f"{begin} knew the same classes as {here}{earlier}: what was named is learnt all the same; to name what "
        f"{here} itself calls unknown, collect anew with {anew}"
    )


def _own_weights(run: Path) -> Iterator[str]:
    for place in (*run.glob("tasks/*/model"), *run.glob("tasks/*/*/checkpoints/step-*")):
        try:
            yield weights_hash(place)
        except CheckpointError:  # half written, or damaged: another matter
            continue


def _whose(by: FoundBy | None, run: Path) -> str:
    if by is None:
        return "another detector"
    anew = " as it was before it was trained anew" if Path(by.path).resolve() == run.resolve() else ""
    return f"{show_path(by.path)}{anew}"


def _difference(knew: Sequence[str], now: Sequence[str], here: str) -> str:
    """What the other detector knew and this run does not, and the other way round."""
    more, less = [name for name in knew if name not in now], [name for name in now if name not in knew]
    parts = [f"knew {show_names(more)}, which {here} does not"] if more else []
    return " and ".join([*parts, f"did not know {show_names(less)}, which {here} does"] if less else parts)
