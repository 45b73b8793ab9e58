"""Each worked example, by the command that it names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli import Cli

import hpsearch
from hpsearch.trainers.command import fill

EXAMPLES = Path(__file__).parents[2] / "examples"


def words_of(script: Path) -> list[str]:
    """The `hpsearch run` in the docstring of a script, with this Python."""
    found = re.search(r"    hpsearch (run .*?')\n", script.read_text().replace("\\\n", ""), re.DOTALL)
    assert found is not None
    return [re.sub("^python ", f"{sys.executable} ", word) for word in shlex.split(found[1])]


@pytest.mark.parametrize(("name", "checkpoint"), [("nano_gpt", "step-30.pt"), ("transformers_trainer", "checkpoint-18")])
def test_a_program_is_tuned_by_the_command_that_it_names(cli: Cli, name: str, checkpoint: str) -> None:
    shutil.copytree(EXAMPLES / name, cli.folder, dirs_exist_ok=True)
    words = words_of(cli.folder / "train.py")
    words[words.index("--trials") + 1] = "2"
    cli.ok(*words, "--slots", "2", "--sampler", "random", "--pruner", "none", timeout=300)
    study = hpsearch.open_study(name, studies_dir=cli.folder / "studies")
    assert [trial.state for trial in study.trials] == ["complete"] * 2
    steps, values = zip(*study.curve(0), strict=True)
    assert len(values) == study.view.study.budget.evaluations
    assert values[-1] < values[0], "it learns"
    # From a checkpoint in the middle it comes to the same end.
    trial, again = study.trials[0], cli.folder / "again"
    shutil.copytree(trial.folder, again)
    given = {"folder": again, "config": again / "config.json", "resume": again / checkpoint, "seed": 0}
    budget = {"steps": steps[-1], "eval_interval": steps[0]}
    line = fill(shlex.split(study.view.study.data["command"]), trial.config | given | budget)
    printed = subprocess.run(line, cwd=cli.folder, env=cli.environment, capture_output=True, text=True, check=True).stdout
    said = [report for row in printed.splitlines() if row.startswith('{"') and study.objective in (report := json.loads(row))]
    assert [report["step"] for report in said] == [step for step in steps if step > int(re.sub(r"\D", "", checkpoint))]
    assert said[-1][study.objective] == pytest.approx(values[-1], rel=1e-5)


def test_the_digits_are_tuned_from_python(cli: Cli) -> None:
    words = [sys.executable, str(EXAMPLES / "digits" / "tune_digits.py"), "3"]
    done = subprocess.run(words, cwd=cli.folder, env=cli.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    study = hpsearch.open_study("digits", studies_dir=cli.folder / "studies")
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value > 0.9
    assert f"accuracy {study.best.value:.4g}>" in done.stdout
