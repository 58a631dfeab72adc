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
from sslcore.storage.messages import show_path


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
    here, shown = show_path(run), show_path(collection)
    anew = f"surnia detect unknowns {here} IMAGES --out FOLDER"
    if after is None:
        raise ConfigError(
            f"the groups in {shown} were found by {_whose(by, run)}, which knew {_few(unknowns.known)}, and {here} "
            f"knows {_few(now)}: learn them with the run that found them, or collect anew with {anew}"
        )
    classes = "the same classes" if after == task else f"the classes of task {after} and before"
    return (
        f"the groups in {shown} were found by {_whose(by, run)}, not by {here}, and it knew {classes}: what was named "
        f"is learnt all the same; what this run calls unknown itself is collected by {anew}"
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


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}" if names else "no class"
