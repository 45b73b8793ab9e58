"""The text before any tokenizer: its training and its validation part, its fingerprint, its held-out spans.

The last `validation` share of every text's bytes is held out (or a text of its own is), so that the two parts are disjoint
and the same whatever reads them. Everything here counts bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpsearch.config import DataConfig
from hpsearch.data import cache
from hpsearch.data.held_out import LEAD_BYTES
from hpsearch.data.sources import Text, find_text
from hpsearch.errors import DataError

HELD_OUT_BYTES = 2048
"""Bytes of one held-out span. In bytes, so that every tokenizer is measured on the same text."""

_LINE_REACH = 4096
"""How far, in bytes, a cut moves back to end a line."""


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `stop` of a UTF-8 file; both lie on character borders."""

    name: str
    path: Path
    sha256: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start … stop, counted from the part's beginning and cut at its end."""
        with self.path.open("rb") as file:
            file.seek(self.start + start)
            return file.read(max(0, min(stop, self.size) - start))

    def pieces(self, size: int) -> Iterator[bytes]:
        """The part in order, in pieces of about `size` bytes that end at line ends where there are any."""
        at = 0
        while at < self.size:
            block = self.read(at, at + size + 1)
            piece = block[: cut(block, size, reach=size // 2)] if len(block) > size else block
            yield piece
            at += len(piece)

    def identity(self) -> list[str | int]:
        return [self.sha256, self.start, self.stop]


def cut(block: bytes, at: int, *, reach: int) -> int:
    """Where to cut UTF-8 `block` at or before `at`: after a line end at most `reach` bytes before, else between characters."""
    line = block.rfind(b"\n", max(0, at - reach), at)
    if line >= 0:
        return line + 1
    while 0 < at < len(block) and block[at] & 0xC0 == 0x80:
        at -= 1
    return at


@dataclass(frozen=True)
class Span:
    """A piece of held-out text to score models on."""

    text: str
    lead: int
    """Characters at its start that are read and not scored."""
    part: int = 0
    """The validation part that it is of, where these are weighted."""


@dataclass(frozen=True)
class Split:
    """A text's parts. `weights` are the sampling weights of the training parts (summing to 1), None for "as long as it is"."""

    train: tuple[Part, ...]
    weights: tuple[float, ...] | None
    validation: tuple[Part, ...]
    validation_weights: tuple[float, ...] | None
    """Of the validation parts in a score: those of the texts whose ends they are; None for "as long as it is"."""
    fingerprint: str
    """sha256-based, of the contents, the cuts and the weights; the same for every tokenizer and place on disk."""
    notes: tuple[str, ...] = ()
    """What a person should know of the texts: a line for each folder of which something is left out."""

    @property
    def train_bytes(self) -> int:
        return sum(part.size for part in self.train)

    @property
    def validation_bytes(self) -> int:
        return sum(part.size for part in self.validation)

    def held_out(self, eval_iters: int) -> list[str]:
        """The texts of `spans`."""
        return [span.text for span in self.spans(eval_iters)]

    def spans(self, eval_iters: int) -> list[Span]:
        """What is evaluated on: `eval_iters` spans of HELD_OUT_BYTES, evenly spaced over the validation parts end to end.

        Of weighted parts each has its share of the spans, and at least one; scores make up for what rounding leaves. Cut
        between characters, so a span can be up to three bytes shorter; fewer spans where the part is shorter. Spans never
        overlap. Raises DataError when there is no room for one.
        """
        if self.validation_weights is None:
            return _spans(self.validation, eval_iters)
        return [
            replace(span, part=number)
            for number, (part, weight) in enumerate(zip(self.validation, self.validation_weights, strict=True))
            for span in _spans([part], max(1, round(eval_iters * weight)))
        ]


def _spans(parts: Sequence[Part], most: int) -> list[Span]:
    total = sum(part.size for part in parts)
    count = min(most, total // HELD_OUT_BYTES)
    if count < 1:
        names = ", ".join(part.name for part in parts)
        raise DataError(
            f"{names}: the validation part has {total:,} bytes and an evaluation needs {HELD_OUT_BYTES:,}; "
            "use a longer text or a larger share for validation"
        )
    spans = []
    for start in (index * total // count for index in range(count)):
        # One byte on each side says whether the span's ends lie between characters.
        block = _read(parts, start, start + HELD_OUT_BYTES + 1)
        first = next(place for place, byte in enumerate(block) if byte & 0xC0 != 0x80)
        lead = block[first : cut(block, first + LEAD_BYTES, reach=0)].decode()
        spans.append(Span(block[first : cut(block, HELD_OUT_BYTES, reach=0)].decode(), len(lead)))
    return spans


def _read(parts: Sequence[Part], start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of parts end to end."""
    found, before = [], 0
    for part in parts:
        low, high = max(start - before, 0), stop - before
        if low < part.size and high > 0:
            found.append(part.read(low, high))
        before += part.size
    return b"".join(found)


def split_text(data: DataConfig, cache_dir: Path) -> Split:
    """Find, check and split the text of `data`. Reads every byte the first time, next to none later.

    Raises DataError as `find_text` does, and for no text at all, a weight that is not above 0, a validation share outside
    (0, 1), a file that is in the text twice, and a validation text that is also trained on.
    """
    weighted = data.text if isinstance(data.text, dict) else None
    words = [data.text] if isinstance(data.text, str) else list(data.text)
    if not words:
        raise DataError("data.text names no text; give a file, a folder, 'pydoc' or 'stdlib'")
    for word, weight in (weighted or {}).items():
        if not (0 < weight < math.inf):
            raise DataError(f"data.text: the weight of '{word}' is {weight:g}; give a number above 0, or leave the text out")
    share = data.validation
    if isinstance(share, float) and not 0 < share < 1:
        raise DataError(f"data.validation is {share:g}; give a share above 0 and below 1 (0.1 holds out a tenth), or a file")

    apart = find_text(share, cache_dir) if isinstance(share, str) else None
    texts = [find_text(word, cache_dir, without=apart.files if apart else frozenset()) for word in words]
    _check_disjoint(texts, apart)
    if apart is not None:
        train = [_whole(text) for text in texts]
        validation = [_whole(apart)]
    else:
        assert isinstance(share, float)
        halves = [_halves(text, share) for text in texts]
        train, validation = [first for first, _ in halves], [second for _, second in halves]
    total = sum(weighted.values()) if weighted else 0.0
    weights = tuple(weight / total for weight in weighted.values()) if weighted else None
    identity = {"train": [part.identity() for part in train], "validation": [part.identity() for part in validation]}
    return Split(
        tuple(train),
        weights,
        tuple(validation),
        weights if apart is None else None,
        cache.digest({**identity, "weights": list(weights) if weights else None}),
        tuple(text.note for text in (*texts, *([apart] if apart else [])) if text.note),
    )


def _halves(text: Text, share: float) -> tuple[Part, Part]:
    """The part before the held-out end, and that end. The cut moves back by at most a tenth of the smaller of the two."""
    whole = _whole(text)
    at = whole.size - round(whole.size * share)
    reach = min(_LINE_REACH, min(at, whole.size - at) // 10)
    begin = max(0, at - max(reach, 3))
    at = whole.start + begin + cut(whole.read(begin, at + 1), at - begin, reach=reach)
    return replace(whole, stop=at), replace(whole, start=at)


def _whole(text: Text) -> Part:
    return Part(text.name, text.path, text.sha256, text.start, text.size)


def _check_disjoint(texts: list[Text], apart: Text | None) -> None:
    for one, other in itertools.combinations(texts, 2):
        twice = one.files & other.files
        if twice or one.sha256 == other.sha256:
            what = min(twice, default=one.path) if one.name != other.name else one.name
            raise DataError(f"data.text: '{one.name}' and '{other.name}' both hold {what}; name it once, or give it a weight")
    for text in texts:
        if apart is not None and (apart.sha256 == text.sha256 or apart.files & text.files):
            raise DataError(f"data.validation: '{apart.name}' is also trained on; hold out another text, or give a share")
