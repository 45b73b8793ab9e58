"""Exported folders: what the Auto classes of transformers load is our model, our tokenizer and our validation loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.batches import Batch, held_out_batches
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.data.tokenizer import SPECIALS, BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from hpsearch.errors import BadInput, ConfigError
from hpsearch.export.model_card import Subject, model_card
from hpsearch.model.huggingface import auto_class, hf_tokenizer, write_folder
from hpsearch.model.transformer import Transformer
from hpsearch.training.loop import evaluate

Tiny = Callable[..., TrialConfig]

TEXT = "Grüße, 世界! The café costs 3 €.\n\tA naïve line 🙂 of text, \u00a0and e\u0301 and \ufffd again.\r\n" * 400
TEXT += "".join(map(chr, range(0x400, 0x480))) * 20
LLAMA = {"position": "rotary", "norm": "rmsnorm", "hidden_act": "swiglu", "num_groups": 2}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-untied": {"tie_embeddings": False},
    "llama": LLAMA,
    "bert": {"architecture": "encoder"},
    "bert-with-order": {"architecture": "encoder", "sentence_loss_weight": 0.5},
    "bart": {"architecture": "encoder_decoder"},
    "bart-untied": {"architecture": "encoder_decoder", "tie_embeddings": False},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def corpus_of(text: Path, tokenizer: str, architecture: str) -> Corpus:
    data = DataConfig(text=str(text), tokenizer=tokenizer)
    return open_corpus(data, vocab_size=300, architecture=architecture, cache_dir=text.parent)


def random_model(config: TrialConfig) -> Transformer:
    """Every parameter random, so that no bias of 0 hides a mistake."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


def logits_of(found: Any) -> torch.Tensor:
    """Those over the vocabulary: of two heads, the first one's."""
    logits: torch.Tensor = found.prediction_logits if "prediction_logits" in found else found.logits
    return logits


@torch.inference_mode()
def their_loss(theirs: Any, batches: list[Batch]) -> float:
    """Mean nats per counted token of the batches, by the logits of transformers."""
    total, count = 0.0, 0
    for batch in batches:
        given: dict[str, Any] = {"input_ids": batch.inputs_BT}
        if batch.padding_BT is not None:
            given["attention_mask"] = batch.padding_BT.long()
        if batch.segments_BT is not None:
            given["token_type_ids"] = batch.segments_BT
        if batch.decoder_inputs_BT is not None:
            given["decoder_input_ids"] = batch.decoder_inputs_BT
        logits = logits_of(theirs(**given))
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum")
        total += float(losses)
        count += int((batch.targets_BT != -100).sum())
    return total / count


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_with_the_auto_classes_and_has_our_logits_and_our_loss(
    kind: str, tokenizer: str, tiny: Tiny, text: Path, tmp_path: Path
) -> None:
    changes = KINDS[kind]
    corpus = corpus_of(text, tokenizer, str(changes.get("architecture", "decoder")))
    config = tiny(**changes, vocab_size=corpus.tokenizer.vocab_size, eval_iters=1)
    model = random_model(config)
    write_folder(model, corpus.tokenizer, tmp_path, "# A card\n")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}

    theirs = getattr(transformers, auto_class(config)).from_pretrained(tmp_path).eval()
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) <= config.vocab_size
    batches = held_out_batches(corpus, config)
    first = batches[0]
    with torch.inference_mode():
        ours = model(first).logits_BTV
        arguments = {"input_ids": first.inputs_BT}
        if first.segments_BT is not None:
            arguments["token_type_ids"] = first.segments_BT
        if first.decoder_inputs_BT is not None:
            arguments["decoder_input_ids"] = first.decoder_inputs_BT
        torch.testing.assert_close(logits_of(theirs(**arguments)), ours, atol=1e-4, rtol=0)
    loss = evaluate(model, batches, config, "val_bpb")["val_loss"]
    assert their_loss(theirs, batches) == pytest.approx(loss, abs=1e-4)
    ids = loaded(TEXT[:200], add_special_tokens=False)["input_ids"]
    assert ids == corpus.tokenizer.encode(TEXT[:200]).tolist()


def all_tokenizers() -> dict[str, Tokenizer]:
    bpe = BpeTokenizer.train([TEXT], 296)
    return {
        f"{kind} of {architecture}": tokenizer
        for architecture, specials in SPECIALS.items()
        for kind, tokenizer in (
            ("bytes", ByteTokenizer(specials)),
            ("chars", CharTokenizer.train([TEXT], specials)),
            ("bpe", BpeTokenizer(bpe, specials, 310)),
        )
    }


