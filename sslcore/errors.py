"""Surnia's errors. Each message names the thing that is wrong and the remedy, in one sentence a user can act on.

Foreign exceptions are wrapped where they arise (`raise DataError(...) from error`), so that the command line can print
one sentence and leave with a fixed code, and a Python caller can catch by kind.
"""


class SurniaError(Exception):
    """Anything Surnia refuses or could not do. `exit_code` is what the command line leaves with."""

    exit_code = 1


class ConfigError(SurniaError):
    """A recipe, an option or an argument is wrong. `problems` holds every one found, in order, one sentence each."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(SurniaError):
    """Images, annotations or folders that cannot be used."""

    exit_code = 3


class CheckpointError(SurniaError):
    """A checkpoint or weight file that is damaged, foreign, or does not fit, or that could not be written."""

    exit_code = 4


class EnvWorkerError(SurniaError):
    """An environment worker died, hung, or returned what no environment may return."""

    exit_code = 5


class RunLocked(SurniaError):
    """Another living process writes this run directory."""

    exit_code = 6


class LostProcess(SurniaError):
    """Processes of one run could not exchange something, mostly because one of them has ended with an error."""
