import copy
import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.batches import IGNORED, Batch, Prefetcher, held_out_batches, train_batch
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.data.split import Span
from hpsearch.errors import DataError
from hpsearch.model.transformer import Transformer
from hpsearch.training.loop import evaluate

Write = Callable[..., Path]
Opener = Callable[..., Corpus]
ARCHITECTURES = ("decoder", "encoder", "encoder_decoder")


def config(architecture: str = "decoder", **settings: Any) -> TrialConfig:
    return TrialConfig.build({"architecture": architecture, "max_iters": 10, "context_length": 64, "batch_size": 12} | settings)


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Batch)]
    return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def text_of(corpus: Corpus) -> str:
    return corpus.split.train[0].read(0, corpus.train_bytes).decode()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_batch_is_a_pure_function_of_seed_and_iteration(architecture: str, kind: str, pydoc: Opener) -> None:
    corpus, settings = pydoc(kind, architecture), config(architecture)
    first = train_batch(corpus, settings, 5)
    train_batch(corpus, settings, 6)
    assert same(train_batch(corpus, settings, 5), first)
    assert not same(train_batch(corpus, settings, 6), first)
    assert not same(train_batch(corpus, config(architecture, seed=1), 5), first)
    for tensor in (first.inputs_BT, first.targets_BT, first.bytes_BT):
        assert tensor.dtype == torch.int64
        assert tensor.is_contiguous()
        assert len(tensor) == 12
    assert int(first.inputs_BT.max()) < corpus.tokenizer.vocab_size
    assert first.padding_BT is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_size_does_not_change_which_sequences_come(architecture: str, pydoc: Opener) -> None:
    corpus = pydoc("bytes", architecture)
    large = train_batch(corpus, config(architecture, batch_size=12), 1)
    small = [train_batch(corpus, config(architecture, batch_size=4), iteration) for iteration in (3, 4, 5)]
    assert torch.equal(torch.cat([batch.inputs_BT for batch in small]), large.inputs_BT)
    assert torch.equal(torch.cat([batch.targets_BT for batch in small]), large.targets_BT)


def test_a_decoder_predicts_the_next_token_of_real_text(pydoc: Opener) -> None:
    corpus = pydoc("bpe")
    batch = train_batch(corpus, config(), 0)
    assert torch.equal(batch.inputs_BT[:, 1:], batch.targets_BT[:, :-1])
    assert batch.inputs_BT.shape == batch.targets_BT.shape == (12, 64)
    for row, sizes in zip(batch.targets_BT, batch.bytes_BT, strict=True):
        text = corpus.tokenizer.decode(row)
        assert text.strip("\N{REPLACEMENT CHARACTER}") in text_of(corpus)
        assert int(sizes.sum()) == sum(corpus.tokenizer.token_bytes[row.numpy()])
    assert (batch.segments_BT, batch.order_B, batch.decoder_inputs_BT) == (None, None, None)


