"""A lease that is renewed while its coordinator is busy with something slow: measuring, tokenising a text, a sampler's fit."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator

from hpsearch.errors import BadInput, HpsearchError, StudyGone, StudyOwned
from hpsearch.storage.records import Owner
from hpsearch.storage.store import Store


def _lease_s() -> float:
    word = os.environ.get("HPSEARCH_LEASE_S", "30")
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 5 <= seconds <= 3600:
        raise BadInput(f"HPSEARCH_LEASE_S={word}: give a number of seconds from 5 to 3600, the same on all machines")
    return seconds


LEASE_S = _lease_s()
"""A coordinator that has not renewed its lease for this long may be taken over by another one. `HPSEARCH_LEASE_S`."""

RENEW_S = LEASE_S / 5
SILENCE_S = LEASE_S - RENEW_S
"""A coordinator that was frozen for so long may lose its lease: its slots end, as another one may begin with their trials."""


@contextlib.contextmanager
def lease_kept(store: Store, study_id: int, owner: Owner, every_s: float = RENEW_S) -> Iterator[None]:
    """Renew `owner`'s lease from a thread. A lease that is lost stays lost: the coordinator's next write finds out."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(every_s):
            try:
                store.renew(study_id, owner, LEASE_S)
            except (StudyOwned, StudyGone):
                return
            except HpsearchError:
                continue  # The database is away for a moment.

    thread = threading.Thread(target=renew, daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