TOKENIZERS = all_tokenizers()


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    def wrapped(name: str, tokenizer: Tokenizer) -> Any:
        settings = {"max_iters": 1, "architecture": name.rpartition(" ")[2], "vocab_size": tokenizer.vocab_size}
        return hf_tokenizer(tokenizer, TrialConfig.build(settings))

    return {name: wrapped(name, tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.one_of(st.text(max_size=60), st.text(alphabet=sorted(set(TEXT)), max_size=60)))
def test_any_text_has_the_same_ids_and_comes_back_the_same(name: str, theirs: dict[str, Any], text: str) -> None:
    tokenizer, other = TOKENIZERS[name], theirs[name]
    if any(special in text for special in tokenizer.specials):
        return
    text = text.encode(errors="replace").decode()
    ids = tokenizer.encode(text).tolist()
    assert other(text, add_special_tokens=False)["input_ids"] == ids
    assert other.decode(ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_have_our_ids_and_their_parts(name: str, theirs: dict[str, Any]) -> None:
    tokenizer, other = TOKENIZERS[name], theirs[name]
    for special, index in tokenizer.specials.items():
        assert other.convert_tokens_to_ids(special) == index
    if "[MASK]" in tokenizer.specials:
        assert other.mask_token_id == tokenizer.specials["[MASK]"]
        assert other("a[MASK]b", add_special_tokens=False)["input_ids"][1] == other.mask_token_id
    every = np.arange(tokenizer.ordinary + len(tokenizer.specials))
    assert other.decode(every.tolist(), skip_special_tokens=True) == tokenizer.decode(every)


def test_an_encoders_pair_is_put_together_as_in_training(theirs: dict[str, Any]) -> None:
    tokenizer = TOKENIZERS["chars of encoder"]
    found = theirs["chars of encoder"]("The ", "café")
    cls, sep = tokenizer.specials["[CLS]"], tokenizer.specials["[SEP]"]
    halves = [tokenizer.encode(part).tolist() for part in ("The ", "café")]
    assert found["input_ids"] == [cls, *halves[0], sep, *halves[1], sep]
    assert found["token_type_ids"] == [0] * 6 + [1] * 5


def test_a_loaded_decoder_generates(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(vocab_size=256)
    write_folder(random_model(config), ByteTokenizer(), tmp_path, "")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    inputs = tokenizer("ab", return_tensors="pt")
    told = model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert told.shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("norm", {"norm": "rmsnorm"}), ("embedding_dim", {"embedding_dim": 8}), ("num_groups", {"num_groups": 2})],
)
def test_what_cannot_be_expressed_is_refused_before_anything_is_written(
    name: str, changes: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny(**changes, vocab_size=256)
    with pytest.raises(ConfigError, match=f"^{name}: "):
        write_folder(Transformer(config), ByteTokenizer(), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_form_there_is_refused_by_its_kind(tiny: Tiny) -> None:
    other = object.__new__(type("Other", (), {"kind": "words", "specials": {}}))
    with pytest.raises(BadInput, match="words cannot be expressed"):
        hf_tokenizer(other, tiny())


def test_a_card_says_what_a_reader_needs_and_nothing_breaks_out_of_it(tiny: Tiny) -> None:
    subject = Subject(
        tiny(),
        "AutoModelForCausalLM",
        {"text": "a `file`\n# of mine", "tokenizer": "bytes"},
        "41be" * 16,
        "Trial 3 of lm",
        ["Score: val_bpb 2.5 bits/byte"],
        {"torch": "2.13.0"},
    )
    card = model_card(subject)
    for part in ("library_name: transformers", "pipeline_tag: text-generation", "Trial 3 of lm", "2.5 bits/byte", "41be41be"):
        assert part in card
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "learning_rate: " in card
    assert "\n# of mine" not in card


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_has_our_logits_and_none_ends_a_text(kind: str, tiny: Tiny, text: Path, tmp_path: Path) -> None:
    """Libraries give ids that are not said a meaning of their own: a row of zeros, or the end of what is generated."""
    changes = KINDS[kind]
    corpus = corpus_of(text, "bytes", str(changes.get("architecture", "decoder")))
    config = tiny(**changes, vocab_size=corpus.tokenizer.vocab_size)
    model = random_model(config)
    write_folder(model, corpus.tokenizer, tmp_path, "# A card\n")
    theirs = getattr(transformers, auto_class(config)).from_pretrained(tmp_path).eval()
    ids = torch.arange(config.vocab_size).unsqueeze(1)  # Each token alone.
    given: dict[str, Any] = {"decoder_input_ids": ids} if config.architecture == "encoder_decoder" else {}
    batch = Batch(ids, ids, ids, decoder_inputs_BT=given.get("decoder_input_ids"))
    if config.architecture == "encoder":
        given["token_type_ids"] = torch.zeros_like(ids)
        batch = dataclasses.replace(batch, segments_BT=given["token_type_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(theirs(input_ids=ids, **given)), model(batch).logits_BTV, atol=1e-4, rtol=0)
    roles = {value for name, value in theirs.config.to_dict().items() if name.endswith("_token_id")}
    assert roles <= {None, *corpus.tokenizer.specials.values()}
    if config.architecture == "decoder":
        torch.manual_seed(0)
        made = theirs.generate(ids, max_new_tokens=8, do_sample=True, attention_mask=torch.ones_like(ids))
        assert made.shape == (config.vocab_size, 9)

        assert theirs.generation_config.eos_token_id is None


def test_the_class_of_a_card_has_the_head_for_the_order_of_sentences(tiny: Tiny, text: Path, tmp_path: Path) -> None:
    corpus = corpus_of(text, "bytes", "encoder")
    config = tiny(**KINDS["bert-with-order"], vocab_size=corpus.tokenizer.vocab_size)
    model = random_model(config)
    write_folder(model, corpus.tokenizer, tmp_path, "# A card\n")
    name = auto_class(config)
    assert f"model = {name}.from_pretrained" in model_card(Subject(config, name, {}, "", "A model"))
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert torch.equal(theirs.cls.seq_relationship.weight, model.order_head.classifier.weight)
