"""Text or data → nodes that remember their line and column: of a search space, of a config, of a word on a command line.

Only plain data is read: no tags, no anchors, one document. Values are resolved by the YAML 1.2 core schema with the one
addition that people expect: `1e-4` and `1.0e-4` are both numbers. Data of a Python program is taken as it is: its texts are
texts, whatever they look like.
"""

from __future__ import annotations

import numbers
import os
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator, KeysView, Sized, ValuesView
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

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

from hpsearch.errors import BadInput, SpaceError
from hpsearch.space.mistakes import Mistakes

Plain = None | bool | int | float | str

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 12
MAX_BITS = 1_000
"""Of a whole number: one that a float can hold too."""
MAX_ITEMS = 100_000
"""Of one list of a Python program: a range() can be endless."""

SPACE, CONFIG = "search space", "configuration"
"""What a text is, for the messages."""

_INTEGER = re.compile(r"[-+]?[0-9]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?")
_WORDS: dict[str, Plain] = {"": None, "~": None, "null": None, "true": True, "false": False, ".nan": float("nan")}
_INFINITY = re.compile(r"([-+]?)\.inf", re.IGNORECASE)
_NOTHING = ("~", "null", "Null", "NULL", "''", '""')
"""Words that say that there is no value, or an empty one."""
_OPENING = ("[", "{", "'", '"')
"""Characters that open what has an end of its own."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOML_KEY = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_TOML_DEEP = re.compile(
    rf"""\"{{3}}.*?\"{{3}}|'{{3}}.*?'{{3}}|#[^\n]*|(?P<deep>{_TOML_KEY}(?:[ \t]*\.[ \t]*{_TOML_KEY}){{{MAX_DEPTH},}})"""
    r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""",
    re.DOTALL,
)
"""Keys of many parts (`a.a.a…`), for which Python's reader needs memory by the square of their number."""


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


def read_text(path: Path, what: str = SPACE) -> str:
    """The text of a file, read once, so that it may be a pipe; without a byte order mark.

    Raises SpaceError for what is no UTF-8 text or too long, BadInput for what cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_CHARACTERS + 1)  # No character has more than four bytes.
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        told = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BadInput(f"{path}: cannot be read ({told}); give the path of a {what}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        place = Place(str(path), before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        if len(raw) <= 4 * MAX_CHARACTERS:
            raise place.error(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
        text = raw.decode("utf-8", "replace")
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_CHARACTERS:
        many = f"{len(text)}" if len(raw) <= 4 * MAX_CHARACTERS else f"more than {MAX_CHARACTERS}"
        raise Place(str(path)).error(f"this file has {many} characters; a {what} has at most {MAX_CHARACTERS}")
    return text


def read_yaml(text: str, path: str, what: str = SPACE, mistakes: Mistakes | None = None) -> Node:
    """The one document of `text`. mistakes: gets what need not end the reading, such as a key that is there twice.

    Raises SpaceError with the place of what is wrong.
    """
    start = Place(path)
    if len(text) > MAX_CHARACTERS:
        raise start.error(f"this file has {len(text)} characters; a {what} has at most {MAX_CHARACTERS}")
    reader = _Reader(path, what)
    node: Node | None = None
    ended = False
    with warnings.catch_warnings(), reader.mistakes.noting():
        warnings.simplefilter("ignore")
        events = _events(text.removeprefix("\ufeff"), path)
        for event in events:
            if isinstance(event, DocumentStartEvent):
                if node is not None:
                    raise _place(event, path).error(f"a second document starts here; a {what} is one: remove '---'")
                node = reader.compose(next(events), events, depth=0)
        ended = True
    if mistakes is None or not ended:
        reader.mistakes.check()
    else:
        mistakes.extend(reader.mistakes)
    return Scalar(None, start) if node is None else node


def read_toml(text: str, path: str, what: str = CONFIG) -> Node:
    """A TOML document. Raises SpaceError; what is wrong with a value has no line, as Python's reader keeps none."""
    text = text.removeprefix("\ufeff")
    for found in _TOML_DEEP.finditer(text):
        if found["deep"]:
            line = text.count("\n", 0, found.start()) + 1
            raise Place(path, line).error(f"nested deeper than {MAX_DEPTH} levels; a {what} needs three")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        line, column = (int(at[1]), int(at[2])) if at else (text.count("\n") + 1, 1)
        message = str(error).partition(" (at ")[0]
        raise Place(path, line, column).error(f"not TOML: {_one_line(message)}") from None
    except RecursionError:
        raise Place(path).error(f"nested deeper than {MAX_DEPTH} levels; a {what} needs three") from None
    except (ValueError, OverflowError) as error:  # A number of thousands of digits, a date that no calendar has.
        raise Place(path).error(f"not TOML: {_one_line(str(error))}") from None
    return node_of(content, Place(path))


