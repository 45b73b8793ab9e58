"""The text that a finished run leaves, and the measure of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpsearch.model.transformer import Transformer
from hpsearch.text import BLANKS, printable
from hpsearch.training.sample import prompt_from, sample_divergence, write_sample


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
def test_a_sample_is_the_same_every_time_and_printable(runs: Any, tmp_path: Path, architecture: str) -> None:
    config = runs.config(architecture, max_new_tokens=100, num_samples=2)
    model, corpus = Transformer(config), runs.corpora(architecture)
    text = write_sample(model, corpus, config, tmp_path)
    assert text == write_sample(model, corpus, config, tmp_path) == printable(text, keep=BLANKS)
    assert (tmp_path / "sample.txt").read_text("utf-8").startswith(f"{text}\n--------\n")


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
@pytest.mark.parametrize("context_length", [8, 16, 512])
def test_prompts_are_held_out_text_and_fit_the_model(runs: Any, architecture: str, context_length: int) -> None:
    config = runs.config(architecture, context_length=context_length)
    corpus = runs.corpora(architecture)
    held_out = corpus.held_out(1)[0]
    prompt = prompt_from(held_out, Transformer(config), corpus)
    assert held_out.startswith(prompt.split("<mask>")[0])
    assert len(prompt.replace("<mask>", "x")) <= max(context_length // 2, 1)
    assert ("<mask>" in prompt) == (architecture != "decoder")


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_divergence_depends_on_the_sampling_and_not_on_the_day(runs: Any, architecture: str) -> None:
    corpus = runs.corpora(architecture)
    found = []
    for temperature in (1.0, 1.0, 0.0):
        config = runs.config(architecture, temperature=temperature, max_new_tokens=100, context_length=32)
        found.append(sample_divergence(Transformer(config), corpus, config))
    assert found[0] == found[1] != found[2]
    assert all(0 < value <= 1 for value in found)
