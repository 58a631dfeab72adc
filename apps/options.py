"""Command-line options whose mistakes are all told at once, with suggestions; argparse without abbreviations."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sslcore.did_you_mean import did_you_mean, nearest
from sslcore.errors import ConfigError

Check = Callable[[str], Any]
"""Turns an option's text into its value; ValueError says what it must be."""


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        match = re.match(r"argument ([^:]*): (.*)", message, re.DOTALL)
        if match and match[2].startswith("expected"):
            raise ConfigError(f"command line: {match[1].split('/')[0]}  needs a value")
        if match and match[2].startswith("ignored explicit argument"):
            raise ConfigError(f"command line: {match[1].split('/')[0]}  takes no value")
        raise ConfigError(f"command line: {message}")


class Options:
    """What one command understands.

    Args:
        prog: how the command is called, `surnia embed`.
        about: a sentence or two for its help.
        closing: text under the list of options.
    """

    def __init__(self, prog: str, about: str, closing: str = "") -> None:
        self.parser = _Parser(
            prog=prog,
            description=about,
            epilog=closing or None,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._checks: dict[str, tuple[str, Check]] = {}
        self._required: dict[str, str] = {}
        self._scattered = False
        self.flag("--debug", "show the traceback of an error")

    def positional(
        self, name: str, check: Check, help: str, *, required: bool = True, many: bool = False, dest: str = ""
    ) -> None:
        """An argument without a name, or the last ones (`many`); `name` in capitals is what the help calls it, `dest`
        what the result does (default: the same in small letters)."""
        dest = dest or name.lower()
        self.parser.add_argument(dest, metavar=name, nargs="*" if many else "?", help=help)
        self._scattered |= many
        self._checks[dest] = (name, check)
        if required:
            self._required[dest] = f"{name} is missing: {help}"

    def option(
        self,
        flag: str,
        check: Check,
        help: str,
        *,
        metavar: str,
        default: Any = None,
        required: bool = False,
        many: bool = False,
    ) -> None:
        """A named option with a value, or with one or more (`many`)."""
        shown = " ".join(map(str, default)) if many and default else default
        note = " (required)" if required else f" (default {shown})" if default is not None else ""
        self.parser.add_argument(flag, metavar=metavar, help=help + note, default=default, nargs="+" if many else None)
        dest = _dest(flag)
        self._checks[dest] = (flag, check)
        if required:
            self._required[dest] = f"{flag} is missing: {help}"

    def perhaps(self, flag: str, help: str, *, metavar: str) -> None:
        """A flag that may carry a value: None when absent, "" when alone."""
        self.parser.add_argument(flag, metavar=metavar, nargs="?", const="", default=None, help=help)

    def flag(self, flag: str, help: str) -> None:
        """A switch, off unless given."""
        self.parser.add_argument(flag, action="store_true", help=help)

    @property
    def names(self) -> list[str]:
        """Every option's name."""
        return [name for action in self.parser._actions for name in action.option_strings if name.startswith("--")]

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse and check.

        Raises:
            ConfigError: everything that is wrong.
        """
        # Several words may stand on both sides of an option.
        parse = self.parser.parse_known_intermixed_args if self._scattered else self.parser.parse_known_args
        args, rest = parse(list(arguments))
        problems = [self._unknown(word) for word in rest if word.startswith("-") and not _is_number(word)]
        if not problems:
            # Behind an unknown option nobody knows what is its value and what a word of its own.
            problems += [f"command line: unexpected '{word}'" for word in rest]
            problems += [f"command line: {said}" for dest, said in self._required.items() if not getattr(args, dest)]
        for dest, (name, check) in self._checks.items():
            given = getattr(args, dest)
            values = []
            for one in given if isinstance(given, list) else [given]:
                try:
                    values.append(check(one) if isinstance(one, str) else one)
                except ValueError as error:
                    problems.append(f"command line: {name}  {error}")
            setattr(args, dest, values if isinstance(given, list) else next(iter(values), None))
        if problems:
            raise ConfigError(*problems)
        return args

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        return f"command line: unknown option {name}{did_you_mean(name, self.names)}"


def _dest(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _is_number(word: str) -> bool:
    return re.fullmatch(r"-\.?\d.*", word) is not None


# --- checks ----------------------------------------------------------------------------------------------------------


def text(given: str) -> str:
    """Any text but none."""
    if not given:
        raise ValueError("must not be empty")
    return given


def path(given: str) -> Path:
    """A path that need not exist."""
    return Path(text(given))


def existing(given: str) -> Path:
    """A file or folder that exists."""
    place = Path(text(given))
    if not place.exists():
        raise ValueError(f"there is nothing at '{given}'{similar_path(place)}")
    return place


def similar_path(place: Path) -> str:
    """A suggestion from the nearest folder that exists."""
    if not place.parent.is_dir():
        return f"; nor is there a folder '{place.parent}'"
    found = nearest(place.name, [entry.name for entry in place.parent.iterdir()])
    return f"; did you mean '{place.parent / found}'?" if found else ""


def choice(*known: str) -> Check:
    """One of a few words."""

    def check(given: str) -> str:
        if given not in known:
            raise ValueError(f"must be one of {', '.join(known)}, not '{given}'{did_you_mean(given, known)}")
        return given

    return check


def whole(least: int) -> Check:
    """A whole number of at least `least`."""

    def check(given: str) -> int:
        try:
            number = int(given)
        except ValueError:
            number = least - 1
        if number < least:
            raise ValueError(f"must be a whole number of at least {least}, not '{given}'")
        return number

    return check


def number(*, above: float | None = None, least: float | None = None, most: float | None = None) -> Check:
    """A finite number within bounds."""
    parts = [
        "" if above is None else f" above {above:g}",
        "" if least is None else f" of at least {least:g}",
        "" if most is None else f"{' and' if above is not None or least is not None else ''} at most {most:g}",
    ]
    words = "a number" + "".join(parts)

    def check(given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            value = float("nan")
        inside = (above is None or value > above) and (least is None or value >= least)
        if (
            not inside
            or (most is not None and value > most)
            or value in {float("inf"), float("-inf")}
            or value != value
        ):
            raise ValueError(f"must be {words}, not '{given}'")
        return value

    return check


def device(given: str) -> str:
    """`auto`, or a device as torch names it."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", given):
        raise ValueError(f"must be auto, cpu, cuda, cuda:N or mps, not '{given}'")
    return given
