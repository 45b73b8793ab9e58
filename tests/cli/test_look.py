"""What `status`, `trials`, `show` and `space check` print for people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cli import Cli
from synthetic import synthetic_view
from tiny import SPACE

from hpsearch.cli.inspect import show_trial
from hpsearch.results.formatting import searched_by, short
from hpsearch.storage.records import DecisionRecord


def test_show_tells_each_decision_and_what_only_later_evaluations_measured(capsys: pytest.CaptureFixture[str]) -> None:
    view = synthetic_view()
    assert view.best is not None
    number = view.best.number
    last = view.curve(number)[-1]
    points = [
        replace(point, metrics=point.metrics | {"branch_val_bpb": 1.2345}) if point is last else point for point in view.points
    ]
    decisions = [
        DecisionRecord(number, 3, "pause", "3rd of 3 at rung 3; the best goes on", "halving"),
        DecisionRecord(number, 3, "promote", "2nd of 6 at rung 3; the top 2 go on", "halving"),
        DecisionRecord(number + 1, 1, "prune", "of another trial", "median"),
    ]
    show_trial(replace(view, points=points, decisions=decisions), view.best, [])
    told = capsys.readouterr().out
    heading = next(line.split() for line in told.splitlines() if line.startswith("rung  step"))
    column = heading.index("branch_val_bpb")
    rows = [line.split() for line in told[told.index("rung  step") :].splitlines()[1 : len(view.curve(number)) + 1]]
    assert [row[column] for row in rows] == ["-"] * (len(rows) - 1) + ["1.2345"]
    table = told[told.index("\ndecisions\n") :].split("\n\n")[0].splitlines()
    assert [line.split(maxsplit=3)[:3] for line in table[3:]] == [["3", "pause", "halving"], ["3", "promote", "halving"]]
    assert table[2].split() == ["rung", "action", "decided", "by", "reason"]
    assert table[-1].endswith("2nd of 6 at rung 3; the top 2 go on")


def test_a_study_with_a_scheduler_and_two_objectives_is_told_with_both(cli: Cli) -> None:
    text = SPACE.replace("objective: val_bpb", "objective: [val_bpb, num_parameters]")
    (cli.folder / "tiny.yaml").write_text(text)
    done = cli.run("run", "--space", "tiny.yaml", "--trials", "2", "--slots", "1", "--device", "cpu", "--scheduler", "halving")
    assert done.returncode == 0, done.stderr
    by = "sampler auto, scheduler halving"
    assert f"study: new 'tiny' in studies/0001-tiny ({by})" in done.stderr
    told = cli.ok("status")
    assert f"study    tiny (val_bpb, num_parameters; {by})" in told
    best = cli.json("status")["best"]
    value, size = map(short, best["values"])
    assert f"front    trial {best['number']}: val_bpb {value}, num_parameters {size}\n" in told
    header, *rows = (line.split() for line in cli.ok("trials").splitlines())
    assert header[:4] == ["trial", "state", "val_bpb", "num_parameters"]
    assert rows[best["number"]][2:4] == [value, size]
    assert f"# Search: {by}, seed 0; proposed by " in cli.ok("export")


def test_what_searches_is_named_without_what_does_not() -> None:
    study = synthetic_view().study
    assert searched_by(replace(study, sampler="tpe", pruner="median", scheduler="none")) == "sampler tpe, pruner median"
    assert searched_by(replace(study, sampler="tpe", pruner="none", scheduler="none")) == "sampler tpe"


def test_space_check_prints_the_constraints(cli: Cli) -> None:
    (cli.folder / "s.yaml").write_text(
        SPACE + "constraints: {num_parameters: {max: 1e5}, flops_per_token: {min: 10, max: 1e9}}\n"
    )
    told = cli.ok("space", "check", "s.yaml")
    assert "constraint: num_parameters at most 1e5\n" in told
    assert "constraint: flops_per_token at least 10 and at most 1e9\n" in told
    bounds = {"num_parameters": {"min": None, "max": 1e5}, "flops_per_token": {"min": 10, "max": 1e9}}
    assert cli.json("space", "check", "s.yaml")["constraints"] == bounds


ENCODER = {"num_layers: 1": "num_layers: 1\n  architecture: encoder", "val_bpb": "val_masked_bpb"}


@pytest.mark.parametrize("changes", [{}, ENCODER, {"bytes": "bpe"}])
def test_space_check_refuses_a_baseline_outside_a_constraint_as_run_does(cli: Cli, changes: dict[str, str]) -> None:
    text = SPACE + "constraints: {num_parameters: {max: 1000}}\n"
    for old, new in changes.items():
        text = text.replace(old, new)
    (cli.folder / "s.yaml").write_text(text)
    checked, run = (cli.run(*words) for words in (("space", "check", "s.yaml"), ("run", "--space", "s.yaml")))
    assert (checked.returncode, checked.stdout) == (run.returncode, "") == (2, "")
    assert checked.stderr == run.stderr
    assert "outside a constraint: num_parameters is " in checked.stderr
