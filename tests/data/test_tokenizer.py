import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.data.tokenizer import (
    SPECIALS,
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    from_document,
    smallest_bpe,
)
from hpsearch.errors import DataError

TEXT = "the quick brown fox — größer, 日本語, 😀 the the quick\n" * 20
MODEL = BpeTokenizer.train([TEXT], 320)


def made(kind: str, architecture: str = "decoder") -> Tokenizer:
    specials = SPECIALS[architecture]
    if kind == "bytes":
        return ByteTokenizer(specials)
    if kind == "chars":
        return CharTokenizer.train([TEXT], specials)
    return BpeTokenizer(MODEL, specials, 400)


@given(st.text())
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_any_text_round_trips_through_bytes_and_bpe_with_exact_byte_counts(kind: str, text: str) -> None:
    tokenizer = made(kind, "encoder")
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert (ids < tokenizer.ordinary).all()


@given(st.text(alphabet=sorted(set(TEXT))))
def test_text_of_known_characters_round_trips_through_chars(text: str) -> None:
    tokenizer = made("chars", "encoder_decoder")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text)
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def test_an_unknown_character_maps_to_the_unknown_id_and_counts_no_bytes() -> None:
    tokenizer = CharTokenizer.train(["cab"])
    assert tokenizer.characters == "abc"
    assert tokenizer.encode("a!é😀b").tolist() == [0, 3, 3, 3, 1]
    assert tokenizer.decode([0, 3, 1]) == "a\N{REPLACEMENT CHARACTER}b"
    assert tokenizer.token_bytes.tolist() == [1, 1, 1, 0]
    assert tokenizer.vocab_size == 4


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
@pytest.mark.parametrize("architecture", list(SPECIALS))
def test_specials_follow_the_ordinary_vocabulary_and_are_not_text(kind: str, architecture: str) -> None:
    tokenizer = made(kind, architecture)
    names = SPECIALS[architecture]
    assert tokenizer.specials == {name: tokenizer.ordinary + place for place, name in enumerate(names)}
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    assert not tokenizer.token_bytes[tokenizer.ordinary :].any()
    assert tokenizer.decode([*tokenizer.encode("the fox"), *tokenizer.specials.values(), tokenizer.vocab_size - 1]).startswith(
        "the fox"
    )
    for name in names:
        assert not set(tokenizer.encode(f"a {name} b").tolist()) & set(tokenizer.specials.values())


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
def test_a_saved_tokenizer_is_the_same_one(kind: str, tmp_path: Path) -> None:
    tokenizer = made(kind, "encoder")
    assert tokenizer.save(tmp_path) == tmp_path / "tokenizer.json"
    loaded = Tokenizer.load(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.digest() == tokenizer.digest()
    assert (loaded.vocab_size, loaded.specials, loaded.kind) == (tokenizer.vocab_size, tokenizer.specials, kind)
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert loaded.token_bytes.tolist() == tokenizer.token_bytes.tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"kind": "words", "specials": []}',
        b'{"kind": "bpe", "specials": [], "vocab_size": 300, "bpe": {}}',
        b"\xff",
    ],
)
def test_a_damaged_tokenizer_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match="no tokenizer of this program"):
        Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Tokenizer.load(tmp_path)


def test_bpe_keeps_the_asked_vocabulary_when_the_text_cannot_fill_it() -> None:
    tokenizer = BpeTokenizer(BpeTokenizer.train(["aaaa"], 5000), SPECIALS["encoder"], 5004)
    assert tokenizer.vocab_size == 5004
    assert tokenizer.ordinary < 300
    assert tokenizer.specials["[PAD]"] == tokenizer.ordinary


def test_bpe_learns_frequent_words_and_fills_its_vocabulary() -> None:
    words = " ".join(f"{first}{second}" for first in ("the", "qu", "gr") for second in "abcdefghij") * 20
    assert BpeTokenizer(BpeTokenizer.train([words], 280)).vocab_size == 280
    tokenizer = made("bpe")
    assert len(tokenizer.encode(" the quick")) == 2
    assert smallest_bpe("decoder") == 256
    assert smallest_bpe("encoder") == 260


def test_bpe_training_is_the_same_in_another_process() -> None:
    code = f"from hpsearch.data.tokenizer import BpeTokenizer; print(BpeTokenizer.train([{TEXT!r}], 320), end='')"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(again) == json.loads(MODEL)


def test_bpe_exports_the_tokenizers_librarys_own_format_with_the_same_ids() -> None:
    from tokenizers import Tokenizer as Model

    tokenizer = made("bpe", "encoder")
    assert isinstance(tokenizer, BpeTokenizer)
    model = Model.from_str(tokenizer.hugging_face())
    assert model.encode("the fox 😀").ids == tokenizer.encode("the fox 😀").tolist()
    assert {name: model.token_to_id(name) for name in tokenizer.specials} == tokenizer.specials
    assert model.decode(tokenizer.encode("größer").tolist()) == "größer"


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
def test_a_lone_surrogate_is_no_reason_to_fail(kind: str) -> None:
    assert "the" in made(kind).decode(made(kind).encode("the \udcff"))


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_torn_characters_become_replacement_characters(kind: str) -> None:
    tokenizer = made(kind)
    assert tokenizer.decode(tokenizer.encode("é")[:1]) in ("é", "\N{REPLACEMENT CHARACTER}")
    assert tokenizer.decode([]) == ""


def test_the_empty_text_has_no_tokens() -> None:
    for kind in ("bytes", "chars", "bpe"):
        assert made(kind).encode("").tolist() == []
        assert from_document(made(kind).document()).encode("").dtype == np.int32


def test_the_tokenizer_needs_no_torch() -> None:
    code = "import sys, hpsearch.data.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
