from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("hyper_checks")


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hyper_rows import text

    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(text(), "utf-8")
    return path
