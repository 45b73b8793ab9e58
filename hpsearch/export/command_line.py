"""A trial of a trainer of one's own, as something to type."""

from __future__ import annotations

import re
import shlex
from typing import Any

from hpsearch.errors import BadInput
from hpsearch.results.view import StudyView
from hpsearch.storage.records import TrialRecord
from hpsearch.trainers.command import fill


def command_of(view: StudyView, trial: TrialRecord) -> str:
    """The command of a trial with its values, for a POSIX shell.

    The folder is one named after the trial, below the working directory. Raises BadInput where the trainer is a Python
    function, which has no command line.
    """
    study = view.study
    if "command" not in study.data:
        raise BadInput(
            f"study '{study.name}' tunes the function {study.data['function']}, which has no command line; "
            "use --format yaml, json or toml"
        )
    steps, folder = int(study.budget.amount), f"trial-{trial.number}"
    ours: dict[str, Any] = {
        "folder": folder,
        "trial": trial.number,
        "resume": None,
        "config": f"{study.folder}/trials/{trial.number:04d}/config.json",
        "steps": steps,
        "eval_interval": steps // study.budget.evaluations,
        "seed": 0,
        "device": study.device,
        "threads": study.threads,
    }
    return shlex.join(fill(shlex.split(study.data["command"]), ours | trial.config))


def again(view: StudyView, trial: TrialRecord) -> str:
    """What trains a trial once more, in a line for people."""
    if "command" in view.study.data:
        return f"Train it again: {command_of(view, trial)}"
    return f"Train it again: give {view.study.data['function']} the hyperparameters below"


def bare(name: str) -> str:
    """A name as part of a shell variable's, which is ASCII."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)
