"""From the word on the command line to the file of a space."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path

import hpsearch
from hpsearch.errors import BadInput, did_you_mean

_FOLDERS = (".", "spaces", "search_spaces")
MOST = 20
"""Files that are looked at, and named."""


def bundled_spaces() -> dict[str, Path]:
    """The spaces that ship with the program, by name."""
    package = Path(hpsearch.__file__).parent
    inside = package / "search_spaces"
    folder = inside if inside.is_dir() else package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def spaces_nearby() -> list[Path]:
    """Files here that look like search spaces: YAML with `parameters:` at its top."""
    found: list[Path] = []
    for folder in _FOLDERS:
        files = sorted(path for suffix in ("*.yaml", "*.yml") for path in itertools.islice(Path(folder).glob(suffix), MOST))
        for path in files[: MOST - len(found)]:
            with contextlib.suppress(OSError):
                if path.is_file():
                    with path.open("rb") as file:
                        head = file.read(100_000)
                    if re.search(rb"(?m)^parameters[ \t]*:", head):
                        found.append(path)
    return found


def find_space(word: str) -> tuple[Path, bool]:
    """The file of that path if there is one, else the bundled space of that name (`lm`, `lm.yaml`, `spaces/lm.yaml`), and
    whether it is a bundled one. Raises BadInput that names the nearest bundled space."""
    path = Path(word)
    if word and path.exists() and not path.is_dir():  # A pipe too.
        return path, False
    bundled = bundled_spaces()
    if path.suffix in ("", ".yaml", ".yml") and str(path.parent) in _FOLDERS and path.stem in bundled:
        return bundled[path.stem], True
    what = "is a folder, not a search space" if path.is_dir() and word else "no such file, and no such bundled space"
    hint = did_you_mean(path.stem, bundled) or f"; bundled: {', '.join(bundled)}"
    raise BadInput(f"--space {word}: {what}{hint}")
