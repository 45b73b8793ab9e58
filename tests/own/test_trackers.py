from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import own_trainers
import psutil
import pytest
from cli import Cli
from waiting import wait_for
from wandb_files import wandb_runs

import hpsearch
from hpsearch.errors import BadInput
from hpsearch.tuning.trackers import QUIET, MLflow

Tune = Callable[..., hpsearch.Study]
ACTS = """\
trainer: own
name: acts
budget: {steps: 8, evaluations: 8}
parameters:
  lr: 0.1
  act: {choices: [clean, nan, fails], prior: clean}
"""
PROGRAM = Path(own_trainers.__file__).with_name("own_program.py")
LINE = f"{sys.executable} {PROGRAM} --lr {{lr}} --act {{act}} --folder {{folder}} --resume {{resume}} --pause 0.1 --until "
WORDS = (
    "run",
    "--space",
    "acts.yaml",
    "--sampler",
    "grid",
    "--slots",
    "1",
    "--trials",
    "3",
    "--tracker",
    "mlflow",
    "--tracker",
    "wandb",
)
WIRETAP = """\
import pathlib, sys

def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with pathlib.Path(__file__).with_name("heard").open("a") as told:
            told.write(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}\\n")

sys.addaudithook(heard)
"""
"""A sitecustomize that notes where each Python process connects to."""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Cli]:
    """A study that MLflow and W&B were told of: interrupted once, with a trial of each end, outside any CI as they see it."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "acts.yaml").write_text(ACTS)
    (folder / "wiretap").mkdir()
    (folder / "wiretap" / "sitecustomize.py").write_text(WIRETAP)
    signs = ("CI", "GITHUB", "PYTEST", "WANDB", "MLFLOW", "DO_NOT_TRACK")
    kept = {name: value for name, value in environment.items() if not name.startswith(signs)}
    paths = [str(folder / "wiretap"), *filter(None, [environment.get("PYTHONPATH")])]
    cli = Cli(folder, kept | {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(paths)})
    words = (*WORDS, "--command", f"{LINE}{folder / 'go'}")
    process = cli.start(*words)
    assert process.stderr is not None
    assert any("rung 4/8" in line for line in process.stderr), "the first trial is at work"
    wait_for(lambda: any(folder.glob("studies/0001-acts/wandb/offline-run-*/run-*.wandb")), process)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: the trackers' own processes hear it too.
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    (folder / "go").touch()  # Not before: the trial could end before it hears of the interruption.
    wait_for(lambda: not _left(process.pid), seconds=10)  # Nothing outlives the study.
    done = cli.run(*words)
    assert done.returncode == 0, done.stderr
    assert "INFO" not in done.stderr, "the libraries write nothing into the live view"
    yield cli
    cli.end()


def _left(group: int) -> list[psutil.Process]:
    """What still runs of a process group."""
    left = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def mlflow_runs(folder: Path, study: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What MLflow's own client finds, oldest first."""
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    for run in runs:
        run.curve = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "value")]
    return runs