def read_word(word: str, path: str) -> Node:
    """A value on a command line, as it would be read after its name and a colon in a file. What no file could have there,
    such as `a: b` or `@x`, is the text that it is.

    Raises SpaceError for a list, a mapping or a quoted text that does not end, and for what is no text.
    """
    place = Place(path)
    _require_text(word, place)
    text = word.strip()
    if text[:1] in ("|", ">") or ("\n" in text and text[:1] not in _OPENING):
        return Scalar(word, place)  # A file would take off its line feeds, or begin a block.
    try:
        node = read_yaml(text, path)
    except SpaceError as error:
        if text[:1] in _OPENING:
            raise place.error(error.message) from None
        return Scalar(word, place)
    if isinstance(node, Mapping) and not text.startswith("{"):
        return Scalar(word, place)
    if isinstance(node, Sequence) and not text.startswith("["):
        return Scalar(word, place)
    if isinstance(node, Scalar) and node.value is None and text not in _NOTHING:
        return Scalar(word, place)  # A comment, a mark of a document.
    return node


def node_of(value: Any, place: Place, label: str = "", depth: int = 0) -> Node:
    """Data of a Python program: mappings, lists, ranges, arrays and their like, numbers, texts, true, false and None.

    Numbers of numpy and of other packages are taken as what they are, members of enumerations of texts or whole numbers as
    their text or number, paths as their text. label: which value it is, for the messages. Raises SpaceError for anything else.
    """
    if depth > MAX_DEPTH:
        raise place.error(f"{label + ': ' if label else ''}nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, AnyMapping):
        items: dict[str, Node] = {}
        for written, item in value.items():
            key = _key(written, place, label)
            if key in items:
                raise place.error(f"{label + ': ' if label else ''}duplicate key '{key}'; keep one")
            items[key] = node_of(item, place, f"{label}.{key}" if label else key, depth + 1)
        return Mapping(items, dict.fromkeys(items, place), place)
    if isinstance(value, AnySequence | KeysView | ValuesView) and not isinstance(value, str | bytes | bytearray | memoryview):
        return _list(value, place, label, depth)
    single = _plain(value, place, label)
    if isinstance(single, list):  # An array.
        return _list(single, place, label, depth)
    return Scalar(single, place)


def _list(values: Iterable[Any], place: Place, label: str, depth: int) -> Sequence:
    if isinstance(values, range):
        many = max(0, -((values.start - values.stop) // values.step))  # len() of a range ends at 2^63.
    else:
        assert isinstance(values, Sized)
        many = len(values)
    if many > MAX_ITEMS:
        raise place.error(f"{label}: {many} values are too many to list (at most {MAX_ITEMS}); give {{low, high, step}}")
    return Sequence(tuple(node_of(item, place, label, depth + 1) for item in values), place)


def _key(written: Any, place: Place, label: str) -> str:
    key = _plain(written, place, label)
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise place.error(f"{label + ': ' if label else ''}a key must be a word, not {written!r:.60}")
    return str(key)


def _plain(value: Any, place: Place, label: str) -> Plain | list[Any]:
    """A value as one of Python's own kinds; an array as a list."""
    where = f"{label}: " if label else ""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, os.PathLike) and isinstance(path := os.fspath(value), str):
        value = path
    if isinstance(value, str):
        text = str.__str__(value)  # Of a member of an enumeration too: what it is, not what it is called.
        _require_text(text, place, where)
        return text
    try:
        if isinstance(value, numbers.Integral):
            whole = int(value)
            if whole.bit_length() > MAX_BITS:
                raise OverflowError(f"a whole number of {whole.bit_length()} bits is too large")
            return whole
        if isinstance(value, numbers.Real | Decimal):
            return float(value)
        if hasattr(value, "dtype") and hasattr(value, "tolist"):
            found = value.tolist()
            if isinstance(found, list):
                return found
            if isinstance(found, bool | int | float | str):
                return _plain(found, place, label)
    except (ValueError, OverflowError, TypeError, RuntimeError) as error:
        raise place.error(f"{where}{type(value).__name__} cannot be read: {_one_line(str(error))}") from None
    if isinstance(value, set | frozenset):
        raise place.error(f"{where}a set has no order; give a list")
    what = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    hint = "; give its value" if isinstance(value, Enum) else ""
    raise place.error(f"{where}a {what} is neither a number nor a text, true, false, None or a list of those{hint}")


def _require_text(text: str, place: Place, where: str = "") -> None:
    """Refuse what no file, program or database takes as a text."""
    if "\0" in text:
        raise place.error(f"{where}a text holds a NUL character (\\0), which no program or database takes; remove it")
    if found := _SURROGATE.search(text):
        raise place.error(f"{where}a text holds {found[0]!r}, which is no character: it is not UTF-8; remove it")


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


class _Reader:
    """Events of one document → nodes. What need not end the reading is kept in `mistakes`."""

    def __init__(self, path: str, what: str) -> None:
        self.path, self.what, self.mistakes = path, what, Mistakes()

    def compose(self, event: Event, events: Iterator[Event], depth: int) -> Node:
        place = _place(event, self.path)
        if depth > MAX_DEPTH:
            raise place.error(f"nested deeper than {MAX_DEPTH} levels; a {self.what} needs three")
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            raise place.error(f"anchors (&) and aliases (*) are not used in a {self.what}; write the value itself")
        tag = getattr(event, "tag", None)
        if tag is not None and str(tag) != "!":
            written = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise place.error(f"tag '{written}' is refused: a {self.what} is plain data; remove the tag")
        if isinstance(event, ScalarEvent):
            return self.scalar(event, place)
        if isinstance(event, SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(events), SequenceEndEvent):
                items.append(self.compose(item, events, depth + 1))
            return Sequence(tuple(items), place)
        assert isinstance(event, MappingStartEvent)
        return self.mapping(events, place, depth)

    def mapping(self, events: Iterator[Event], place: Place, depth: int) -> Mapping:
        found: dict[str, Node] = {}
        places: dict[str, Place] = {}
        while not isinstance(item := next(events), MappingEndEvent):
            at = _place(item, self.path)
            if not isinstance(item, ScalarEvent):
                raise at.error("a key must be a word")
            self.compose(item, events, depth + 1)
            key = str(item.value)
            value = self.compose(next(events), events, depth + 1)
            if isinstance(value, Scalar) and value.value is None and value.place.line > at.line:
                value = Scalar(None, at)  # nothing after the colon: the parser is already on a later line
            if key in found:
                self.mistakes.append(at.error(f"duplicate key '{key}': it is also on line {places[key].line}; keep one"))
                continue
            found[key], places[key] = value, at
        return Mapping(found, places, place)

    def scalar(self, event: ScalarEvent, place: Place) -> Scalar:
        text = str(event.value)
        if _SURROGATE.search(text):  # JSON writes a character beyond 16 bits as two escapes.
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        with self.mistakes.noting():
            _require_text(text, place)
        one_line = event.start_mark.line == event.end_mark.line
        if event.style is None:
            return Scalar(resolve(text), place, place if one_line else None)
        exact = one_line and event.end_mark.column - event.start_mark.column == len(text) + 2
        return Scalar(text, place, place.shifted(1) if exact else None)


def _place(event: Event, path: str) -> Place:
    return Place(path, event.start_mark.line + 1, event.start_mark.column + 1)


def _one_line(text: str) -> str:
    return " ".join(text.split())
