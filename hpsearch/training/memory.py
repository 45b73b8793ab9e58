"""How the end of memory or of the disk shows. No torch here: a slot reads this too."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.errors import ConfigError, StoppedForNow
from hpsearch.files import trouble

if TYPE_CHECKING:
    from hpsearch.config import TrialConfig

SIGNS = (
    "out of memory",  # CUDA, and its driver
    "can't allocate memory",  # torch's allocator on the CPU
    "not enough memory",  # the same on Windows
    "Unable to allocate",  # numpy
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
SIZE = r"(\d+(?:\.\d+)?) ?(bytes|B|[KMGTPE]i?B)"
ASKED = re.compile(rf"(?:tried to allocate|Unable to allocate) {SIZE}", re.IGNORECASE)
FREE = re.compile(rf"of which {SIZE} is free", re.IGNORECASE)


class OutOfMemory(MemoryError):
    """A run needed more memory than there was.

    shortfall_bytes: what was asked for beyond what was free, as far as the error says; at least 1.
    micro_batches: parts that its batches were computed in; more parts need less memory.
    """

    def __init__(self, message: str, shortfall_bytes: int, micro_batches: int) -> None:
        super().__init__(message)
        self.shortfall_bytes, self.micro_batches = shortfall_bytes, micro_batches


@contextlib.contextmanager
def disk_stops(what: Path, folder: Path) -> Iterator[None]:
    """Turn a full disk, and one that is gone, into StoppedForNow, which says what could not be written and what to do.

    folder: where files are written meanwhile.
    """
    try:
        yield
    except OSError as error:
        told = trouble(error, folder)
        if not told:
            raise
        named = "" if error.filename else f"{what}: "
        raise StoppedForNow(f"{named}{told}") from error


def machine_memory() -> int:
    """Bytes of this machine in all, whoever has them now."""
    import psutil

    return int(psutil.virtual_memory().total) + int(psutil.swap_memory().total)


def require_memory(config: TrialConfig, room: int) -> None:
    """Raises ConfigError where `room` bytes are fewer than a run has all at once, however small its micro-batches are.

    Only what is certain counts, so that nothing is refused that could be trained: weights and gradients in fp32, inputs and
    targets of a batch in int64.
    """
    from hpsearch.model.counting import count  # Not above: slots of other trainers start without it.

    parameters = count(config).num_parameters
    tokens = config.batch_size * config.context_length
    model, batch = 8 * parameters, 16 * tokens
    if model + batch <= room:
        return
    if model > batch:
        name, what = "d_model", f"a model of {parameters:,} parameters; make d_model, d_ff, num_layers or vocab_size smaller"
    else:
        name, what = "batch_size", f"a batch of {tokens:,} tokens; make batch_size or context_length smaller"
    raise ConfigError(name, f"memory: {room / 1e9:,.0f} GB here, and at least {(model + batch) / 1e9:,.0f} GB for {what}")


def shortfall(error: BaseException) -> int | None:
    """Bytes that were missing, at least 1; None for an error that is not about memory."""
    if isinstance(error, OutOfMemory):
        return error.shortfall_bytes
    text = str(error)
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    short = short or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    short = short or (isinstance(error, RuntimeError) and any(sign in text for sign in SIGNS))
    if not short:
        return None
    asked, free = (_bytes(pattern.search(text)) for pattern in (ASKED, FREE))
    return max(1, asked - free)


@contextlib.contextmanager
def short_of_memory(micro_batches: Callable[[], int]) -> Iterator[None]:
    """Turn what torch and the system raise when memory ends into OutOfMemory. micro_batches: the parts at that moment."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        missing = shortfall(error)
        if missing is None:
            raise
        text = (str(error).strip().splitlines() or ["no more memory"])[0]
        raise OutOfMemory(text, missing, micro_batches()) from error


def _bytes(found: re.Match[str] | None) -> int:
    if found is None:
        return 0
    # torch and numpy mean powers of 1024, whether or not they write the i.
    power = "bkmgtpe".index(found[2][0].lower())
    return round(float(found[1]) * 1024.0**power)
