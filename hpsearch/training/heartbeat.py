"""A run's sign of life between its events, and the way on which an unasked answer reaches it there.

Events come at log_interval, which may be minutes of slow steps. What watches over a run (a slot, `hpsearch train`) listens here
to tell a slow run from a hung one, and to pause it between any two steps. One run at a time in a process. No torch here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from hpsearch.training.events import Answer

Listener = Callable[[], Answer]


def _nobody() -> Answer:
    return Answer.CONTINUE


_listener: Listener = _nobody
_asked: Listener = _nobody


def beat() -> Answer:
    """Something was done: a step, a batch of an evaluation, a generated token. PAUSE or STOP once that was asked for."""
    return _listener()


def asked() -> Answer:
    """The same answer without a sign of life, for whoever waits for someone else's."""
    return _asked()


@contextlib.contextmanager
def listening(listener: Listener, asked: Listener = _nobody) -> Iterator[None]:
    """Have `listener` called at each beat. It is called often and must cost little. asked: answers without a beat."""
    global _listener, _asked
    before, _listener, _asked = (_listener, _asked), listener, asked
    try:
        yield
    finally:
        _listener, _asked = before
