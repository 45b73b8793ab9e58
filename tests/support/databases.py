"""Which databases a test of a fault runs on: the whole matrix takes too long for each change, and runs with `-m soak`."""

from __future__ import annotations

import pytest

_SOAK = pytest.mark.soak


def on(fixture: str, *kinds: str) -> pytest.MarkDecorator:
    """Run on these databases always, and on the others that `fixture` has with `-m soak`."""
    others = [kind for kind in ("sqlite", "postgresql", "mysql") if kind not in kinds]
    if fixture == "storage_url":
        others.remove("mysql")
    return pytest.mark.parametrize(fixture, [*kinds, *(pytest.param(kind, marks=_SOAK) for kind in others)], indirect=True)
