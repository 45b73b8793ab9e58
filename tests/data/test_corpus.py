import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from opens_a_corpus import open_and_describe

from hpsearch.config import DataConfig
from hpsearch.data import corpus as corpora
from hpsearch.data.corpus import Corpus, open_corpus, text_tokens
from hpsearch.data.split import split_text
from hpsearch.errors import DataError

Write = Callable[..., Path]
Opener = Callable[..., Corpus]
KINDS = ("bytes", "chars", "bpe")


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_are_the_training_part_and_nothing_else(kind: str, pydoc: Opener) -> None:
    corpus = pydoc(kind)
    (part,) = corpus.split.train
    assert corpus.tokenizer.decode(corpus.train[0].tokens) == part.read(0, part.size).decode()
    assert corpus.tokenizer.token_bytes[corpus.train[0].tokens].sum() == corpus.train_bytes == part.size
    assert corpus.train_tokens == len(corpus.train[0].tokens)
    assert corpus.train[0].tokens.dtype == {"bytes": np.uint8, "chars": np.uint8, "bpe": np.uint16}[kind]


def test_the_held_out_text_is_the_same_for_every_tokenizer_and_architecture(pydoc: Opener) -> None:
    texts = {tuple(pydoc(kind, architecture).held_out(20)) for kind in KINDS for architecture in ("decoder", "encoder")}
    assert len(texts) == 1
    assert len(texts.pop()) == 20


def test_fingerprints_tell_tokenizers_apart_and_the_data_fingerprint_does_not(pydoc: Opener) -> None:
    made = [pydoc(kind, architecture) for kind in KINDS for architecture in ("decoder", "encoder", "encoder_decoder")]
    made.append(pydoc("bpe", vocab_size=700))
    assert len({corpus.fingerprint for corpus in made}) == len(made)
    assert len({corpus.data_fingerprint for corpus in made}) == 1
    assert pydoc("bytes").fingerprint == pydoc("bytes").fingerprint


def test_a_byte_tokenizer_maps_the_text_file_itself(write: Write, tmp_path: Path) -> None:
    path = write("t.txt", "abc\n" * 5000)
    corpus = open_corpus(DataConfig(text=str(path)), vocab_size=2, architecture="decoder", cache_dir=tmp_path / "cache")
    assert corpus.tokenizer.vocab_size == 256
    assert not list((tmp_path / "cache").rglob("*.uint8"))
    assert corpus.train[0].tokens.tobytes() == path.read_bytes()[: corpus.train_bytes]


def test_characters_that_only_the_held_out_text_has_are_unknown(write: Write, tmp_path: Path) -> None:
    train, valid = write("a.txt", "abcabc\n" * 100), write("b.txt", "abcdé" * 1000)
    data = DataConfig(text=str(train), tokenizer="chars", validation=str(valid))
    corpus = open_corpus(data, vocab_size=2, architecture="decoder", cache_dir=tmp_path / "cache")
    assert corpus.tokenizer.vocab_size == 5
    assert corpus.tokenizer.decode(corpus.tokenizer.encode(corpus.held_out(1)[0][:5])) == "abc\ufffd\ufffd"


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
def test_bpe_has_the_asked_vocabulary_specials_included(architecture: str, pydoc: Opener) -> None:
    tokenizer = pydoc("bpe", architecture).tokenizer
    assert tokenizer.vocab_size == 600
    assert max(tokenizer.specials.values(), default=599) == 599


def test_bpe_is_trained_on_the_training_part_only(write: Write, tmp_path: Path) -> None:
    path = write("t.txt", "the cat sat on the mat\n" * 900 + "zyzzyva " * 300)
    data = DataConfig(text=str(path), tokenizer="bpe", validation=0.1)
    tokenizer = open_corpus(data, vocab_size=400, architecture="decoder", cache_dir=tmp_path / "cache").tokenizer
    assert len(tokenizer.encode(" the cat")) == 2
    assert len(tokenizer.encode(" zyzzyva")) > 5
    assert tokenizer.vocab_size == 400


@pytest.mark.parametrize(("architecture", "least"), [("decoder", 256), ("encoder", 260), ("encoder_decoder", 260)])
def test_a_vocabulary_too_small_for_bpe_names_the_smallest(architecture: str, least: int, pydoc: Opener) -> None:
    with pytest.raises(DataError, match=f"vocab_size {least - 1} is too small .* need {least}"):
        pydoc("bpe", architecture, vocab_size=least - 1)
    assert pydoc("bpe", architecture, vocab_size=least).tokenizer.ordinary == 256


def test_long_texts_train_bpe_on_an_even_sample(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "BPE_TRAINING_BYTES", 64_000)
    monkeypatch.setattr(corpora, "_SAMPLE_BYTES", 1000)
    path = write("t.txt", "".join(f"{number:06}é€\n" for number in range(60_000)))
    split = split_text(DataConfig(text=str(path), validation=0.1), tmp_path / "cache")
    sample = list(corpora._sample(split))
    assert 60_000 < sum(len(piece.encode()) for piece in sample) < 67_000
    places = [int(piece[piece.index("\n") + 1 :][:6]) for piece in sample]
    assert np.diff(places).max() < 2 * 54_000 / len(places)
    assert places[0] < 1000
    assert places[-1] > 52_000


