"""A study whose first trial takes long enough to be disturbed, and what it comes to when it is not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cli import Cli
from invariants import count, rows
from tiny import SPACE

STUDY = "steady"
TEXT = (
    SPACE.replace("name: tiny", f"name: {STUDY}")
    .replace("tokens: 7680, evaluations: 4", "tokens: 64000, evaluations: 8")
    .replace("max_save_num: 1", "max_save_num: 2")
)
MEASURED = "rung, iteration, tokens, flops, train_loss, metrics, learning_rate, grad_norm"
"""Of an evaluation: everything but what the clock says."""


def words(trials: int, *more: str) -> tuple[str, ...]:
    """The line that runs it, without pruning. OMP_NUM_THREADS gives its slot one thread."""
    common = ("--device", "cpu", "--slots", "1", "--sampler", "random", "--pruner", "none")
    return ("run", "--space", f"{STUDY}.yaml", "--trials", str(trials), *common, *more)


def written(folder: Path) -> None:
    (folder / f"{STUDY}.yaml").write_text(TEXT)


def curve(url: str, number: int) -> list[dict[str, Any]]:
    """All evaluations of a trial."""
    found = rows(url, f"SELECT {MEASURED} FROM hps_points WHERE trial_number = :number ORDER BY rung", number=number)
    for row in found:
        if isinstance(row["metrics"], str):
            row["metrics"] = json.loads(row["metrics"])
    return found


def saved(url: str, number: int) -> int:
    """Iteration of a trial's newest checkpoint; 0 where there is none."""
    if not count(url, "hps_checkpoints"):
        return 0
    found = rows(url, "SELECT max(iteration) AS newest FROM hps_checkpoints WHERE trial_number = :number", number=number)
    return int(found[0]["newest"] or 0)


def attempts(url: str, number: int) -> list[dict[str, Any]]:
    return rows(url, "SELECT * FROM hps_attempts WHERE trial_number = :number ORDER BY attempt", number=number)


def trial(url: str, number: int) -> dict[str, Any]:
    (found,) = rows(url, "SELECT * FROM hps_trials WHERE number = :number", number=number)
    return found


def trial_folder(cli: Cli, number: int) -> Path:
    (found,) = (cli.folder / "studies").glob(f"*-{STUDY}/trials/{number:04d}")
    return found


def checkpoints(cli: Cli, number: int) -> list[Path]:
    """Oldest first."""
    return sorted((cli.folder / "studies").glob(f"*-{STUDY}/trials/{number:04d}/checkpoints/step-*.pt"))


def starts(cli: Cli, number: int) -> list[int]:
    """The iterations that a trial's training began at, in the order in which it did."""
    logs = (cli.folder / "studies").glob(f"*-{STUDY}/trials/{number:04d}/log.jsonl")
    # The line that is being written may be torn.
    lines = [line for log in logs for line in log.read_text().splitlines() if line.endswith("}")]
    return [entry["iteration"] for entry in map(json.loads, lines) if entry["event"] == "start"]


def weights(path: Path) -> str:
    """sha256 of the weights in a checkpoint."""
    from hpsearch.training.checkpoints import load_checkpoint

    state = load_checkpoint(path)["model"]
    return hashlib.sha256(b"".join(name.encode() + state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
