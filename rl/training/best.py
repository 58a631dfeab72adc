"""The agent of a run's best evaluation, which a run that was killed takes back to where it goes on.

my-run/
    best.zip, best.gif       of the best evaluation so far: for `CURL.load`, and its best episode
    best/step-00010000/      the same files (hard links) as they were at that checkpoint
"""

from pathlib import Path

from rl.curl import CURL
from rl.training.clips import record_clip
from rl.training.evaluation import PlayedEpisodes
from rl.training.recipe import ControlRecipe
from sslcore.errors import CheckpointError
from sslcore.storage import files, folders
from sslcore.storage import manifest as manifests

BEST = "best.zip"
_FORMS = ("gif", "mp4")
_NAMES = (BEST, *(f"best.{form}" for form in _FORMS))
_KIND = manifests.Kind("best agent", schema=1, remedy="restore it from a copy")
_LIMIT = 1 << 36


def best_clip(run: Path) -> Path | None:
    """The clip of a run's best episode, if there is one."""
    return next((path for form in _FORMS if (path := run / f"best.{form}").is_file()), None)


def keep_best(run: Path, agent: CURL, recipe: ControlRecipe, played: PlayedEpisodes) -> None:
    """Write the agent and the clip of an evaluation that is the best so far.

    Raises:
        CheckpointError: a file cannot be written.
        EnvWorkerError: the environment failed when the episode was played again.
    """
    agent.save(run / BEST)
    form = recipe.evaluation.clip
    if form != "none":
        record_clip(recipe.env.one, played.best, run / f"best.{form}", seed=recipe.evaluation.seed)
    for other in _FORMS:
        if other != form:  # asked for before the run was resumed: it shows another episode now
            files.remove_file(run / f"best.{other}")


class BestFiles:
    """What was the best at each checkpoint of a run.

    Args:
        run: its directory.

    Attributes:
        folder: where they are, under the checkpoints' names.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self.folder = run / "best"

    def save(self, name: str) -> None:
        """Remember the best files of now.

        Raises:
            CheckpointError: it cannot be written.
        """
        folders.make_folder(self.folder)
        with folders.new_folder(self.folder / name) as temporary:
            parts = {
                path.name: _second_name(path, temporary / path.name)
                for path in (self._run / name for name in _NAMES)
                if path.is_file()
            }
            manifests.write_manifest(temporary, _KIND, parts)
            manifests.verify_folder(temporary, _KIND)

    def verify(self, name: str) -> None:
        """CheckpointError if what was remembered at a checkpoint is not whole."""
        manifests.verify_folder(self.folder / name, _KIND)

    def restore(self, name: str | None) -> None:
        """Have the best files of a checkpoint again; None: none, as before the first evaluation.

        Raises:
            CheckpointError: they are missing or damaged, or cannot be written.
        """
        kept = manifests.read_manifest(self.folder / name, _KIND) if name else {}
        for file in _NAMES:
            if name and file in kept:
                data = manifests.read_part(self.folder / name / file, kept[file], _KIND)
                files.write_bytes(self._run / file, data)
            else:
                files.remove_file(self._run / file)


def _second_name(path: Path, target: Path) -> files.Written:
    """Link a file, whose content is never changed but replaced; or copy it."""
    data = files.read_file(path, limit=_LIMIT, error=CheckpointError, remedy="check the disk")
    if files.link_new(path, target, len(data)):
        return files.sum_of(data)
    return files.write_new(target, [data])
