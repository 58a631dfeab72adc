"""Suggestions for words that are nearly right."""

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` was most likely meant to be: similar letters, or the only one that contains it."""
    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=0.6)
    if not found and len(word) > 2:
        around = [name for name in plain if _plain(word) in name]
        found = around if len(around) == 1 else []
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Sequence[str], *, prefix: str = "") -> str:
    """`; did you mean 'epochs'?`, or nothing."""
    found = nearest(word, known)
    return f"; did you mean '{prefix}{found}'?" if found else ""


def _plain(word: str) -> str:
    return word.lower().replace("_", "-")