def test_a_second_opening_reads_only_what_is_cached(write: Write, tmp_path: Path) -> None:
    path = write("t.txt", "some text to read\n" * 3000)
    data, cache = DataConfig(text=str(path), tokenizer="bpe"), tmp_path / "cache"

    def opened() -> Corpus:
        return open_corpus(data, vocab_size=300, architecture="decoder", cache_dir=cache)

    first = opened()
    before = {file: file.stat().st_mtime_ns for folder in ("tokens", "tokenizers") for file in (cache / folder).iterdir()}
    second = opened()
    after = {file: file.stat().st_mtime_ns for folder in ("tokens", "tokenizers") for file in (cache / folder).iterdir()}
    assert before == after
    assert len(before) == 2
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.train[0].tokens, second.train[0].tokens)


def test_architectures_share_cached_tokens_when_their_ordinary_vocabulary_is_the_same(write: Write, tmp_path: Path) -> None:
    data, cache = DataConfig(text=str(write("t.txt", "some text\n" * 3000)), tokenizer="bpe"), tmp_path / "cache"
    for architecture, vocab_size in (("decoder", 300), ("encoder", 304), ("encoder_decoder", 304)):
        open_corpus(data, vocab_size=vocab_size, architecture=architecture, cache_dir=cache)
    assert len(list((cache / "tokens").iterdir())) == 1


def test_a_torn_token_array_is_made_again(write: Write, tmp_path: Path) -> None:
    data, cache = DataConfig(text=str(write("t.txt", "some text\n" * 3000)), tokenizer="chars"), tmp_path / "cache"

    def tokens() -> list[int]:
        return list(open_corpus(data, vocab_size=2, architecture="decoder", cache_dir=cache).train[0].tokens)

    first = tokens()
    (path,) = (cache / "tokens").iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    assert tokens() == first


def test_processes_that_open_a_corpus_at_once_get_the_same_one(write: Write, tmp_path: Path) -> None:
    folder = write("f/t.txt", "many words to read, and some more\n" * 3000).parent
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    processes = [
        context.Process(target=open_and_describe, args=(str(folder), str(tmp_path / "cache"), results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1
    assert not list((tmp_path / "cache").rglob("*.hpsearch-tmp"))
    assert not list((tmp_path / "cache").rglob("*.joining"))


def test_weights_reach_the_sources_and_sum_to_one(write: Write, tmp_path: Path) -> None:
    texts = {str(write(f"{name}.txt", f"{name} text\n" * 2000)): weight for name, weight in (("a", 1.0), ("b", 3.0))}
    corpus = open_corpus(DataConfig(text=texts), vocab_size=2, architecture="decoder", cache_dir=tmp_path / "cache")
    assert [source.weight for source in corpus.train] == [0.25, 0.75]
    assert [Path(source.name).name for source in corpus.train] == ["a.txt", "b.txt"]
    assert corpus.windows_per_pass(32) == 2 * (len(corpus.train[0].tokens) // 32 - 1)


def test_require_names_what_does_not_fit(write: Write, tmp_path: Path) -> None:
    def opened(text: str, architecture: str = "decoder", validation: float = 0.5) -> Corpus:
        data = DataConfig(text=str(write("t.txt", text)), validation=validation)
        return open_corpus(data, vocab_size=2, architecture=architecture, cache_dir=tmp_path / "cache")

    opened("x" * 5000).require(1000, 20)
    with pytest.raises(DataError, match=r"training part has 2,500 tokens and a sequence needs 2,501"):
        opened("x" * 5000).require(2500, 20)
    with pytest.raises(DataError, match=r"validation part has 500 bytes and an evaluation needs 2,048"):
        opened("x" * 1000).require(16, 20)
    with pytest.raises(DataError, match=r"context_length 4 is too short for an encoder: .* use 5 or more"):
        opened("x" * 5000, "encoder").require(4, 20)
    with pytest.raises(DataError, match="nothing is left to train on"):
        opened("xx", validation=0.9)


def test_text_tokens_leave_room_for_the_special_ones() -> None:
    assert [text_tokens(name, 64) for name in ("decoder", "encoder", "encoder_decoder")] == [64, 61, 63]


@pytest.mark.parametrize("kind", ["chars", "bpe"])
def test_kept_tokens_and_tokenizers_that_were_changed_are_made_again(kind: str, write: Write, tmp_path: Path) -> None:
    path = write("t.txt", "A text of words, and words of a text. " * 300)
    data, kept = DataConfig(text=str(path), tokenizer=kind), tmp_path / "cache"

    def opened() -> Corpus:
        return open_corpus(data, vocab_size=300, architecture="decoder", cache_dir=kept)

    before = opened()
    tokens = before.train[0].tokens.copy()
    for folder in ("tokens", "tokenizers"):
        for file in (kept / folder).glob("*"):
            content = file.read_bytes()
            file.unlink()  # The corpus of before has it mapped.
            file.write_bytes(bytes(len(content)) if folder == "tokens" else content.replace(b'"t"', b'"u"'))
    after = opened()
    assert np.array_equal(after.train[0].tokens, tokens)
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
def test_a_byte_order_mark_is_neither_trained_on_nor_held_out(kind: str, write: Write, tmp_path: Path) -> None:
    text = "A text of words, and words of a text.\n" * 300

    def opened(name: str, content: str) -> Corpus:
        data = DataConfig(text=str(write(name, content)), tokenizer=kind, validation=str(write("v-" + name, content + "held")))
        return open_corpus(data, vocab_size=300, architecture="decoder", cache_dir=tmp_path / "cache")

    plain, marked = opened("plain.txt", text), opened("marked.txt", "\ufeff" + text)
    assert np.array_equal(plain.train[0].tokens, marked.train[0].tokens)
    assert plain.tokenizer.vocab_size == marked.tokenizer.vocab_size
    assert plain.held_out(2) == marked.held_out(2)
    assert marked.train_bytes == len(text)
