"""The text as tokens: what training reads, cached and memory-mapped.

Opening finds and checks the text, trains the tokenizer on the training part where it needs training, and encodes that part
once; the results are kept in `cache_dir` by fingerprint, and a second opening only maps them. A byte tokenizer maps the text
file itself. Nothing here loads a whole text.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config import DataConfig
from hpsearch.data import cache
from hpsearch.data.corruption import PACKING
from hpsearch.data.sampling import Source, pass_shares, windows
from hpsearch.data.split import HELD_OUT_BYTES, Part, Split, split_text
from hpsearch.data.tokenizer import SPECIALS, BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer, smallest_bpe
from hpsearch.errors import ConfigError, DataError

__all__ = ["HELD_OUT_BYTES", "Corpus", "open_corpus", "text_tokens", "window_shape"]

BPE_TRAINING_BYTES = 64 * 2**20
"""Most text that a BPE tokenizer is trained on, sampled evenly from the training part."""

_SAMPLE_BYTES = 64 * 2**10
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Corpus:
    """A tokenized text. Cheap to open again, read-only, and of any size."""

    architecture: str
    fingerprint: str
    """sha256-based, of the text's content, the split and the tokenizer."""
    tokenizer: Tokenizer
    train: tuple[Source, ...]
    split: Split

    @property
    def data_fingerprint(self) -> str:
        """sha256-based, of the text's content and the split; the same for every tokenizer."""
        return self.split.fingerprint

    @property
    def train_tokens(self) -> int:
        return sum(len(source.tokens) for source in self.train)

    @property
    def train_bytes(self) -> int:
        return self.split.train_bytes

    @property
    def validation_bytes(self) -> int:
        return self.split.validation_bytes

    def held_out(self, eval_iters: int) -> list[str]:
        """The evaluation texts, the same for every tokenizer, context length and batch size; see `Split.held_out`."""
        return self.split.held_out(eval_iters)

    def windows_per_pass(self, context_length: int) -> int:
        """Training sequences in one pass over the text; `num_epochs` passes are this times num_epochs / batch_size steps."""
        stride, width = window_shape(self.architecture, context_length)
        return sum(pass_shares(self.train, [windows(source, stride, width) for source in self.train]))

    def require_vocabulary(self, vocab_size: int) -> None:
        """Check that a model with so many rows is one of this text. Raises ConfigError with both numbers."""
        own, kind, specials = self.tokenizer.vocab_size, self.tokenizer.kind, len(self.tokenizer.specials)
        if vocab_size != own:
            raise ConfigError(
                "vocab_size",
                f"vocab_size is {vocab_size}, and the {kind} of the text and the {specials} special tokens of architecture "
                f"{self.architecture} make {own}; leave vocab_size out: it follows from the text",
            )

    def require(self, context_length: int, eval_iters: int) -> None:
        """Check that this text can train and evaluate such a model. Raises DataError with the numbers that do not fit."""
        text_tokens(self.architecture, context_length)
        for source in self.train:
            windows(source, context_length, context_length + 1)
        self.held_out(eval_iters)


def text_tokens(architecture: str, context_length: int) -> int:
    """Tokens of text in one sequence: all, but for an encoder's [CLS] and two [SEP] and an encoder-decoder's [EOS]."""
    reserved = {"encoder": PACKING, "encoder_decoder": 1}.get(architecture, 0)
    least = 2 if architecture == "encoder" else 1
    if context_length - reserved < least:
        raise DataError(
            f"context_length {context_length} is too short for an {architecture}: its sequences hold {reserved} special tokens "
            f"and at least {least} of text; use {reserved + least} or more"
        )
    return context_length - reserved


def window_shape(architecture: str, context_length: int) -> tuple[int, int]:
    """Stride and width, in tokens, of a training window; a decoder's windows overlap by the token that is only a target."""
    text = text_tokens(architecture, context_length)
    return text, text + (architecture == "decoder")


def open_corpus(data: DataConfig, *, vocab_size: int, architecture: str, cache_dir: Path) -> Corpus:
    """The corpus of `data` for one architecture.

    vocab_size: rows of the token embedding, for a BPE tokenizer; the other tokenizers' follows from the text. Several
    processes may open the same corpus at once. Raises DataError as `split_text` does, and for a vocab_size below
    `smallest_bpe`; StoppedForNow when the disk is full.
    """
    split = split_text(data, cache_dir)
    if split.train_bytes == 0:
        raise DataError("nothing is left to train on; use a longer text or a smaller share for validation")
    tokenizer = _tokenizer(data, split, vocab_size, architecture, cache_dir)
    weights: tuple[float | None, ...] = split.weights or (None,) * len(split.train)
    train = tuple(_source(part, weight, tokenizer, cache_dir) for part, weight in zip(split.train, weights, strict=True))
    return Corpus(architecture, cache.digest([split.fingerprint, tokenizer.digest()]), tokenizer, train, split)


