"""What is wrong with a data set, collected while it is read, so that everything can be said at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sslcore.errors import DataError
from sslcore.storage.messages import show_path

SHOWN = 20
"""Offenders named for each kind of problem in each file; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        fatal: the data cannot be used as it is; otherwise it is ignored, as the sentence says.
        file: where.
        id: of the image or annotation, if it is about one.
        sentence: what is wrong and what happens to it.
    """

    fatal: bool
    file: str
    id: int | str | None
    sentence: str

    def __str__(self) -> str:
        return f"{show_path(self.file)}  {printable(self.sentence)}"


class Problems(list[Problem]):
    """Problems in the order in which they were found."""

    def add(self, file: str, sentence: str, *, fatal: bool, id: int | str | None = None) -> None:
        """One problem."""
        self.append(Problem(fatal, file, id, sentence))

    def add_each(
        self, file: str, offenders: Sequence[Any], describe: Callable[[Any], tuple[Any, str]], *, fatal: bool, kind: str
    ) -> None:
        """One problem for each of the first `SHOWN` offenders, and one that counts the others.

        Args:
            offenders: whatever `describe` takes.
            describe: gives an offender's id and the sentence about it.
            kind: what the others have in common: "annotations of unknown categories".
        """
        for offender in offenders[:SHOWN]:
            name, sentence = describe(offender)
            self.add(file, sentence, fatal=fatal, id=name if type(name) in (int, str) else None)
        if len(offenders) > SHOWN:
            self.add(file, f"and {len(offenders) - SHOWN:,} more {kind}", fatal=fatal)

    @property
    def fatal(self) -> list[Problem]:
        """Those that forbid using the data."""
        return [problem for problem in self if problem.fatal]

    def refuse(self) -> None:
        """Raise a DataError that lists every fatal problem, if there is one."""
        if self.fatal:
            raise DataError("\n".join(map(str, self.fatal)))


def shown(value: Any) -> str:
    """A value from an untrusted file, short and printable."""
    text = printable(repr(value)) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """Text without control characters or half characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
