from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_trainers
import pytest
from cli import Cli

import hpsearch
from hpsearch.errors import BadInput

Tune = Callable[..., hpsearch.Study]


def read(folder: Path) -> Any:
    """What TensorBoard itself reads in a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_has_a_run_for_each_trial(tune: Tune) -> None:
    study = tune(own_trainers.curve, trials=3, slots=2, trackers=["tensorboard"])
    runs = sorted((study.folder / "tensorboard").iterdir())
    assert [run.name for run in runs] == ["trial-0000", "trial-0001", "trial-0002"]
    events = read(runs[0])
    assert {each.step: each.value for each in events.Scalars("value")} == pytest.approx(dict(study.curve(0)))
    assert [each.value for each in events.Scalars("twice")] == [4, 8, 12, 16]
    assert events.Scalars("final/value")[0].value == pytest.approx(0.125)
    assert events.Tensors("state")[0].tensor_proto.string_val[0] == b"complete"
    hparams = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"learning_rate" in hparams
    assert b"light" in hparams


def test_a_diverged_trial_has_its_reason(tune: Tune) -> None:
    study = tune(own_trainers.diverges, trackers=["tensorboard", "tensorboard"])
    state = read(study.folder / "tensorboard" / "trial-0001").Tensors("state")[0]
    assert state.tensor_proto.string_val[0] == b"pruned: diverged: value is nan at step 4"


def test_a_tracker_that_fails_is_told_of_once_and_ends_no_study(cli: Cli) -> None:
    (cli.folder / "own.yaml").write_text(
        "trainer: own\nname: own\nbudget: {steps: 8, evaluations: 8}\nparameters: {lr: {low: 0.1, high: 1.0}}\n"
    )
    program = Path(own_trainers.__file__).with_name("own_program.py")
    line = f"{sys.executable} {program} --lr {{lr}} --folder {{folder}}"
    words = ("run", "--space", "own.yaml", "--slots", "1", "--command", line)
    cli.ok(*words, "--trials", "1")
    (folder,) = (cli.folder / "studies").glob("0001-own")
    (folder / "tensorboard").write_text("a file where its folder should be")
    done = cli.run(*words, "--trials", "3", "--tracker", "tensorboard")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("--tracker tensorboard failed and is left alone from here on") == 1
    assert len(cli.json("trials")) == 3


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    tune: Tune, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # As Python itself marks what must not be imported.
    with pytest.raises(BadInput, match=rf"--tracker {name} needs the library {name} .*pip install 'hpsearch\[{name}\]'"):
        tune(own_trainers.curve, trackers=[name])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused(tune: Tune) -> None:
    with pytest.raises(BadInput, match=r"--tracker tensorbord: use tensorboard, mlflow, wandb; did you mean 'tensorboard'"):
        tune(own_trainers.curve, trackers=["tensorbord"])
