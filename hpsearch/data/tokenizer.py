"""Text to token ids and back: bytes, characters, or byte-level BPE.

An id below the ordinary vocabulary's size is text; the architecture's special tokens follow it; ids after those, up to
`vocab_size`, are unused (a BPE vocabulary that the text could not fill). `encode` never makes a special token, whatever the
text says.
"""

from __future__ import annotations

import abc
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hpsearch.config import TokenizerKind
from hpsearch.data import cache
from hpsearch.errors import DataError

Ids = npt.NDArray[np.int32]

SPECIALS: dict[str, tuple[str, ...]] = {
    "decoder": (),
    "encoder": ("[PAD]", "[MASK]", "[CLS]", "[SEP]"),
    "encoder_decoder": ("[PAD]", "[MASK]", "[BOS]", "[EOS]"),
}
"""Special tokens of each architecture, in the order of their ids."""

FILE = "tokenizer.json"


class Tokenizer(abc.ABC):
    """What every tokenizer can do. `ordinary` is the number of ids that are text."""

    kind: ClassVar[TokenizerKind]

    def __init__(self, ordinary: int, special_names: Sequence[str], vocab_size: int | None = None) -> None:
        self.ordinary = ordinary
        self.specials: dict[str, int] = {name: ordinary + place for place, name in enumerate(special_names)}
        self.vocab_size = vocab_size if vocab_size is not None else ordinary + len(self.specials)
        """Rows of the token embedding: ordinary, special and unused ids."""

    @abc.abstractmethod
    def encode(self, text: str) -> Ids:
        """Token ids of `text`. A lone surrogate, which is no text, is read as a question mark."""

    def encode_all(self, texts: Iterable[str]) -> Iterator[Ids]:
        """`encode` of each text, in order."""
        return map(self.encode, texts)

    @abc.abstractmethod
    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of `ids`, special and unused ones left out. Bytes that are no UTF-8 become U+FFFD."""

    @property
    @abc.abstractmethod
    def _sizes(self) -> npt.NDArray[np.int32]:
        """UTF-8 bytes of each ordinary token."""

    @abc.abstractmethod
    def _content(self) -> dict[str, Any]:
        """What, beside kind and sizes, makes this tokenizer."""

    @functools.cached_property
    def token_bytes(self) -> npt.NDArray[np.int32]:
        """(vocab_size,) UTF-8 bytes per token; 0 for special and unused ids, and for the unknown character.

        The unknown character stands for bytes that its id does not tell: counting none keeps it from flattering bits per byte.
        """
        sizes = np.zeros(self.vocab_size, np.int32)
        sizes[: self.ordinary] = self._sizes
        return sizes

    def document(self) -> dict[str, Any]:
        """The tokenizer as one JSON object."""
        return {"kind": self.kind, "vocab_size": self.vocab_size, "specials": list(self.specials), **self._content()}

    def ordinary_digest(self) -> str:
        """sha256 of what `encode` depends on: tokenizers that differ in their specials only share it."""
        return cache.digest([self.kind, self._content()])

    def digest(self) -> str:
        return cache.digest(self.document())

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` in `folder` and return its path."""
        path = folder / FILE
        with cache.writing(path) as file:
            file.write(json.dumps(self.document(), ensure_ascii=False).encode())
        return path

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """The tokenizer that `save` wrote. Raises DataError when there is none, or it is damaged."""
        path = folder / FILE
        try:
            return from_document(json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; a trained model has its tokenizer beside it") from None
        except Exception:  # the tokenizers library raises plain Exceptions
            raise DataError(f"{path}: no tokenizer of this program; copy it again from where the model was trained") from None


class ByteTokenizer(Tokenizer):
    """256 ids, one per byte of UTF-8."""

    kind = "bytes"

    def __init__(self, special_names: Sequence[str] = ()) -> None:
        super().__init__(256, special_names)

    def encode(self, text: str) -> Ids:
        return np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.int32)

    def decode(self, ids: npt.ArrayLike) -> str:
        values = np.asarray(ids, np.int64)
        return values[values < 256].astype(np.uint8).tobytes().decode(errors="replace")

    @property
    def _sizes(self) -> npt.NDArray[np.int32]:
        return np.ones(256, np.int32)

    def _content(self) -> dict[str, Any]:
        return {}


