"""What a finished model writes: the sample that is shown, and the samples that are measured."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from hpsearch.config import TrialConfig
from hpsearch.data.corpus import HELD_OUT_BYTES, Corpus
from hpsearch.files import write_atomically
from hpsearch.model.transformer import Transformer
from hpsearch.text import BLANKS, printable
from hpsearch.training.divergence import ngram_divergence
from hpsearch.training.generation import MASK, Sampling, context_limit, continuations, generate

FILE = "sample.txt"
PROMPT_CHARACTERS = 60
"""Longest prompt."""
SEPARATOR = "\n" + 8 * "-" + "\n"


def write_sample(model: Transformer, corpus: Corpus, config: TrialConfig, folder: Path) -> str:
    """Let the model go on from the start of the held-out text; the same every time.

    `sample.txt` gets all num_samples texts. Returns the first, without control characters.
    """
    prompt = prompt_from(corpus.held_out(1)[0], model, corpus)
    generated = generate(model, corpus.tokenizer, prompt, settings=Sampling.of(config), seed=config.seed)
    # A model of bytes may say any character, to a terminal or to a database.
    texts = [printable(text, keep=BLANKS) for text in generated]
    write_atomically(folder / FILE, SEPARATOR.join(texts) + "\n")
    return texts[0]


def sample_divergence(model: Transformer, corpus: Corpus, config: TrialConfig) -> float:
    """The objective generation_divergence: sampled text against all held-out text.

    As many samples as make about HELD_OUT_BYTES bytes, prompted with the starts of held-out spans, which do not count
    themselves (an encoder_decoder's do: it rewrites them).
    """
    texts = corpus.held_out(config.eval_iters)
    if config.architecture == "encoder_decoder":
        sample_bytes = float(PROMPT_CHARACTERS)
    else:
        # The training text's mean; one over the vocabulary would count rare long tokens as often as short ones.
        sample_bytes = config.max_new_tokens * corpus.train_bytes / corpus.train_tokens
    samples = math.ceil(HELD_OUT_BYTES / sample_bytes)
    prompts = [prompt_from(texts[index % len(texts)], model, corpus) for index in range(samples)]
    settings = dataclasses.replace(Sampling.of(config), num_samples=1)
    return ngram_divergence(continuations(model, corpus.tokenizer, prompts, settings, config.seed), texts)


def prompt_from(text: str, model: Transformer, corpus: Corpus) -> str:
    """The start of `text`, at most half of what the model reads at once; with a `<mask>` in its middle for those that fill."""
    length = PROMPT_CHARACTERS
    while length > 1 and len(corpus.tokenizer.encode(text[:length])) > context_limit(model) // 2:
        length //= 2
    text = text[:length]
    if model.config.architecture == "decoder":
        return text
    middle = len(text) // 2
    return f"{text[:middle]}{MASK}{text[middle + 1 :]}"
