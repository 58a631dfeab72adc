"""YAML as plain values that remember where they were written.

A recipe or a task file is untrusted input: the text is looked at as a stream of parser events first, and tags
(`!!python/...`), aliases, directives and excessive depth are refused there, before any value is built. Values are then
made by hand from the composed nodes, so that only null, booleans, numbers, text, lists and mappings can come out.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sslcore.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list positions that lead from the root to a value."""

MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 20
MAX_SCALAR = 10_000

_PLAIN_WORDS = {
    "mapping values are not allowed here": "a ':' stands where no key can be; check the indentation, or quote the text",
    "could not find expected ':'": "a ':' is missing after a key",
    "while scanning a simple key": "a ':' is missing after a key",
    "found character '\\t' that cannot start any token": "a tab is used for indentation; use spaces",
    "expected <block end>, but found '<block mapping start>'": "the indentation does not match the lines above",
    "expected <block end>, but found '?'": "the indentation does not match the lines above",
    "expected <block end>, but found '-'": "the indentation does not match the lines above",
    "found unexpected end of stream": "a quotation mark is not closed",
}
_PLAIN_PATTERNS = {
    r"<stream end>": "a bracket is not closed",
    r"found character '(.)' that cannot start any token": r"text that begins with \1 must be quoted",
}


@dataclass
class Source:
    """Plain values and, for every one, where it was written.

    Attributes:
        values: null, booleans, numbers, text, lists and dicts.
        value_at: path to the place of the value, as `file:line:column` or `command line: --option`.
        key_at: path to the place of the key.
        text_at: path to a scalar's text as it was written (`32` for the number 32).
    """

    values: Any = None
    value_at: dict[Path, str] = field(default_factory=dict)
    key_at: dict[Path, str] = field(default_factory=dict)
    text_at: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Path, *, key: bool = False) -> str:
        """The place of the value (or key) at `path`, or of the nearest group around it."""
        for length in range(len(path), -1, -1):
            if key and path[:length] in self.key_at:
                return self.key_at[path[:length]]
            if path[:length] in self.value_at:
                return self.value_at[path[:length]]
        return "recipe"

    def forget(self, path: Path) -> None:
        """Drop the places of a value and of everything in it."""
        for places in (self.value_at, self.key_at, self.text_at):
            for known in [known for known in places if known[: len(path)] == path]:
                del places[known]


def read_yaml(text: str, *, name: str, marks: bool = True, what: str = "recipe") -> Source:
    """Parse YAML 1.2 text.

    Args:
        text: the YAML.
        name: what places are called: a file's name, or `command line: --option`.
        marks: places carry line and column (from 1).
        what: the kind of file, for messages: "recipe", "task file".

    Raises:
        ConfigError: not YAML, or anything such a file may not hold; every such place is listed.
    """

    def at(mark: Any) -> str:
        return f"{name}:{mark.line + 1}:{mark.column + 1}" if marks else name

    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{name}  is longer than {MAX_CHARACTERS // 1024} kB, which no {what} is")
    try:
        problems = _refusals(text, at, what)
        if problems:
            raise ConfigError(*problems)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = at(mark) if mark is not None else name
        raise ConfigError(f"{place}  {_in_plain_words(str(error.problem or error.context))}") from error
    except (YAMLError, ValueError) as error:
        # The reader's own complaint (a control character) carries no mark.
        raise ConfigError(f"{name}  is not valid YAML: {_first_line(error)}") from error
    source, builder_problems = Source(), list[str]()
    source.value_at[()] = f"{name}:1:1" if marks else name
    if root is not None:
        source.values = _build(root, (), source, at, builder_problems)
    if builder_problems:
        raise ConfigError(*builder_problems)
    return source


def _in_plain_words(said: str) -> str:
    if said in _PLAIN_WORDS:
        return _PLAIN_WORDS[said]
    for pattern, words in _PLAIN_PATTERNS.items():
        match = re.search(pattern, said)
        if match:
            return match.expand(words)
    return f"is not valid YAML: {said}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _refusals(text: str, at: Any, what: str) -> list[str]:
    """What the event stream holds that such a file may not: found without building or recursing into anything."""
    problems, depth, documents = list[str](), 0, 0
    for event in YAML(typ="safe", pure=True).parse(text):
        place = at(event.start_mark)
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                return [*problems, f"{place}  a second document begins here ('---'); a {what} is one document"]
            if event.version or event.tags:
                problems.append(f"{place}  directives (%YAML, %TAG) are not allowed in a {what}")
        elif isinstance(event, AliasEvent):
            problems.append(f"{place}  aliases (*{event.anchor}) are not allowed in a {what}; write the value out")
        elif isinstance(event, ScalarEvent | CollectionStartEvent):
            if event.tag is not None:
                tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
                problems.append(f"{place}  tags ({tag}) are not allowed: a {what} holds plain values and loads no code")
            if isinstance(event, CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    return [*problems, f"{place}  is nested more than {MAX_DEPTH} levels deep"]
            elif len(event.value) > MAX_SCALAR:
                problems.append(f"{place}  a single value is longer than {MAX_SCALAR} characters")
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
    return problems


def _build(node: Node, path: Path, source: Source, at: Any, problems: list[str]) -> Any:
    source.value_at[path] = at(node.start_mark)
    if isinstance(node, MappingNode):
        return _mapping(node, path, source, at, problems)
    if isinstance(node, SequenceNode):
        return [_build(child, (*path, i), source, at, problems) for i, child in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    source.text_at[path] = node.value
    try:
        node.value.encode()
    except UnicodeEncodeError:
        problems.append(f"{at(node.start_mark)}  holds bytes or half characters that are not UTF-8 text")
        return None
    return scalar(node.value, node.tag)


def _mapping(node: MappingNode, path: Path, source: Source, at: Any, problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = at(key_node.start_mark)
        if not isinstance(key_node, ScalarNode):
            problems.append(f"{place}  a key must be a plain word, not a list or a group")
            continue
        key = key_node.value
        here = (*path, key)
        if key in values:
            problems.append(f"{place}  key '{key}' is given twice; the first stands at {source.key_at[here]}")
            continue
        source.key_at[here] = place
        values[key] = _build(value_node, here, source, at, problems)
    return values


def scalar(text: str, tag: str | None) -> Any:
    """The value of a scalar whose type YAML 1.2's resolver has found; everything unusual stays text."""
    kind = str(tag).rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _integer(text)
    if kind == "float":
        return _float(text)
    return text


def _integer(text: str) -> int | str:
    digits = text.replace("_", "")
    sign, body = (-1, digits[1:]) if digits.startswith("-") else (1, digits.removeprefix("+"))
    base = {"0x": 16, "0o": 8, "0b": 2}.get(body[:2].lower(), 10)
    try:
        return sign * int(body[2:] if base != 10 else body, base)
    except ValueError:  # more digits than Python turns into a number
        return text


def _float(text: str) -> float | str:
    plain = text.replace("_", "").lower()
    if plain.lstrip("+-") == ".inf":
        return -math.inf if plain.startswith("-") else math.inf
    if plain == ".nan":
        return math.nan
    try:
        return float(plain)
    except ValueError:
        return text