def test_mlflow_has_one_run_for_each_trial_however_often_it_was_interrupted(
    tracked: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = tracked.json("trials")
    runs = mlflow_runs(tracked.folder, "acts", monkeypatch)
    assert [run.info.run_name for run in runs] == ["trial-0000", "trial-0001", "trial-0002"]
    ends = {run.data.params["act"]: (run.info.status, run.data.tags["hpsearch.state"]) for run in runs}
    assert ends == {"clean": ("FINISHED", "complete"), "nan": ("KILLED", "pruned"), "fails": ("FAILED", "failed")}
    for run, trial in zip(runs, trials, strict=True):
        assert run.data.tags["hpsearch.reason"] == trial["reason"]
        assert run.data.params == {"lr": "0.1", "act": trial["config"]["act"]}
        assert run.info.end_time is not None
    assert [step for step, _ in runs[0].curve] == list(range(1, 9)), "the curve goes on where it was interrupted"
    assert runs[0].curve[-1][1] == runs[0].data.metrics["final_value"] == trials[0]["value"]
    assert runs[0].data.metrics["twice"] == 16


def test_wandb_has_the_parts_of_an_interrupted_trial_under_one_id(tracked: Cli) -> None:
    trials = tracked.json("trials")
    (folder,) = (tracked.folder / "studies").glob("0001-acts")
    first, again, *others = wandb_runs(folder / "wandb")
    assert first.id == again.id
    assert len({run.id for run in (first, *others)}) == 3
    assert [run.name for run in (first, again, *others)] == ["trial-0000", "trial-0000", "trial-0001", "trial-0002"]
    assert first.project == "acts"
    assert (first.config["lr"], first.config["act"]) == (0.1, "clean")
    assert [point["_step"] for point in first.history + again.history] == list(range(1, 9))
    assert (first.summary["state"], first.summary["reason"]) == ("paused", "interrupted")
    assert (again.summary["state"], again.summary["reason"]) == ("complete", "")
    assert again.summary["final/value"] == again.history[-1]["value"] == trials[0]["value"]
    by_act = {run.config["act"]: run for run in others}
    assert (by_act["nan"].summary["state"], by_act["nan"].exit_code) == ("pruned", 0)
    assert (by_act["fails"].summary["state"], by_act["fails"].exit_code) == ("failed", 1)
    assert "it broke: 1 of 2" in by_act["fails"].summary["reason"]


def test_trackers_on_this_machine_ask_nothing_of_any_other(tracked: Cli) -> None:
    heard = (tracked.folder / "wiretap" / "heard").read_text().splitlines()
    assert heard, "W&B has a process of its own on this machine"
    assert [told for told in heard if "127.0.0.1" not in told and "/" not in told] == []


def test_studies_of_one_name_and_space_share_no_run(
    tracked: Cli, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked.folder / 'mlflow.db'}")
    for folder in ("here", "there"):
        tune(own_trainers.curve, trials=1, slots=1, trackers=["mlflow"], studies_dir=tmp_path / folder)
    runs = mlflow_runs(tracked.folder, "toy", monkeypatch)
    assert [run.info.run_name for run in runs] == ["trial-0000", "trial-0000"]
    assert [len(run.curve) for run in runs] == [4, 4]


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
    with pytest.raises(
        BadInput, match=rf"--tracker {name}: the library {name} is missing .*pip install -c constraints.txt '\.\[{name}\]'"
    ):
        tune(own_trainers.curve, trackers=[name])
    assert list(tmp_path.iterdir()) == []


def test_wandb_online_without_a_key_is_refused_and_asks_nothing(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(BadInput, match="WANDB_MODE=online needs a key: `wandb login`, or WANDB_API_KEY"):
        tune(own_trainers.curve, trackers=["wandb"], studies_dir=tmp_path / "studies")
    assert not (tmp_path / "studies").exists()


def test_a_name_or_a_value_that_mlflow_refuses_costs_no_tracker(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    fixed = {f"p{number}": number for number in range(150)} | {"long": "x" * 7000}
    space = {"name": "odd", "budget": {"steps": 8, "evaluations": 4}, "parameters": {"lr": {"low": 0.1, "high": 1.0}, **fixed}}
    tune(own_trainers.odd_names, space, trials=2, slots=1, trackers=["mlflow"], view="lines")
    runs = mlflow_runs(tmp_path, "odd", monkeypatch)
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    for run in runs:
        assert [value for _, value in run.curve] == [0.5, 0.125]
        metrics = run.data.metrics
        assert {name: metrics[name] for name in ("acc_1", "acc_1_2", "eval/loss", "metrics.seconds")} == {
            "acc_1": 0,
            "acc_1_2": 1,
            "eval/loss": 7,
            "metrics.seconds": 105,
        }
        assert 0 < metrics["seconds"] < 105
        odd = set(metrics) - {"value", "final_value", "seconds", "metrics.seconds"}
        assert sorted(metrics[name] for name in odd) == list(range(len(own_trainers.ODD_NAMES)))
        assert len(run.data.params) == 152
        assert run.data.params["long"] == "x" * 6000
    assert "--tracker" not in capfd.readouterr().err


def test_what_mlflow_refuses_is_left_out_and_the_rest_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    told: list[str] = []
    tracker = MLflow(tmp_path, told.append)
    client = MlflowClient()
    run = client.create_run(client.create_experiment("refused")).info.run_id
    for _ in range(2):
        tracker._leave_out(tracker._logged(run, "metrics", [Metric(name, 1.0, 0, 1) for name in ("a@b", "fine", "../c")]))
    assert client.get_run(run).data.metrics == {"fine": 1.0}
    assert told == [
        f"--tracker mlflow: MLflow takes no '{name}', which is left out there; the study has it" for name in ("a@b", "../c")
    ]


def test_tensorboard_and_wandb_take_odd_names(tune: Tune) -> None:
    study = tune(own_trainers.odd_names, trials=1, slots=1, trackers=["tensorboard", "wandb"])
    events = read(study.folder / "tensorboard" / "trial-0000")
    assert [each.value for each in events.Scalars("acc@1")] == [0, 0]
    assert [each.value for each in events.Scalars("metrics.seconds")] == [105, 105]
    (run,) = wandb_runs(study.folder / "wandb")
    assert [point["acc@1"] for point in run.history] == [0, 0]
    assert [point["_step"] for point in run.history] == [2, 8]
    assert run.exit_code == 0


def test_an_unknown_tracker_is_refused(tune: Tune) -> None:
    with pytest.raises(BadInput, match=r"--tracker tensorbord: use tensorboard, mlflow, wandb; did you mean 'tensorboard'"):
        tune(own_trainers.curve, trackers=["tensorbord"])
