"""Where a detection run keeps what it has done, and what of it is finished: the one thing a resumed run goes by.

    my-run/
        tasks/1/train/checkpoints/step-00001000     a finished stage keeps its last
        tasks/1/backbone.json                       whose weights the backbone began with, matched name by name
        tasks/1/model                               the task's detector with its decision fitted: a checkpoint
        tasks/1/energies.json                       what was fitted on what
        tasks/1/detections.json                     on the test images, as COCO results
        tasks/1/results.json                        measured on them; written last, so that with it a task is done
        tasks/2/exemplars.json                      kept of task 1
        tasks/2/previous_train.json                 what the model of task 1 surely knows in images of task 2
        tasks/2/finetune/checkpoints/...
        results.json                                all tasks together

Without a folder (a run that writes nothing) every question is answered with no.
"""

import json
from pathlib import Path
from typing import Any, Literal

from sslcore.errors import CheckpointError
from sslcore.storage import files, folders, list_checkpoints, sweep_temporaries, write_json, write_text
from sslcore.storage.checkpoint import checkpoint_step, verify_checkpoint
from sslcore.storage.messages import show_path

Stage = Literal["train", "finetune", "fit", "evaluate"]
STAGES: tuple[Stage, ...] = ("train", "finetune", "fit", "evaluate")
_LIMIT = 1 << 32


class Layout:
    """The files of a detection run.

    Args:
        folder: of the run; None: there is none.
        writes: whether this process writes; of several only the first does.
    """

    def __init__(self, folder: Path | None, *, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes and folder is not None

    def task(self, task: int, *parts: str) -> Path:
        """A file of a task."""
        assert self.folder is not None
        return self.folder.joinpath("tasks", str(task), *parts)

    def checkpoints(self, task: int, stage: Stage) -> Path | None:
        """The folder of a stage's checkpoints; None without a run."""
        return None if self.folder is None else self.task(task, stage, "checkpoints")

    def model(self, task: int) -> Path | None:
        """The checkpoint of a task's detector if it is there and sound."""
        return _sound(self.task(task, "model")) if self.folder is not None else None

    def last_of(self, task: int, stage: Stage, steps: int) -> Path | None:
        """The checkpoint of a finished stage if it is there and sound."""
        folder = self.checkpoints(task, stage)
        found = [path for path in list_checkpoints(folder) if checkpoint_step(path) == steps] if folder else []
        return _sound(found[0]) if found else None

    def steps_done(self, task: int, stage: Stage) -> int:
        """Steps of a stage that its newest checkpoint has behind it, whether that is sound or not."""
        folder = self.checkpoints(task, stage)
        return max((checkpoint_step(path) or 0 for path in list_checkpoints(folder)), default=0) if folder else 0

    def read(self, task: int, name: str) -> Any:
        """A JSON file of a task; None if it is not there.

        Raises:
            CheckpointError: it is there and damaged.
        """
        return None if self.folder is None else read_json(self.task(task, name))

    def make(self, task: int) -> None:
        """The folder of a task; only the process that writes makes it."""
        if self.writes:
            folders.make_folder(self.task(task))

    def write(self, task: int, name: str, value: Any, *, compact: bool = False) -> None:
        """A JSON file of a task, whole or not at all; only the process that writes does."""
        if not self.writes:
            return
        self.make(task)
        if compact:
            write_text(self.task(task, name), json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n")
        else:
            write_json(self.task(task, name), value)

    def sweep(self) -> list[str]:
        """Clears what a killed writer left half-written; sentences about it. While holding the run's lock."""
        if self.folder is None or not self.writes:
            return []
        written = [path for path in sorted(self.folder.glob("tasks/*")) if path.is_dir()]
        written += sorted(self.folder.glob("tasks/*/*/checkpoints"))
        return [sentence for folder in written for sentence in sweep_temporaries(folder)]


def read_json(path: Path) -> Any:
    """A JSON file; None if it is not there.

    Raises:
        CheckpointError: it is there and damaged.
    """
    if not path.exists():
        return None
    remedy = "delete it to have it made anew, or restore it from a copy"
    data = files.read_file(path, limit=_LIMIT, error=CheckpointError, remedy=remedy)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{show_path(path)} is damaged ({error}); {remedy}") from error


def _sound(checkpoint: Path) -> Path | None:
    try:
        verify_checkpoint(checkpoint)
    except CheckpointError:
        return None
    return checkpoint
