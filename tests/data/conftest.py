from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpsearch.config import DataConfig
from hpsearch.data.corpus import Corpus, open_corpus

Opener = Callable[..., Corpus]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the tests that only read what ships with Python: BPE is trained once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pydoc(shared_cache: Path) -> Opener:
    """Opens the pydoc corpus for a tokenizer and an architecture."""

    def opened(tokenizer: str = "bytes", architecture: str = "decoder", vocab_size: int = 600, **data: Any) -> Corpus:
        config = DataConfig(text="pydoc", tokenizer=tokenizer, **data)
        return open_corpus(config, vocab_size=vocab_size, architecture=architecture, cache_dir=shared_cache)

    return opened


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of text (or of bytes) below the test's folder."""

    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written
