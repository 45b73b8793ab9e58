"""Text from elsewhere, made safe to show and to store."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from hpsearch.text import LONGEST_MESSAGE, measured, message, printable, storable

ANY_TEXT = st.text(st.characters(codec=None, categories=None))


def test_what_steers_a_terminal_is_shown_and_not_done() -> None:
    assert printable("\x1b]0;title\x07red\x1b[31m") == "\\x1b]0;title\\x07red\\x1b[31m"
    assert printable("two\nlines", keep="\n") == "two\nlines"
    assert printable("two\nlines") == "two\\nlines"


def test_a_measurement_of_any_size_keeps_its_digits_and_stays_short() -> None:
    told = {0.0: "0.0000", 1.23456: "1.2346", -7.5: "-7.5000", 0.0012: "0.0012", 123456.0: "123456.0000"}
    told |= {3.14159e-5: "3.142e-5", -2e-9: "-2e-9", 0.0004567: "0.0004567", -1.7e308: "-1.7e308", float("inf"): "inf"}
    assert {value: measured(value) for value in told} == told


def test_a_byte_that_is_not_utf8_is_written_as_that_byte() -> None:
    assert storable(os.fsdecode(b"caf\xe9.txt")) == "caf\\xe9.txt"


@given(ANY_TEXT)
def test_what_is_storable_is_utf8_without_nul(text: str) -> None:
    assert b"\0" not in storable(text).encode()


@given(ANY_TEXT)
def test_what_is_printable_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()


def test_a_message_is_bounded_and_keeps_its_beginning_and_end() -> None:
    told = message("begin" + "x" * 5_000_000 + "end")
    assert len(told) <= LONGEST_MESSAGE
    assert told.startswith("begin")
    assert told.endswith("end")
