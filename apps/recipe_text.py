"""Recipes as YAML text, such that YAML 1.1 and 1.2 readers agree about it."""

import math
import textwrap
from typing import Any

from pydantic import BaseModel


def dump(recipe: BaseModel, *, comments: bool = True) -> str:
    """A recipe as YAML with every setting written out; reading it gives the same recipe again.

    Args:
        recipe: any pydantic settings.
        comments: put each setting's meaning above it.
    """
    return "\n".join(_lines(recipe, "", comments)) + "\n"


def _lines(group: BaseModel, indent: str, comments: bool) -> list[str]:
    out = list[str]()
    for key, info in type(group).model_fields.items():
        value = getattr(group, key)
        if comments and info.description:
            about = " ".join(info.description.split())
            out += textwrap.wrap(about, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        out += _entry(key, value, indent, comments)
    return out


def _entry(key: str, value: Any, indent: str, comments: bool) -> list[str]:
    if isinstance(value, BaseModel):
        inner = _lines(value, indent + "  ", comments)
        return [f"{indent}{key}:", *inner] if inner else [f"{indent}{key}: {{}}"]
    if isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
        out = [f"{indent}{key}:"]
        for position, item in enumerate(value):
            # The meanings stand once, at the first entry.
            lines = _lines(item, indent + "    ", comments and position == 0)
            first = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
            lines[first] = f"{indent}  - {lines[first].lstrip()}"
            out += lines
        return out
    return [f"{indent}{key}: {flow(value)}"]


_WORDS = {"", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", "none"}


def flow(value: Any) -> str:
    """A plain value in YAML's flow form, such that YAML 1.1 readers agree about it too."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(str(key))}: {flow(item)}" for key, item in value.items()) + "}"
    text = str(value)
    plain = text.lower() not in _WORDS and text.isascii() and text[0].isalpha()
    if plain and all(character.isalnum() or character in "_-./" for character in text):
        return text
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(character: str) -> str:
    """A character between YAML's double quotes. (JSON's escapes will not do: YAML knows no surrogate pairs.)"""
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _float_text(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    text = repr(value)
    mantissa, mark, exponent = text.partition("e")
    if mark and "." not in mantissa:
        mantissa += ".0"  # YAML 1.1 takes 1e-05 for text
    return mantissa + mark + exponent
