"""What `--scheduler halving` sets aside and brings back, with real training, seen through the command."""

from __future__ import annotations

import json
from typing import Any

from cli import Cli
from tiny import SPACE


def test_a_promoted_trials_curve_is_that_of_a_run_that_was_never_paused(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    cli.ok("run", "--space", "tiny.yaml", "--trials", "6", "--scheduler", "halving_only", "--slots", "1", "--sampler", "random")
    promoted = [trial for trial in cli.json("trials") if trial["state"] == "complete" and trial["attempts"] > 1]
    assert promoted, "the first trials are set aside until there are three, so the best of them comes back"
    trial = promoted[0]
    shown = cli.json("show", str(trial["number"]))
    assert {"pause", "promote"} <= {decision["action"] for decision in shown["decisions"]}
    config = next(cli.folder.glob(f"studies/*/trials/{trial['number']:04d}/config.yaml"))
    cli.ok("train", "--config", str(config), "--out", "alone")
    assert evaluations(cli, "alone") == evaluations(cli, str(config.parent.relative_to(cli.folder)))


def evaluations(cli: Cli, folder: str) -> dict[int, tuple[Any, ...]]:
    """By rung: step, losses and gradient norm, to the last bit."""
    lines = map(json.loads, (cli.folder / folder / "log.jsonl").read_text().splitlines())
    found = [line for line in lines if line["event"] == "evaluation"]
    assert found
    return {line["rung"]: (line["iteration"], line["train_loss"], line["metrics"], line["grad_norm"]) for line in found}
