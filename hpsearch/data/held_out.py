"""How a held-out span is cut into windows, so that every context length is scored on the same text with a warm start.

Cut into disjoint blocks, a token at a block's start is predicted from next to nothing, and the shorter the context, the more
starts there are: a context of 32 lost 0.07 bits per byte that way, one of 128 a quarter of it. So windows overlap by half (the
sliding window, or strided evaluation, that perplexities of models with a fixed context are measured with): each scored token
has at least half of a context before it, and is scored once. That reads each token at most twice, whatever the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LEAD_BYTES = 256
"""First bytes of a span that are read and not scored: a warm start for every context length and tokenizer, so that all are
scored on the same bytes. (A span starts in the middle of a text, and without it the first token could not be scored.)"""


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `stop` of a span are in the window, and those from `first` to `last` are scored in it."""

    start: int
    stop: int
    first: int
    last: int


def windows_of(architecture: str, length: int, lead: int, *, stride: int, width: int) -> Iterator[Window]:
    """The windows of a span of `length` tokens of which `lead` are its lead-in; stride, width: `corpus.window_shape`.

    Decoder: all tokens after the lead-in are scored, each with `width // 2` tokens or more before it in its window, or all that
    the span has. Encoder, which looks both ways: all are, those that are not near an end of the span with a quarter of a window
    or more on either side. Encoder_decoder: all are, in disjoint windows; there a window is the unit, since what is restored is
    corrupted as a whole, and its decoder has read all of it in that form before the first token.
    """
    match architecture:
        case "decoder":
            return _trailing(length, max(1, lead), (stride + 1) // 2, width)
        case "encoder":
            return _central(length, (width + 1) // 2, width)
        case _:
            ends = ((start, min(length, start + width)) for start in range(0, length, stride))
            return (Window(*end, *end) for end in ends)


def _trailing(length: int, first: int, step: int, width: int) -> Iterator[Window]:
    while first < length:
        # The window at the start of the span has room for more than a step.
        stop = min(length, max(first + step, width))
        yield Window(max(0, stop - width), stop, first, stop)
        first = stop


def _central(length: int, step: int, width: int) -> Iterator[Window]:
    before = (width - step) // 2
    first = 0
    while first < length:
        start = min(max(0, first - before), max(0, length - width))
        stop = min(length, start + width)
        last = length if stop == length else stop - (width - step - before)
        yield Window(start, stop, first, last)
        first = last
