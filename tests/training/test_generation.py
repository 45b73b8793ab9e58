"""Sampling, the key/value cache, infilling and filling of masks, on small models with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hpsearch.config import TrialConfig
from hpsearch.data.tokenizer import SPECIALS, ByteTokenizer, CharTokenizer, Tokenizer
from hpsearch.errors import BadInput
from hpsearch.model.transformer import Transformer
from hpsearch.training.generation import Sampling, continuations, generate, make_pick, next_tokens, truncate

GREEDY = Sampling(temperature=0, max_new_tokens=40)
DRAWN = Sampling(max_new_tokens=40)


def made(architecture: str = "decoder", **settings: Any) -> tuple[Transformer, Tokenizer]:
    tokenizer = ByteTokenizer(SPECIALS[architecture])
    config = TrialConfig.build(
        {
            "architecture": architecture,
            "vocab_size": tokenizer.vocab_size,
            "d_model": 32,
            "d_ff": 64,
            "num_heads": 4,
            "num_layers": 2,
            "context_length": 24,
            "max_iters": 1,
            # Far from uniform, so that a wrong key or position changes what is drawn.
            "initializer_range": 0.3,
            **settings,
        }
    )
    return Transformer(config), tokenizer


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("position", ["learned", "rotary", "sinusoidal"])
@pytest.mark.parametrize("prompt", ["", "ab", "a prompt that is longer than the context of the model"])
def test_the_cache_changes_no_text(position: str, prompt: str, settings: Sampling) -> None:
    model, tokenizer = made(position=position, num_groups=2)
    with_cache = generate(model, tokenizer, prompt, settings=settings, seed=3)
    assert with_cache == generate(model, tokenizer, prompt, settings=settings, seed=3, use_cache=False)


@pytest.mark.parametrize("settings", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_the_cache_changes_no_infilling(settings: Sampling) -> None:
    model, tokenizer = made("encoder_decoder")
    with_cache = generate(model, tokenizer, "some <mask> here", settings=settings, seed=3)
    assert with_cache == generate(model, tokenizer, "some <mask> here", settings=settings, seed=3, use_cache=False)


def test_logits_with_the_cache_equal_a_whole_forward_pass() -> None:
    model, _ = made()
    prompt_BT = torch.randint(256, (3, 5), generator=torch.Generator().manual_seed(1))
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for use_cache in (True, False):

        def pick(logits_BV: torch.Tensor, use_cache: bool = use_cache) -> torch.Tensor:
            seen[use_cache].append(logits_BV)
            return logits_BV.argmax(-1)

        list(next_tokens(model.eval(), prompt_BT, 40, pick, use_cache=use_cache))
    torch.testing.assert_close(torch.stack(seen[True]), torch.stack(seen[False]), rtol=1e-4, atol=1e-4)


def test_greedy_is_the_likeliest_token_whatever_the_seed() -> None:
    model, tokenizer = made()
    texts = {generate(model, tokenizer, "start", settings=GREEDY, seed=seed)[0] for seed in range(3)}
    assert len(texts) == 1


def test_the_seed_decides_what_is_drawn() -> None:
    model, tokenizer = made()
    first, again, other = (generate(model, tokenizer, "start", settings=DRAWN, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again != other


def test_generation_leaves_the_global_generator_and_the_mode_alone() -> None:
    model, tokenizer = made()
    model.train()
    before = torch.get_rng_state()
    generate(model, tokenizer, "start", settings=DRAWN)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_dropout_is_off_while_sampling() -> None:
    model, tokenizer = made(dropout=0.5)
    model.train()
    assert generate(model, tokenizer, "a", settings=GREEDY) == generate(model, tokenizer, "a", settings=GREEDY)


def test_every_sample_starts_with_the_prompt_and_has_its_length() -> None:
    chars = CharTokenizer("\nabcdefgh")
    model, _ = made(vocab_size=chars.vocab_size)
    texts = generate(model, chars, "abc", settings=Sampling(num_samples=3, max_new_tokens=50))
    assert len(texts) == 3
    assert all(text.startswith("abc") and len(text) == 53 for text in texts)
    assert len(set(texts)) == 3
    assert all(len(text) == 50 for text in generate(model, chars, "", settings=Sampling(max_new_tokens=50)))


def test_max_new_tokens_and_num_samples_come_from_the_config() -> None:
    chars = CharTokenizer("\nabcdefgh")
    model, _ = made(vocab_size=chars.vocab_size, num_samples=2, max_new_tokens=7)
    assert [len(text) for text in generate(model, chars, "ab")] == [9, 9]


def test_low_temperature_sharpens_and_high_temperature_flattens() -> None:
    logits_BV = torch.tensor([[2.0, 1.0, 0.0]]).expand(20_000, -1)
    tokenizer = CharTokenizer("ab")
    shares = []
    for temperature in (0.5, 1.0, 2.0):
        pick = make_pick(Sampling(temperature), tokenizer, torch.Generator().manual_seed(0))
        drawn = torch.bincount(pick(logits_BV), minlength=3) / len(logits_BV)
        torch.testing.assert_close(drawn, (logits_BV[0] / temperature).softmax(-1), atol=0.015, rtol=0)
        shares.append(drawn[0].item())
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, None, [0, 1, 2, 3]),
        (1, None, [2]),
        (2, None, [0, 2]),
        (9, None, [0, 1, 2, 3]),
        (None, 0.5, [2]),  # 0.5 reaches it exactly
        (None, 0.51, [0, 2]),
        (None, 0.81, [0, 1, 2]),
        (None, 1.0, [0, 1, 2, 3]),
        (None, 1e-9, [2]),
        (2, 0.6, [2]),  # of the two kept by top_k, 0.5 / 0.8 alone reaches 0.6
    ],
)
def test_truncation_keeps_exactly_these(top_k: int | None, top_p: float | None, kept: list[int]) -> None:
    logits_BV = torch.tensor([[0.3, 0.15, 0.5, 0.05]], dtype=torch.float64).log()
    assert truncate(logits_BV, top_k, top_p)[0].isfinite().nonzero()[:, 0].tolist() == kept


def test_top_k_of_one_is_greedy() -> None:
    model, tokenizer = made()
    greedy = generate(model, tokenizer, "start", settings=GREEDY)
    assert generate(model, tokenizer, "start", settings=Sampling(top_k=1, max_new_tokens=40), seed=5) == greedy


def test_pieces_told_on_the_way_make_the_text() -> None:
    model, tokenizer = made()
    pieces: dict[int, str] = {0: "", 1: ""}

    def on_token(index: int, piece: str) -> None:
        pieces[index] += piece

    texts = generate(model, tokenizer, "x", settings=Sampling(num_samples=2, max_new_tokens=40), on_token=on_token)
    assert all(pieces[index] for index in pieces)
    assert [f"x{pieces[index]}" for index in range(2)] == texts


def test_characters_of_several_bytes_are_told_whole() -> None:
    class Scripted(Transformer):
        """Says a text, byte by byte, whatever it reads."""

        said = "é漢😀.".encode()

        def prefill(self, tokens_BT: torch.Tensor, cache: Any) -> torch.Tensor:
            at = cache.length
            cache.length += 1
            return torch.nn.functional.one_hot(torch.tensor([self.said[at % len(self.said)]]), 256).float()

    model, tokenizer = made()
    scripted = Scripted(model.config)
    pieces: list[str] = []
    settings = Sampling(temperature=0, max_new_tokens=len(Scripted.said))
    generate(scripted, tokenizer, "a", settings=settings, on_token=lambda _, piece: pieces.append(piece))
    assert pieces == ["é", "漢", "😀", "."]


def test_an_encoder_fills_masks_and_nothing_else() -> None:
    model, tokenizer = made("encoder")
    for settings in (Sampling(temperature=0, num_samples=2), Sampling(num_samples=2)):
        for text in generate(model, tokenizer, "ab<mask>cd<mask>", settings=settings):
            filled = tokenizer.encode(text)
            # A filled byte need not be UTF-8 alone; the letters around it stay.
            assert text.startswith("ab")
            assert "cd" in text
            assert len(filled) >= 6
    assert generate(model, tokenizer, "abc", settings=Sampling(temperature=0))[0].startswith("abc")


def test_a_prompt_too_long_for_an_encoder_is_refused_with_both_numbers() -> None:
    model, tokenizer = made("encoder")
    with pytest.raises(BadInput, match="has 44 tokens and the model reads at most 24"):
        generate(model, tokenizer, "x" * 40)


def test_special_tokens_are_never_drawn() -> None:
    tokenizer = ByteTokenizer(SPECIALS["encoder_decoder"])
    end = tokenizer.specials["[EOS]"]
    logits_BV = torch.zeros(5000, tokenizer.vocab_size)
    logits_BV[:, 256:] = 50.0
    drawn = make_pick(DRAWN, tokenizer, torch.Generator().manual_seed(0))(logits_BV)
    assert drawn.max() < 256
    assert set(make_pick(DRAWN, tokenizer, torch.Generator().manual_seed(0), end)(logits_BV).tolist()) == {end}


def test_continuations_are_one_batch_without_their_prompts() -> None:
    chars = CharTokenizer("\nabcdefgh")
    model, _ = made(vocab_size=chars.vocab_size)
    texts = continuations(model, chars, ["abc", "defgh", "hhhh"], Sampling(max_new_tokens=30), seed=0)
    assert [len(text) for text in texts] == [30, 30, 30]
    assert texts == continuations(model, chars, ["abc", "defgh", "hhhh"], Sampling(max_new_tokens=30), seed=0)
