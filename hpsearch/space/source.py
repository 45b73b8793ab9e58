"""YAML text → nodes that remember their line and column.

Only plain data is read: no tags, no anchors, one document. Values are resolved by the YAML 1.2 core schema with the one
addition that people expect: `1e-4` and `1.0e-4` are both numbers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from hpsearch.errors import SpaceError

Plain = None | bool | int | float | str

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 12

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?")
_WORDS: dict[str, Plain] = {"": None, "~": None, "null": None, "true": True, "false": False, ".nan": float("nan")}
_INFINITY = re.compile(r"([-+]?)\.inf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written; lines and columns count from 1."""

    path: str
    line: int = 1
    column: int = 1

    def error(self, message: str) -> SpaceError:
        return SpaceError(message, path=self.path, line=self.line, column=self.column)

    def shifted(self, columns: int) -> Place:
        return replace(self, column=self.column + columns)


@dataclass(frozen=True, slots=True)
class Scalar:
    value: Plain
    place: Place
    text_place: Place | None = None
    """Where the first character of the value stands, when the value is one line that is written as it reads."""


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Mapping:
    items: dict[str, Node]
    places: dict[str, Place]
    """Of the keys."""
    place: Place


Node = Scalar | Sequence | Mapping


def resolve(text: str) -> Plain:
    """What an unquoted YAML scalar means."""
    word = text if text in _WORDS else text.lower()
    if word in _WORDS and text in (word, word.capitalize(), word.upper()):
        return _WORDS[word]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinity := _INFINITY.fullmatch(text):
        return float(f"{infinity[1]}inf")
    return text


def plain(node: Node) -> object:
    """The data of a node, without places."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [plain(item) for item in node.items]
        case Mapping():
            return {key: plain(item) for key, item in node.items.items()}


def read_yaml(text: str, path: str) -> Node:
    """The one document of `text`. Raises SpaceError with the place of what is wrong."""
    start = Place(path)
    if len(text) > MAX_CHARACTERS:
        raise start.error(f"this file has {len(text)} characters; a search space has at most {MAX_CHARACTERS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = _events(text.removeprefix("\ufeff"), path)
        node: Node | None = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                if node is not None:
                    raise _place(event, path).error("a second document starts here; a search space is one: remove '---'")
                node = _compose(next(events), events, path, depth=0)
    return Scalar(None, start) if node is None else node


def _events(text: str, path: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(path, mark.line + 1, mark.column + 1) if isinstance(mark, StringMark) else Place(path)
        told = ": ".join(str(part) for part in (error.context, error.problem) if part)
        raise place.error(f"this is not YAML: {_one_line(told)}") from None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(path, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        character = error.character if isinstance(error.character, str) else chr(error.character)
        raise place.error(f"this is not YAML: character {character!r} is not allowed; remove it") from None
    except (YAMLError, ValueError, OverflowError) as error:  # the last two: impossible escapes such as "\\U99999999"
        raise Place(path).error(f"this is not YAML: {_one_line(str(error))}") from None


def _compose(event: Event, events: Iterator[Event], path: str, depth: int) -> Node:
    place = _place(event, path)
    if depth > MAX_DEPTH:
        raise place.error(f"nested deeper than {MAX_DEPTH} levels; a search space needs three")
    if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
        raise place.error("anchors (&) and aliases (*) are not used in a search space; write the value itself")
    tag = getattr(event, "tag", None)
    if tag is not None and str(tag) != "!":
        written = str(tag).replace("tag:yaml.org,2002:", "!!")
        raise place.error(f"tag '{written}' is refused: a search space is plain data; remove the tag")
    if isinstance(event, ScalarEvent):
        return _scalar(event, place)
    if isinstance(event, SequenceStartEvent):
        items: list[Node] = []
        while not isinstance(item := next(events), SequenceEndEvent):
            items.append(_compose(item, events, path, depth + 1))
        return Sequence(tuple(items), place)
    assert isinstance(event, MappingStartEvent)
    found: dict[str, Node] = {}
    places: dict[str, Place] = {}
    while not isinstance(item := next(events), MappingEndEvent):
        at = _place(item, path)
        if not isinstance(item, ScalarEvent):
            raise at.error("a key must be a word")
        _compose(item, events, path, depth + 1)
        key = str(item.value)
        value = _compose(next(events), events, path, depth + 1)
        if isinstance(value, Scalar) and value.value is None and value.place.line > at.line:
            value = Scalar(None, at)  # nothing after the colon: the parser is already on a later line
        if key in found:
            raise at.error(f"duplicate key '{key}': it is also on line {places[key].line}; keep one")
        found[key], places[key] = value, at
    return Mapping(found, places, place)


def _scalar(event: ScalarEvent, place: Place) -> Scalar:
    text = str(event.value)
    one_line = event.start_mark.line == event.end_mark.line
    if event.style is None:
        return Scalar(resolve(text), place, place if one_line else None)
    exact = one_line and event.end_mark.column - event.start_mark.column == len(text) + 2
    return Scalar(text, place, place.shifted(1) if exact else None)


def _place(event: Event, path: str) -> Place:
    return Place(path, event.start_mark.line + 1, event.start_mark.column + 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())
