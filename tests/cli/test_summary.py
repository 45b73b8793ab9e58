"""What `run` prints at its end, and shell completion."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli import Cli

from hpsearch.cli.options import same_place
from hpsearch.cli.summary import config_lines, print_summary, warnings_of
from hpsearch.results.view import StudyView
from hpsearch.storage.records import BudgetRecord, ConfirmationRecord, StudyRecord, TrialRecord, TrialState

DEFAULT: dict[str, Any] = {"learning_rate": 3e-4, "d_model": 128, "d_ff": 512, "optimizer": "adamw", "momentum": None}


def complete(number: int, value: float, **config: Any) -> TrialRecord:
    return TrialRecord(number, TrialState.COMPLETE, {}, DEFAULT | config, "tpe", values=(value,))


def study_of(*trials: TrialRecord, confirmations: tuple[ConfirmationRecord, ...] = ()) -> StudyView:
    budget = BudgetRecord("tokens", 1e6, 10)
    record = StudyRecord("lm", "", "", ("val_bpb",), {}, "", budget, "tpe", "median", 0, {}, "here", "cpu", 1, "", 20)
    return StudyView(record, list(trials), confirmations=list(confirmations))


def test_the_best_stands_beside_the_default_with_the_differences_marked() -> None:
    view = study_of(complete(0, 2.5), complete(1, 2.0, learning_rate=1e-3, d_model=256, d_ff=1024))
    searched = ["learning_rate", "d_model", "optimizer", "momentum"]
    assert [line.split() for line in config_lines(view, searched, 80)] == [
        ["best", "default"],
        ["≠", "learning_rate", "0.001", "0.0003"],
        ["≠", "d_model", "256", "128"],
        ["optimizer", "adamw", "adamw"],
        ["momentum", "—", "—"],
        ["and", "1", "that", "follows", "from", "these,", "in", "best.yaml"],
    ]
    narrow = config_lines(view, searched, 30)
    assert narrow[:3] == ["≠ learning_rate 0.001 (default 0.0003)", "≠ d_model 256 (default 128)", "  optimizer adamw"]


def test_ties_are_told_by_the_seed_noise_where_it_is_known() -> None:
    near, far = complete(2, 2.001), complete(3, 2.1)
    told = warnings_of(study_of(complete(0, 2.5), complete(1, 2.0), near, far), ["at an edge"])
    assert told == [
        "at an edge",
        "trial 2 is within 0.1 % of the best, which another seed alone may change: `hpsearch confirm --study lm` tells",
    ]
    seeds = tuple(
        ConfirmationRecord(number, seed, value, {}, 1.0, 1.0)
        for number, values in ((0, (2.4, 2.7)), (1, (1.9, 2.2)))
        for seed, value in enumerate(values)
    )
    (told,) = warnings_of(study_of(complete(0, 2.5), complete(1, 2.0), near, far, confirmations=seeds), [])
    assert told == "trials 2, 3 are within the seed noise of 0.21 of the best: a tie"
    assert warnings_of(study_of(complete(0, 2.5)), []) == []


def test_run_ends_with_a_summary_and_the_next_commands(finished: Cli) -> None:
    out = (finished.folder / "run.stdout").read_text()
    best = finished.json("status")["best"]
    assert f"best: trial {best['number']}, val_bpb {best['value']:.4f} (trial 0, the baseline: " in out
    if best["number"] != 0:
        assert re.search(r"^ +best +default$", out, re.MULTILINE)
    assert re.search(r"^[ ≠] learning_rate ", out, re.MULTILINE)
    for step in (
        "hpsearch report --study tiny --out report.html",
        "hpsearch train --config studies/0001-tiny/best.yaml --out model",
    ):
        assert step in out


def test_with_several_objectives_the_front_is_told_and_how_to_choose_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [replace(complete(number, value), values=(value, size)) for number, value, size in ((0, 2.5, 1.0), (1, 2.0, 9.0))]
    view = study_of(*trials)
    print_summary(replace(view, study=replace(view.study, objectives=("val_bpb", "num_parameters"))), [], {}, [], Path("f"))
    told = capsys.readouterr().out
    assert "front of val_bpb, num_parameters: trials 1, 0\n" in told
    assert "hpsearch export --study lm --prefer 'smallest-within 1%'\n" in told
    print_summary(study_of(complete(0, 2.5), complete(1, 2.0)), [], {}, [], Path("f"))
    assert "--prefer" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("storage", "folder", "told"),
    [
        (None, "studies", ""),
        (None, "my studies", " --studies-dir 'my studies'"),
        ("sqlite:///a b.db", "studies", " --storage 'sqlite:///a b.db'"),
        ("postgresql://me@host/d", "s", " --studies-dir s --storage postgresql://me@host/d"),
        ("postgresql://me:hush@host/d", "s", " --studies-dir s  # with HPSEARCH_STORAGE set to its URL"),
        ("mysql://me@host/d?ssl_key_password=hush", "studies", "  # with HPSEARCH_STORAGE set to its URL"),
        ("sqlite:///env.db", "env", ""),
    ],
)
def test_a_suggested_command_finds_the_same_studies_and_tells_no_password(
    storage: str | None, folder: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HPSEARCH_STORAGE", raising=False)
    monkeypatch.delenv("HPSEARCH_STUDIES_DIR", raising=False)
    if folder == "env":
        monkeypatch.setenv("HPSEARCH_STORAGE", "sqlite:///env.db")
        monkeypatch.setenv("HPSEARCH_STUDIES_DIR", "env")
    assert same_place(storage, Path(folder)) == told


def test_bash_completes_verbs_and_options(cli: Cli) -> None:
    program = cli.folder / "hpsearch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hpsearch "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(./hpsearch --show-completion)"
        for words in "hpsearch re" "hpsearch report --fo"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _hpsearch_completion ./hpsearch; echo "${COMPREPLY[@]}"
        done"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=cli.folder, env=cli.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["resume report", "--format"], done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_too(cli: Cli, shell: str) -> None:
    asked = {"_TYPER_COMPLETE_ARGS": "hpsearch re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = cli.run(_HPSEARCH_COMPLETE=f"complete_{shell}", **asked)
    assert {"report", "resume"} <= set(re.findall(r"\w+", done.stdout)), done.stderr