class CharTokenizer(Tokenizer):
    """One id per character of the training text, in the order of code points, and one for every other character."""

    kind = "chars"
    unknown = "\N{REPLACEMENT CHARACTER}"

    def __init__(self, characters: str, special_names: Sequence[str] = ()) -> None:
        super().__init__(len(characters) + 1, special_names)
        self.characters = characters
        points = _code_points(characters)
        # A table over code points: one look-up per character, where a search would take log2(vocabulary).
        self._ids = np.full(int(points.max(initial=0)) + 2, len(characters), np.int32)
        self._ids[points] = np.arange(len(characters), dtype=np.int32)

    def encode(self, text: str) -> Ids:
        return self._ids[np.minimum(_code_points(text), len(self._ids) - 1)]

    def decode(self, ids: npt.ArrayLike) -> str:
        table = self.characters + self.unknown
        return "".join(table[token] for token in np.asarray(ids, np.int64).tolist() if token < self.ordinary)

    @property
    def _sizes(self) -> npt.NDArray[np.int32]:
        return np.array([len(character.encode()) for character in self.characters] + [0], np.int32)

    def _content(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @staticmethod
    def train(texts: Iterable[str], special_names: Sequence[str] = ()) -> CharTokenizer:
        """The tokenizer of the characters in `texts`."""
        seen = np.zeros(0x110000, np.bool_)
        for text in texts:
            seen[_code_points(text)] = True
        return CharTokenizer("".join(map(chr, np.flatnonzero(seen).tolist())), special_names)


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), np.uint32)


class BpeTokenizer(Tokenizer):
    """Byte-level byte-pair encoding (GPT-2's form): any text round-trips, and a token's bytes are known exactly."""

    kind = "bpe"

    def __init__(self, model: str, special_names: Sequence[str] = (), vocab_size: int | None = None) -> None:
        """model: a tokenizer in the JSON of the `tokenizers` library, without special tokens."""
        from tokenizers import Tokenizer as Model

        self._model: Any = Model.from_str(model)
        self._json: dict[str, Any] = json.loads(model)
        alphabet = byte_alphabet()
        vocabulary: dict[str, int] = self._model.get_vocab(with_added_tokens=False)
        ordered = sorted(vocabulary, key=vocabulary.__getitem__)
        self._pieces = [bytes(alphabet[letter] for letter in token) for token in ordered]
        super().__init__(len(ordered), special_names, vocab_size)

    def encode(self, text: str) -> Ids:
        return np.array(self._model.encode(_writable(text)).ids, np.int32)

    def encode_all(self, texts: Iterable[str]) -> Iterator[Ids]:
        iterator = iter(texts)
        while batch := [_writable(text) for _, text in zip(range(16), iterator, strict=False)]:
            for encoding in self._model.encode_batch_fast(batch):
                yield np.array(encoding.ids, np.int32)

    def decode(self, ids: npt.ArrayLike) -> str:
        known = (token for token in np.asarray(ids, np.int64).tolist() if token < self.ordinary)
        return b"".join(self._pieces[token] for token in known).decode(errors="replace")

    @property
    def _sizes(self) -> npt.NDArray[np.int32]:
        return np.array([len(piece) for piece in self._pieces], np.int32)

    def _content(self) -> dict[str, Any]:
        return {"bpe": self._json}

    def hugging_face(self) -> str:
        """The JSON of the `tokenizers` library, special tokens included, with the same ids."""
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Model

        model: Any = Model.from_str(json.dumps(self._json))
        model.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in self.specials])
        return str(model.to_str())

    @staticmethod
    def train(texts: Iterable[str], ordinary: int) -> str:
        """A model of at most `ordinary` tokens (at least 256) as the `tokenizers` library's JSON. Deterministic."""
        from tokenizers import Tokenizer as Model
        from tokenizers import decoders, models, pre_tokenizers, trainers

        model: Any = Model(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=ordinary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
        )
        model.train_from_iterator(texts, trainer)
        return str(model.to_str())


def _writable(text: str) -> str:
    """The `tokenizers` library takes no lone surrogates."""
    return text.encode(errors="replace").decode()


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """The byte of each letter of a byte-level vocabulary: itself where Latin-1 prints it, else the next letter from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def smallest_bpe(architecture: str) -> int:
    """The smallest vocab_size of a BPE tokenizer: every byte, and the architecture's special tokens."""
    return 256 + len(SPECIALS[architecture])


def from_document(document: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a `Tokenizer.document()`."""
    kind, specials = document["kind"], document["specials"]
    if kind == "bytes":
        return ByteTokenizer(specials)
    if kind == "chars":
        return CharTokenizer(document["characters"], specials)
    if kind == "bpe":
        return BpeTokenizer(json.dumps(document["bpe"]), specials, document["vocab_size"])
    raise ValueError(f"unknown kind {kind!r}")
