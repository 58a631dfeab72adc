"""The directory that a training command writes, begun or taken up again."""

import sys
from pathlib import Path

from sslcore.storage import RunDirectory


def open_run(
    run_dir: Path, *, recipe: str, command: list[str], seed: int, resume: bool, quiet: bool = False
) -> RunDirectory:
    """A new run directory, or one that is gone on with; says which, unless `quiet`.

    A run that goes on takes the recipe along: settings that it may change (more steps, data that have moved) hold for
    the next time, too.

    Args:
        run_dir: where.
        recipe: as YAML, every setting written out.
        command: the command line.
        seed: of the run.
        resume: go on with what is there.

    Raises what `RunDirectory.create` and `RunDirectory.open` do.
    """
    directory = (
        RunDirectory.open(run_dir, command=command, recipe=recipe)
        if resume
        else RunDirectory.create(run_dir, recipe=recipe, command=command, seed=seed)
    )
    if not quiet:
        print(f"run directory: {run_dir}", file=sys.stderr, flush=True)
    return directory
