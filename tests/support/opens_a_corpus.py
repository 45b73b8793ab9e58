"""What a process of its own does in a test: spawned processes import from here, whatever the tests were started with."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from hpsearch.config import DataConfig
from hpsearch.data.corpus import open_corpus


def open_and_describe(path: str, cache: str, results: multiprocessing.Queue[str]) -> None:
    corpus = open_corpus(
        DataConfig(text=(path, "pydoc"), tokenizer="bpe"), vocab_size=320, architecture="decoder", cache_dir=Path(cache)
    )
    results.put(f"{corpus.fingerprint} {corpus.train_tokens} {int(corpus.train[0].tokens.sum())}")
