"""What Weights & Biases wrote offline, read as its own records: the log format of LevelDB around its protobuf messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK, FRAME = 7, 32768, 7
FULL, LAST = 1, 4


@dataclass
class WandbRun:
    """One run of one process; a trial that was interrupted has several, with one id."""

    id: str = ""
    name: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    """None: it was not finished."""


def wandb_runs(folder: Path) -> list[WandbRun]:
    """All runs below a folder, in the order of their start."""
    return [_read(path) for path in sorted(folder.glob("offline-run-*/run-*.wandb"))]


def _read(path: Path) -> WandbRun:
    run = WandbRun()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                run.id, run.name, run.project = record.run.run_id, record.run.display_name, record.run.project
                run.config = _values(record.run.config.update)
            case "history":
                run.history.append(_values(record.history.item))
            case "summary":
                run.summary |= _values(record.summary.update)
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    assert data.startswith(b":W&B")
    at, message = HEADER, b""
    while at + FRAME <= len(data):
        if (left := BLOCK - at % BLOCK) < FRAME:  # No frame begins there.
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        message += data[at + FRAME : at + FRAME + length]
        at += FRAME + length
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
