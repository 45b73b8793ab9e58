"""Text from elsewhere, made safe to show and to store: a trial's message, a name, a path, a sample.

Whatever a person, a program or a model wrote can hold control characters that steer a terminal, unpaired surrogates that no
UTF-8 file or database takes (Python reads a path that is not UTF-8 as such), NUL characters, and megabytes.
"""

from __future__ import annotations

import json
import os
import unicodedata
from urllib.parse import quote_from_bytes, unquote_to_bytes

LONGEST_MESSAGE = 4_000
"""Characters of a reason, a warning or an error that are kept."""

TOLD = 300
"""Columns of a message in a table or a line about many trials."""

CUT = " […] "

_URI = "file:"


BLANKS = "\n\t\u00a0\u3000"
"""Characters that are not printable by Unicode, and do no harm in a text of several lines."""


def printable(text: str, *, keep: str = "") -> str:
    """`text` with each character that is not printable written as Python writes it, so that it cannot steer a terminal.

    keep: characters that stay as they are, such as BLANKS where a text has several lines.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in text)


def storable(text: str) -> str:
    """`text` as UTF-8 files and every database take it: without NUL characters and unpaired surrogates.

    A byte of a path that is not UTF-8 is written as `\\xe9`.
    """
    if "\0" not in text and text.isascii():
        return text
    return "".join(_escaped(each) if each == "\0" or "\ud800" <= each <= "\udfff" else each for each in text)


def path_word(path: str) -> str:
    """A path as files, databases and every export can hold it: itself, or, where its name is no UTF-8, a `file:` URI.

    A relative path stays one (`file:caf%E9.txt`). A word that is a URI already stays as it is. Raises UnicodeEncodeError for
    what can be no path: a surrogate that stands for no byte.
    """
    if path.startswith(_URI):
        return path
    try:
        path.encode()
    except UnicodeEncodeError:
        return _URI + quote_from_bytes(os.fsencode(path), safe="/~")
    return path


def path_of(word: str) -> str:
    """The path of a `path_word`, or of a `file:` URI that a person wrote. A file named so is reached as `./file:x`."""
    if not word.startswith(_URI):
        return word
    rest = word.removeprefix(_URI)
    return os.fsdecode(unquote_to_bytes(rest.removeprefix("//localhost") if rest.startswith("//localhost/") else rest))


def message(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """A message of a trial or a program: storable, and at most `longest` characters; its middle is left out."""
    return _cut(storable(_cut(text, longest)), longest)  # What is escaped grows.


def measured(value: float) -> str:
    """A measurement for the eye: four decimals, or four digits with an exponent where it is too small or too large for them."""
    if value == 0 or 1e-3 <= abs(value) < 1e12:
        return f"{value:.4f}"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _cut(text: str, longest: int) -> str:
    half = (longest - len(CUT)) // 2
    return text if len(text) <= longest else text[:half] + CUT + text[-half:]


def shortened(text: str, longest: int) -> str:
    """`text` on one line of at most `longest` columns of a terminal, for a cell of a table: printable, its end left out."""
    text = printable(text[: longest + 1])
    if columns(text) <= longest:
        return text
    while columns(text) > longest - 1:
        text = text[:-1]
    return f"{text}…"


def columns(text: str) -> int:
    """Columns of a terminal that a printable text takes: two for each wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that is not UTF-8, as `os.fsdecode` reads it.
        return f"\\x{code - 0xDC00:02x}"
    return repr(character)[1:-1]


def escaped(text: str) -> str:
    """JSON, or strings of it, with what no file or terminal takes (surrogates, controls, marks of direction) as escapes that
    TOML has too, which knows no pairs of surrogates: what is beyond 16 bits stays."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        each if each.isprintable() or each in BLANKS or each > "\uffff" else json.dumps(each)[1:-1] for each in text
    ).replace("\x7f", "\\u007f")
