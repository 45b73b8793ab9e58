"""The structured log of a run: one JSON object a line, by the standard logging module."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpsearch.config import LOG_FILE, TrialConfig
from hpsearch.errors import BadInput
from hpsearch.training.kept import place_in

STANDARD = frozenset(vars(logging.makeLogRecord({})))
"""What every log record has; the rest was given as `extra`."""


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time (UTC), level, run, event, then what was given as `extra`."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run = run

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "run": self.run,
            "event": record.getMessage(),
        }
        line.update((key, _jsonable(value)) for key, value in vars(record).items() if key not in STANDARD)
        return json.dumps(line, ensure_ascii=False, default=str)


class _JsonLines(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A log that cannot be written (disk full) is the caller's problem, not a traceback on the terminal."""
        raise

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            # The buffer of a full disk; the write that filled it was reported already.
            self.stream = None


@contextlib.contextmanager
def open_log(config: TrialConfig, folder: Path, elsewhere: Path | None = None) -> Iterator[logging.Logger]:
    """The log of the run in `folder`, appended to and closed at the end.

    log_file is a place in `folder`, by default `log.jsonl`. elsewhere: what a command line said, which comes first. Lines below
    log_file_level are left out. Raises BadInput where log_file is no place in `folder` or no file, OSError when the file cannot
    be written.
    """
    path = elsewhere or place_in(folder, "log_file", config.log_file or LOG_FILE)
    if elsewhere is None and path.exists() and not path.is_file():
        raise BadInput(f"log_file: {path} is there and no file; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _JsonLines(path, encoding="utf-8", errors="backslashreplace")  # Half a surrogate pair, as JSON writes it.
    handler.setFormatter(JsonFormatter(folder.name))
    # Not from getLogger: that would keep every run of a warm process in the global table.
    logger = logging.Logger("hpsearch.training", level=config.log_file_level.upper())
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        handler.close()


def _jsonable(value: Any) -> Any:
    """NaN and infinity as words: they are no JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return value
