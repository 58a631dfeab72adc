"""Names of run directories: numbered so that nothing is ever overwritten."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from sslcore.errors import ConfigError

RUNS = Path("runs")


def clean(recipe: str) -> str:
    """A recipe's name as it can stand in a directory's name."""
    return re.sub(r"[^\w.-]+", "_", recipe).strip("._") or "run"


def stem(recipe: str, method: str) -> str:
    """`folder_cpu` with byol becomes `folder_cpu-byol`; a recipe that is named after its method keeps its name."""
    name = clean(recipe)
    return name if method in re.split(r"[_.-]", name) else f"{name}-{method}"


def numbered(name: str, parent: Path = RUNS) -> dict[int, Path]:
    """The existing directories `name-1`, `name-2`, ..., by number."""
    if not parent.is_dir():
        return {}
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    found = {int(match[1]): entry for entry in parent.iterdir() if (match := pattern.fullmatch(entry.name))}
    return dict(sorted(found.items()))


def next_free(name: str, parent: Path = RUNS) -> Path:
    """A directory of that name, one number above the highest there is."""
    return parent / f"{name}-{max(numbered(name, parent), default=0) + 1}"


def newest(name: str, parent: Path = RUNS) -> Path | None:
    """The directory of that name with the highest number."""
    return next(reversed(numbered(name, parent).values()), None)


def unfinished(is_one: Callable[[Path], bool], parent: Path = RUNS) -> list[Path]:
    """Runs that were begun and did not come to their end, the newest first; `is_one` says which directories count."""
    if not parent.is_dir():
        return []
    runs = [run for run in parent.iterdir() if (run / "recipe.yaml").is_file() and is_one(run) and _is_open(run)]
    return sorted(runs, key=lambda run: (run / "recipe.yaml").stat().st_mtime, reverse=True)


def _is_open(run: Path) -> bool:
    try:
        facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
        return bool(facts["status"] != "finished" and facts["command"][1] != "demo")  # a demo is continued as one
    except (OSError, ValueError, LookupError, TypeError):
        return True  # nobody knows; whoever resumes it is told what is wrong with it


def of_next_task(run_dir: Path, task: int) -> Path:
    """`runs/mine-1-task3` beside `runs/mine-1` or `runs/mine-1-task2`: what was learnt further."""
    return run_dir.parent / f"{re.sub(r'-task[0-9]+$', '', run_dir.name)}-task{task}"


def refuse_existing(run_dir: Path, command: str = "") -> None:
    """`command` is the one that continues it, if that is another.

    Raises:
    ConfigError: something is there already; the message names both ways out.
    """
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        return
    if run_dir.exists():
        raise ConfigError(
            f"command line: --run  {run_dir} exists already and is never overwritten: choose another name, or continue "
            f"that run with {command}{' ' * bool(command)}--resume {run_dir}"
        )