def test_a_pass_of_batches_reads_every_window_once(pydoc: Opener) -> None:
    corpus, settings = pydoc("bytes"), config(batch_size=64)
    count = corpus.windows_per_pass(64)
    rows = torch.cat([train_batch(corpus, settings, iteration).inputs_BT for iteration in range(count // 64 + 1)])[:count]
    tokens = np.asarray(corpus.train[0].tokens)
    found = np.sort(rows.numpy().astype(np.uint8).view("V64").ravel())

    def cut_at(offset: int) -> np.ndarray:
        return np.sort(tokens[offset : offset + 64 * count].copy().view("V64").ravel())

    assert sum(np.array_equal(found, cut_at(offset)) for offset in range(len(tokens) - 64 * count)) == 1


def test_an_encoder_reads_a_packed_pair_and_predicts_what_was_masked(pydoc: Opener) -> None:
    corpus = pydoc("bytes", "encoder")
    specials = corpus.tokenizer.specials
    batch = train_batch(corpus, config("encoder", batch_size=200), 0)
    inputs, targets = batch.inputs_BT, batch.targets_BT
    assert inputs.shape == (200, 64)
    assert (inputs[:, 0] == specials["[CLS]"]).all()
    assert (inputs[:, 32] == specials["[SEP]"]).all()
    assert (inputs[:, 63] == specials["[SEP]"]).all()
    assert (targets[:, [0, 32, 63]] == IGNORED).all()
    counted = targets != IGNORED
    assert counted.any(dim=1).all()
    assert counted.sum() / (200 * 61) == pytest.approx(0.15, abs=0.01)
    assert (inputs[counted] == specials["[MASK]"]).float().mean() == pytest.approx(0.8, abs=0.04)
    assert torch.equal(batch.bytes_BT, counted.long())
    assert batch.segments_BT is not None
    assert batch.segments_BT[0].tolist() == [0] * 33 + [1] * 31
    assert batch.order_B is None
    original = torch.where(counted, targets, inputs)
    assert all(corpus.tokenizer.decode(row) in text_of(corpus) for row in original[:20])


def test_a_sequence_order_is_swapped_half_of_the_time_and_labelled(pydoc: Opener) -> None:
    corpus = pydoc("bytes", "encoder")
    plain = train_batch(corpus, config("encoder", batch_size=400), 0)
    batch = train_batch(corpus, config("encoder", batch_size=400, sentence_loss_weight=0.5), 0)
    assert batch.order_B is not None
    assert batch.order_B.float().mean() == pytest.approx(0.5, abs=0.1)
    restored = torch.where(batch.targets_BT != IGNORED, batch.targets_BT, batch.inputs_BT)
    text = text_of(corpus)
    for row, label in zip(restored[:40], batch.order_B[:40], strict=True):
        first, second = corpus.tokenizer.decode(row[1:32]), corpus.tokenizer.decode(row[33:63])
        assert (second + first if label else first + second) in text
    straight = batch.order_B == 0
    assert torch.equal(batch.inputs_BT[straight], plain.inputs_BT[straight])
    assert torch.equal(batch.bytes_BT.sum(dim=1), plain.bytes_BT.sum(dim=1))


def test_one_segment_type_means_one_segment_id(pydoc: Opener) -> None:
    batch = train_batch(pydoc("bytes", "encoder"), config("encoder", type_vocab_size=1), 0)
    assert batch.segments_BT is not None
    assert not batch.segments_BT.any()


def test_every_encoder_sequence_has_a_target_however_short(pydoc: Opener) -> None:
    corpus = pydoc("bytes", "encoder")
    batch = train_batch(corpus, config("encoder", context_length=5, batch_size=300), 0)
    assert (batch.targets_BT != IGNORED).any(dim=1).all()


def test_an_encoder_decoder_restores_the_text_that_its_encoder_reads_with_gaps(pydoc: Opener) -> None:
    corpus = pydoc("bytes", "encoder_decoder")
    specials = corpus.tokenizer.specials
    batch = train_batch(corpus, config("encoder_decoder"), 0)
    assert batch.decoder_inputs_BT is not None
    assert batch.decoder_inputs_BT.shape == batch.targets_BT.shape == (12, 64)
    assert batch.inputs_BT.shape == (12, 50)
    assert (batch.decoder_inputs_BT[:, 0] == specials["[BOS]"]).all()
    assert torch.equal(batch.decoder_inputs_BT[:, 1:], batch.targets_BT[:, :-1])
    assert (batch.targets_BT[:, -1] == specials["[EOS]"]).all()
    assert torch.equal(batch.bytes_BT, (batch.targets_BT < 256).long())
    assert ((batch.inputs_BT == specials["[MASK]"]).sum(dim=1) == 6).all()
    for corrupted, target in zip(batch.inputs_BT, batch.targets_BT, strict=True):
        text = corpus.tokenizer.decode(target)
        assert text in text_of(corpus)
        pieces = iter(text)
        assert all(letter in pieces for letter in corpus.tokenizer.decode(corrupted))


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe"])
@pytest.mark.parametrize("context_length", [2, 3, 17, 64, 512, 3000])
def test_a_decoder_is_scored_on_the_same_bytes_once_with_half_a_context_before_each(
    kind: str, context_length: int, pydoc: Opener
) -> None:
    corpus, settings = pydoc(kind), config(context_length=context_length, eval_iters=3, max_position_embeddings=3000)
    spans = corpus.split.spans(3)
    # The lead-in is in bytes, and what follows it is what every tokenizer and every context length is scored on.
    assert all(253 <= len(span.text[: span.lead].encode()) <= 256 for span in spans)
    known = [np.concatenate([corpus.tokenizer.encode(part) for part in halves(span)]) for span in spans]
    leads = [len(corpus.tokenizer.encode(halves(span)[0])) for span in spans]
    batches = held_out_batches(corpus, settings)
    wanted = iter([(ids, token) for ids, lead in zip(known, leads, strict=True) for token in range(lead, len(ids))])
    for batch in batches:
        assert batch.inputs_BT.numel() <= max(2048, context_length)
        for row in range(len(batch.inputs_BT)):
            inputs, targets, sizes = (each[row].numpy() for each in (batch.inputs_BT, batch.targets_BT, batch.bytes_BT))
            assert (sizes[targets == IGNORED] == 0).all()
            for place in np.flatnonzero(targets != IGNORED).tolist():
                ids, token = next(wanted)  # Each once, in their order.
                assert targets[place] == ids[token]
                assert sizes[place] == corpus.tokenizer.token_bytes[ids[token]]
                assert np.array_equal(inputs[: place + 1], ids[token - place - 1 : token])
                assert place + 1 > min(token - 1, context_length / 2)
    assert next(wanted, None) is None
    bytes_ = sum(int(batch.bytes_BT.sum()) for batch in batches)
    assert bytes_ == sum(len(halves(span)[1].encode()) for span in spans)
    read = sum(batch.inputs_BT.numel() for batch in batches)
    assert read <= 2 * sum(map(len, known)) + 3 * context_length, "what the overlap costs is bounded"


def halves(span: Span) -> tuple[str, str]:
    return span.text[: span.lead], span.text[span.lead :]


def test_the_score_is_the_mean_of_each_tokens_bits_given_what_its_window_holds_before_it(pydoc: Opener) -> None:
    corpus, length = pydoc(), 10
    settings = config(
        context_length=length, eval_iters=1, num_layers=1, d_model=16, d_ff=32, num_heads=2, vocab_size=256, dropout=0.0
    )
    torch.manual_seed(1)
    model = Transformer(settings)
    (span,) = corpus.split.spans(1)
    ids = np.frombuffer(span.text.encode(), np.uint8).astype(np.int64)
    lead = len(span.text[: span.lead].encode())
    double, bits = copy.deepcopy(model).double().eval(), 0.0
    with torch.no_grad():
        for token in range(lead, len(ids)):
            # Windows of 10 begin 5 apart, so that 6 to 10 tokens are before each; the last window ends with the span.
            ends = min(len(ids), lead + 5 * ((token - lead) // 5 + 1))
            before = torch.from_numpy(ids[ends - 1 - length : token])
            logits = double(Batch(before[None], before[None], before[None])).logits_BTV[0, -1]
            bits -= float(logits.log_softmax(-1)[ids[token]]) / math.log(2)
    metrics = evaluate(model, held_out_batches(corpus, settings), settings, "val_bpb")
    assert metrics["val_bpb"] == pytest.approx(bits / (len(ids) - lead), rel=1e-6)


@pytest.mark.parametrize("shares", [(3, 1), (1, 5)])
def test_weighted_texts_are_scored_by_their_weights(shares: tuple[int, int], write: Write, tmp_path: Path) -> None:
    paths = [str(write("a.txt", "ab é, " * 6000)), str(write("b.txt", "Zwölf Boxkämpfer! " * 40_000))]
    shape = {"context_length": 16, "num_layers": 1, "d_model": 16, "d_ff": 32, "num_heads": 2, "vocab_size": 256}
    settings = config(**shape, initializer_range=0.5)
    model = Transformer(settings)

    def score(text: object, spans: int) -> dict[str, float]:
        data = DataConfig(text=text, validation=0.25)
        corpus = open_corpus(data, vocab_size=256, architecture="decoder", cache_dir=tmp_path / "cache")
        return evaluate(model, held_out_batches(corpus, settings.model_copy(update={"eval_iters": spans})), settings, "val_bpb")

    weights = [share / sum(shares) for share in shares]
    # As many spans of each as it has of four; what rounding leaves is made up for.
    alone = [score(path, max(1, round(4 * weight)))["val_bpb"] for path, weight in zip(paths, weights, strict=True)]
    assert abs(alone[0] - alone[1]) > 0.05
    right = weights[0] * alone[0] + weights[1] * alone[1]
    found = score(dict(zip(paths, map(float, shares), strict=True)), 4)["val_bpb"]
    assert found == pytest.approx(right, rel=1e-9)


def test_a_weighted_text_too_short_to_be_scored_is_named(write: Write, tmp_path: Path) -> None:
    data = DataConfig(text={str(write("long.txt", "a" * 90_000)): 1.0, str(write("short.txt", "b" * 9000)): 1.0})
    corpus = open_corpus(data, vocab_size=256, architecture="decoder", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match=r"short\.txt: the validation part has 900 bytes and an evaluation needs 2,048"):
        held_out_batches(corpus, config())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_held_out_batches_depend_on_neither_batch_size_nor_seed(architecture: str, pydoc: Opener) -> None:
    corpus = pydoc("bpe", architecture)
    one = held_out_batches(corpus, config(architecture))
    other = held_out_batches(corpus, config(architecture, batch_size=3, seed=99))
    assert len(one) == len(other)
    assert all(map(same, one, other))


def test_an_encoder_is_evaluated_on_the_same_masks_whatever_its_context_and_sentence_loss(pydoc: Opener) -> None:
    corpus = pydoc("bpe", "encoder")

    def measured(**settings: Any) -> tuple[list[int], list[int], int]:
        batches = held_out_batches(corpus, config("encoder", **settings))
        pairs = [(batch.targets_BT[batch.targets_BT != IGNORED], batch) for batch in batches]
        read = torch.cat([batch.inputs_BT[batch.targets_BT != IGNORED] for _, batch in pairs])
        return (
            sorted(torch.cat([targets for targets, _ in pairs]).tolist()),
            sorted(read.tolist()),
            sum(int(batch.bytes_BT.sum()) for batch in batches),
        )

    assert measured() == measured(context_length=17) == measured(context_length=200) == measured(sentence_loss_weight=1.0)
    targets, _, bytes_ = measured()
    assert bytes_ == sum(int(corpus.tokenizer.token_bytes[token]) for token in targets)
    total = sum(len(corpus.tokenizer.encode(text)) for text in corpus.held_out(20))
    assert len(targets) / total == pytest.approx(0.15, abs=0.01)


def test_an_encoder_decoder_is_evaluated_on_every_token_and_every_byte(pydoc: Opener) -> None:
    corpus = pydoc("bpe", "encoder_decoder")
    text_bytes = sum(len(text.encode()) for text in corpus.held_out(20))
    tokens = np.sort(np.concatenate([corpus.tokenizer.encode(text) for text in corpus.held_out(20)]))
    for context_length in (2, 33, 64, 500):
        batches = held_out_batches(corpus, config("encoder_decoder", context_length=context_length))
        targets = torch.cat([batch.targets_BT.flatten() for batch in batches])
        assert np.array_equal(np.sort(targets[targets != IGNORED].numpy()), tokens)
        assert sum(int(batch.bytes_BT.sum()) for batch in batches) == text_bytes


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_padding_is_marked_and_holds_no_target(architecture: str, pydoc: Opener) -> None:
    corpus = pydoc("bpe", architecture)
    pad = corpus.tokenizer.specials["[PAD]"]
    # An encoder's windows overlap instead of being short, unless the context is longer than the span.
    length = 1000 if architecture == "encoder" else 64
    batches = held_out_batches(corpus, config(architecture, context_length=length, max_position_embeddings=length))
    padded = [batch for batch in batches if batch.padding_BT is not None]
    assert padded
    for batch in batches:
        real = batch.inputs_BT != pad
        assert torch.equal(real, batch.padding_BT if batch.padding_BT is not None else torch.ones_like(real))
        if architecture == "encoder":
            assert (batch.targets_BT[~real] == IGNORED).all()
            assert batch.segments_BT is not None
            assert batch.segments_BT.shape == batch.inputs_BT.shape
        else:
            assert batch.decoder_inputs_BT is not None
            assert (batch.targets_BT[:, :-1][batch.decoder_inputs_BT[:, 1:] == pad] == IGNORED).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_micro_batches_are_the_batch_in_parts(architecture: str, pydoc: Opener) -> None:
    settings = config(architecture, **({"sentence_loss_weight": 1.0} if architecture == "encoder" else {}))
    batch = train_batch(pydoc("bytes", architecture), settings, 3)
    for parts in (1, 2, 5, 12, 99):
        pieces = batch.split(parts)
        assert len(pieces) == min(parts, 12)
        assert {len(piece.inputs_BT) for piece in pieces} <= {12 // len(pieces), 12 // len(pieces) + 1}
        for field in dataclasses.fields(Batch):
            whole = getattr(batch, field.name)
            if whole is None:
                assert all(getattr(piece, field.name) is None for piece in pieces)
            else:
                assert torch.equal(torch.cat([getattr(piece, field.name) for piece in pieces]), whole)


def test_moving_a_batch_moves_every_field(pydoc: Opener) -> None:
    batch = train_batch(pydoc("bytes", "encoder"), config("encoder", sentence_loss_weight=1.0), 0)
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in vars(moved).values() if tensor is not None} == {"meta"}
    assert {name for name, tensor in vars(moved).items() if tensor is None} == {
        name for name, tensor in vars(batch).items() if tensor is None
    }


def test_a_context_too_long_for_the_text_is_refused(write: Write, tmp_path: Path) -> None:
    data = DataConfig(text=str(write("t.txt", "x" * 100)), validation=0.5)
    corpus = open_corpus(data, vocab_size=2, architecture="decoder", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match="50 tokens and a sequence needs 65"):
        train_batch(corpus, config(), 0)


def test_a_text_of_one_window_can_be_trained_on(write: Write, tmp_path: Path) -> None:
    data = DataConfig(text=str(write("t.txt", "x" * 65)), validation=str(write("v.txt", "y")))
    corpus = open_corpus(data, vocab_size=2, architecture="decoder", cache_dir=tmp_path / "cache")
    assert (train_batch(corpus, config(), 123).targets_BT == ord("x")).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_prefetcher_gives_the_same_batches_and_ends(architecture: str, pydoc: Opener) -> None:
    corpus, settings = pydoc("bpe", architecture), config(architecture)
    with Prefetcher(corpus, settings, first=3, stop=20) as prefetched:
        batches = list(prefetched)
    assert len(batches) == 17
    assert all(same(batch, train_batch(corpus, settings, 3 + place)) for place, batch in enumerate(batches))
    assert "prefetcher" not in {thread.name for thread in threading.enumerate()}


def test_a_prefetcher_closed_early_leaves_no_thread(pydoc: Opener) -> None:
    for taken in (0, 1, 5):
        prefetched = Prefetcher(pydoc(), config(), first=0, stop=10**9)
        for _ in range(taken):
            next(prefetched)
        prefetched.close()
        prefetched.close()
        assert "prefetcher" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(StopIteration):
            next(prefetched)


def test_an_error_while_preparing_is_raised_where_its_batch_would_come(write: Write, tmp_path: Path) -> None:
    data = DataConfig(text=str(write("t.txt", "x" * 100)), validation=0.5)
    corpus = open_corpus(data, vocab_size=2, architecture="decoder", cache_dir=tmp_path / "cache")
    with Prefetcher(corpus, config(), first=0, stop=5) as prefetched, pytest.raises(DataError, match="50 tokens"):
        next(prefetched)
    assert "prefetcher" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_prefetcher_copies_to_the_gpu(pydoc: Opener) -> None:
    corpus, settings = pydoc(), config()
    with Prefetcher(corpus, settings, first=0, stop=4, device="cuda") as prefetched:
        for place, batch in enumerate(prefetched):
            assert batch.inputs_BT.is_cuda
            assert same(batch.to("cpu"), train_batch(corpus, settings, place))


def test_an_encoder_may_have_a_vocabulary_of_few_characters(write: Write, tmp_path: Path) -> None:
    data = DataConfig(text=str(write("t.txt", "ab " * 4000)), tokenizer="chars")
    corpus = open_corpus(data, vocab_size=260, architecture="encoder", cache_dir=tmp_path / "cache")
    batch = train_batch(corpus, config("encoder"), 0)
    assert (batch.bytes_BT[batch.targets_BT == IGNORED] == 0).all()
    assert (batch.bytes_BT[batch.targets_BT != IGNORED] == 1).all()