def _tokenizer(data: DataConfig, split: Split, vocab_size: int, architecture: str, cache_dir: Path) -> Tokenizer:
    specials = SPECIALS[architecture]
    if data.tokenizer == "bytes":
        return ByteTokenizer(specials)
    identity = [part.identity() for part in split.train]
    if data.tokenizer == "chars":
        found = cache.recall(cache_dir, ["characters", identity])
        if found is not None:
            return CharTokenizer(found["characters"], specials)
        chars = CharTokenizer.train((piece.decode() for part in split.train for piece in part.pieces(_PIECE_BYTES)), specials)
        cache.remember(cache_dir, ["characters", identity], {"characters": chars.characters})
        return chars
    if vocab_size < smallest_bpe(architecture):
        raise DataError(
            f"vocab_size {vocab_size} is too small for a BPE tokenizer: 256 bytes and {len(specials)} special tokens "
            f"of an {architecture} need {smallest_bpe(architecture)}; raise vocab_size or use tokenizer: bytes"
        )
    # No text has more tokens than bytes, and the library takes memory for as many as it is asked for.
    ordinary = min(vocab_size - len(specials), 256 + split.train_bytes)
    key = ["bpe", identity, ordinary, BPE_TRAINING_BYTES]
    path = cache_dir / "tokenizers" / f"{cache.digest(key)}.json"
    found = cache.recall(cache_dir, key)
    if found is not None:
        with contextlib.suppress(OSError):
            kept = path.read_bytes()
            if hashlib.sha256(kept).hexdigest() == found["sha256"]:
                return BpeTokenizer(kept.decode(), specials, vocab_size)
    model = BpeTokenizer.train(_sample(split), ordinary)
    with cache.writing(path) as file:
        file.write(model.encode())
    cache.remember(cache_dir, key, {"sha256": hashlib.sha256(model.encode()).hexdigest()})
    return BpeTokenizer(model, specials, vocab_size)


def _sample(split: Split) -> Iterator[str]:
    """The training text, or pieces of it at even distances that hold BPE_TRAINING_BYTES."""
    share = min(1.0, BPE_TRAINING_BYTES / split.train_bytes)
    taken = seen = 0.0
    for part in split.train:
        if share == 1.0:
            yield from (piece.decode() for piece in part.pieces(_SAMPLE_BYTES))
            continue
        for start in range(0, part.size, _SAMPLE_BYTES):
            seen += _SAMPLE_BYTES
            if taken <= seen * share:
                taken += _SAMPLE_BYTES
                # Cut inside a character at either end: what is torn is left out.
                yield part.read(start, start + _SAMPLE_BYTES).decode(errors="ignore")


def _source(part: Part, weight: float | None, tokenizer: Tokenizer, cache_dir: Path) -> Source:
    if tokenizer.kind == "bytes":
        return Source(part.name, part.path, np.uint8, part.size, weight, start=part.start)
    dtype = np.min_scalar_type(tokenizer.ordinary - 1)
    key: list[Any] = ["tokens", part.identity(), tokenizer.ordinary_digest()]
    path = cache_dir / "tokens" / f"{cache.digest(key)}.{dtype}"
    count = _kept_tokens(path, key, cache_dir)
    if count is None:
        count, sha256 = 0, hashlib.sha256()
        with cache.writing(path) as file:
            for ids in tokenizer.encode_all(piece.decode() for piece in part.pieces(_PIECE_BYTES)):
                block = ids.astype(dtype).data
                file.write(block)
                sha256.update(block)
                count += len(ids)
        cache.remember(cache_dir, key, {"count": count, "sha256": sha256.hexdigest()})
    return Source(part.name, path, dtype, count, weight)


def _kept_tokens(path: Path, key: list[Any], cache_dir: Path) -> int | None:
    found = cache.recall(cache_dir, key)
    if found is None or "sha256" not in found or not cache.holds(cache_dir, path, found["sha256"]):
        return None
    return int(found["count"])
