"""The whole journey on one small study, as a person types it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

from cli import Cli
from ruamel.yaml import YAML

from hpsearch.cli.inspect import parameter_groups
from hpsearch.config import HYPERPARAMETERS
from hpsearch.export.config_file import read_config

TRIALS = 8


def test_run_tells_the_cost_each_event_and_the_best(finished: Cli) -> None:
    told = (finished.folder / "run.stderr").read_text()
    assert "study: new 'tiny' in studies/0001-tiny (sampler auto, pruner median)" in told
    assert re.search(
        r"cost: 8 trials, \d+ at a time, none pruned: about .*; 7,680 tokens and .*FLOP a trial .*, "
        r"4 rungs whose evaluations cost .*FLOP more, up to .*B of disk",
        told,
    )
    assert "trial 0 started in slot-0: learning_rate 0.0003, batch_size 8, dropout 0.1, optimizer adamw" in told
    assert re.search(r"trial 0 rung 1/4 val_bpb \d\.\d{4}", told)
    assert f"{TRIALS} of {TRIALS} trials" in told
    assert "Warning" not in told
    out = (finished.folder / "run.stdout").read_text()
    assert re.match(r"best: trial \d+, val_bpb \d\.\d{4} \(trial 0, the baseline: \d\.\d{4}\)\n", out)


def test_a_study_leaves_the_documented_files(finished: Cli) -> None:
    study = finished.folder / "studies" / "0001-tiny"
    assert (finished.folder / "studies" / "hpsearch.db").exists()
    for name in ("space.yaml", "study.json", "best.yaml", "report.html"):
        assert (study / name).stat().st_size > 0
    frozen = json.loads((study / "study.json").read_text())
    assert frozen["name"] == "tiny"
    assert frozen["budget"]["kind"] == "tokens"
    best = finished.json("status")["best"]["number"]
    trial = study / "trials" / f"{best:04d}"
    assert (trial / "log.jsonl").exists()
    assert read_config(trial / "config.yaml").config.concrete() == finished.json("status")["best"]["config"]
    assert (trial / "sample.txt").exists()
    assert sorted(path.name for path in (trial / "checkpoints").glob("*.pt")) != []


def test_status_counts_and_names_the_best(finished: Cli) -> None:
    status = finished.json("status")
    assert status["study"] == "tiny"
    assert status["trials"]["target"] == TRIALS
    assert status["trials"]["complete"] + status["trials"]["pruned"] + status["trials"]["failed"] == TRIALS
    assert status["finished_reason"] == "8 trials are done"
    assert status["owner"] is None
    values = [trial["value"] for trial in finished.json("trials") if trial["state"] == "complete"]
    assert status["best"]["value"] == min(values)
    assert status["best"]["value"] < status["baseline"]["value"]
    shown = finished.ok("status")
    assert f"best     trial {status['best']['number']}: val_bpb {status['best']['value']:.4f}" in shown


def test_trials_have_the_documented_keys_and_every_hyperparameter(finished: Cli) -> None:
    trials = finished.json("trials")
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    for trial in trials:
        assert {"number", "state", "value", "values", "config", "rung", "tokens", "flops", "seconds"} <= trial.keys()
        assert {"reason", "proposed_by", "attempts"} <= trial.keys()
        assert trial["config"].keys() == HYPERPARAMETERS.keys()
        assert trial["config"]["d_ff"] == 32
        assert trial["config"]["max_iters"] * trial["config"]["batch_size"] * 16 == 7680
    assert {trial["tokens"] for trial in trials if trial["state"] == "complete"} == {7680}
    assert trials[0]["proposed_by"] == "prior"


def test_rungs_are_the_same_part_of_the_budget_for_all_batch_sizes(finished: Cli) -> None:
    tokens = {
        (point["rung"], point["tokens"]) for number in range(TRIALS) for point in finished.json("show", str(number))["points"]
    }
    assert tokens <= {(1, 1920), (2, 3840), (3, 5760), (4, 7680)}


def test_show_tells_all_of_one_trial(finished: Cli) -> None:
    best = finished.json("status")["best"]
    shown = finished.ok("show", str(best["number"]))
    for part in ("config", "evaluations", "parameter groups", "attempts", "sample", "learning_rate"):
        assert part in shown
    document = finished.json("show", str(best["number"]))
    assert [point["rung"] for point in document["points"]] == [1, 2, 3, 4]
    assert document["points"][-1]["metrics"]["val_bpb"] == best["value"]
    groups = document["parameter_groups"]
    assert {bool(group["weight_decay"]) for group in groups} == {True, False}
    assert sum(group["parameters"] for group in groups) == best["num_parameters"]
    assert len(document["sample"]) > 0


def test_studies_lists_the_study(finished: Cli) -> None:
    assert "tiny" in finished.ok("studies")
    assert [study["study"] for study in finished.json("studies")] == ["tiny"]


def test_an_exported_config_is_whole_commented_and_says_where_it_is_from(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "best.yaml"
    finished.ok("export", "--study", "tiny", "--out", str(out))
    text = out.read_text()
    best = finished.json("status")["best"]
    document = YAML(typ="safe").load(text)
    assert document["study"] == {
        "name": "tiny",
        "trial": best["number"],
        "objective": "val_bpb",
        "value": best["value"],
    }
    concrete = {name: value for name, value in best["config"].items() if value is not None}
    assert document["hyperparameters"] == concrete
    assert document["data"]["fingerprint"]
    assert "# peak step size" in text
    assert text == (finished.folder / "studies" / "0001-tiny" / "best.yaml").read_text()
    as_json = json.loads(finished.ok("export", "--format", "json", "--trial", "0"))
    assert as_json["study"]["trial"] == 0


def test_an_exported_config_trains_to_its_score_again_and_its_weights_write_text(finished: Cli, tmp_path: Path) -> None:
    out, model = tmp_path / "best.yaml", tmp_path / "model"
    finished.ok("export", "--out", str(out))
    told = finished.ok("train", "--config", str(out), "--out", str(model), "--device", "cpu")
    assert "the exported score again" in told
    assert {"model.safetensors", "config.json", "tokenizer.json", "config.yaml"} <= {path.name for path in model.iterdir()}
    greedy = [
        finished.ok("generate", "--model", str(model), "--prompt", "The ", "--temperature", "0", "--max-new-tokens", "12")
        for _ in range(2)
    ]
    assert greedy[0] == greedy[1]
    assert greedy[0].startswith("The ")
    samples = finished.json("generate", "--model", str(model), "--prompt", "a", "--prompt", "b", "--num-samples", "3")
    assert [(entry["prompt"], len(entry["samples"])) for entry in samples] == [("a", 3), ("b", 3)]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("x\ny\n")
    from_file = finished.json("generate", "--model", str(model), "--prompt-file", str(prompts))
    assert [entry["prompt"] for entry in from_file] == ["x", "y"]


def test_train_goes_on_where_it_was_stopped_and_repeats_nothing(finished: Cli, tmp_path: Path) -> None:
    model = tmp_path / "model"
    config = str(finished.folder / "studies" / "0001-tiny" / "best.yaml")
    first = finished.json("train", "--config", config, "--out", str(model))
    lines = len((model / "log.jsonl").read_text().splitlines())
    again = finished.json("train", "--config", config, "--out", str(model))
    assert again["metrics"]["val_bpb"] == first["metrics"]["val_bpb"]
    assert len((model / "log.jsonl").read_text().splitlines()) < 2 * lines


def test_running_a_finished_study_again_adds_nothing(finished: Cli) -> None:
    before = finished.json("trials")
    done = finished.run("run", "--space", "tiny.yaml", "--trials", str(TRIALS))
    assert done.returncode == 0
    assert "resumed: 8 of 8 trials are done" in done.stderr
    assert finished.json("trials") == before


def test_the_optuna_command_line_reads_the_same_storage(finished: Cli) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("optuna")),
            *("trials", "--study-name", "tiny", "--storage", "sqlite:///studies/hpsearch.db", "-f", "json"),
        ],
        cwd=finished.folder,
        env=finished.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    theirs = json.loads(done.stdout)
    ours = finished.json("trials")
    assert len(theirs) == TRIALS
    for their, our in zip(theirs, ours, strict=True):
        assert their["state"] == {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[our["state"]]
        if our["state"] == "complete":
            assert their["value"] == {"val_bpb": our["value"]}


def test_the_database_is_sound(finished: Cli) -> None:
    with sqlite3.connect(finished.folder / "studies" / "hpsearch.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM trials WHERE state = 'RUNNING'").fetchone() == (0,)


def test_run_with_json_prints_one_document_and_nothing_else(cli: Cli) -> None:
    document = json.loads(
        cli.ok("run", "--space", "quick", "--trials", "1", "--budget", "tokens=4096,evaluations=2", "--slots", "1", "--json")
    )
    assert document["trials"]["complete"] == 1


def test_bundled_spaces_go_by_path_and_by_name(cli: Cli) -> None:
    for word in ("spaces/quick.yaml", "quick", "quick.yaml"):
        assert cli.json("space", "check", word)["name"] == "quick"
    (cli.folder / "spaces").mkdir()
    (cli.folder / "spaces" / "quick.yaml").write_text("name: my-own\nparameters:\n  learning_rate: {low: 1e-4, high: 1e-3}\n")
    assert cli.json("space", "check", "spaces/quick.yaml")["name"] == "my-own"
    assert cli.json("space", "check", "quick")["name"] == "quick"


def test_space_verbs_describe_what_ships(cli: Cli) -> None:
    listed = {space["name"] for space in cli.json("space", "list")}
    assert {"lm", "quick", "modern", "encoder", "encoder_decoder"} <= listed
    shown = cli.ok("space", "check", "lm")
    assert "a valid space: 'lm', minimizing val_bpb" in shown
    assert re.search(r"learning_rate +1e-7 to 0.001 \(log\) +0.0003", shown)
    schema = json.loads(cli.ok("space", "schema"))
    assert "learning_rate" in json.dumps(schema)


def test_params_prints_every_hyperparameter(cli: Cli) -> None:
    shown = cli.ok("params")
    for info in HYPERPARAMETERS.values():
        assert re.search(rf"^  {info.name} +{re.escape(info.default_text)} ", shown, re.MULTILINE)
    assert [entry["name"] for entry in cli.json("params")] == list(HYPERPARAMETERS)


def test_the_text_and_single_settings_can_be_given_on_the_command_line(cli: Cli) -> None:
    (cli.folder / "mine.txt").write_text("to be or not to be, that is the question.\n" * 800)
    cli.ok(
        *("run", "--space", "quick", "--study", "mine", "--trials", "1", "--data", "mine.txt", "--slots", "1"),
        *("--budget", "max_iters=4,evaluations=2", "--set", "batch_size=2", "--set", "context_length=16"),
        *("--set", "d_model=16", "--set", "num_layers=1", "--set", "num_heads=2"),
    )
    (trial,) = cli.json("trials")
    assert (trial["config"]["batch_size"], trial["config"]["context_length"]) == (2, 16)
    assert (trial["config"]["max_iters"], trial["config"]["d_model"]) == (4, 16)


def test_a_config_written_by_hand_may_count_in_passes_over_the_text(cli: Cli) -> None:
    (cli.folder / "mine.txt").write_text("to be or not to be, that is the question.\n" * 800)
    config = (
        "data: {text: mine.txt}\nhyperparameters:\n  num_epochs: 0.01\n  batch_size: 2\n  context_length: 16\n  d_model: 16\n"
    )
    (cli.folder / "c.yaml").write_text(f"{config}  num_heads: 2\n  num_layers: 1\n")
    cli.ok("train", "--config", "c.yaml", "--out", "m")
    # 0.01 passes over 90 % of 33,600 bytes, in windows of 16 and batches of 2.
    assert json.loads((cli.folder / "m" / "config.json").read_text())["max_iters"] == 10
    (cli.folder / "c.yaml").write_text(f"{config}  max_iters: 3\n")
    done = cli.run("train", "--config", "c.yaml", "--out", "n")
    assert (done.returncode, "num_epochs 0.01 is 10 steps of this text and max_iters is 3" in done.stderr) == (2, True)


def test_train_goes_on_from_the_config_that_it_left_beside_the_weights(cli: Cli) -> None:
    config = (
        "{max_iters: 4, num_layers: 1, d_model: 16, num_heads: 2, d_ff: 32, context_length: 16, batch_size: 2, eval_iters: 2}"
    )
    (cli.folder / "small.yaml").write_text(f"hyperparameters: {config}\n")
    first = cli.json("train", "--config", "small.yaml", "--out", "model")
    again = cli.json("train", "--config", "model/config.yaml", "--out", "model")
    assert again["metrics"]["val_bpb"] == first["metrics"]["val_bpb"]


def test_show_reads_past_a_line_of_the_log_that_was_never_finished(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(
        '{"event": "sta{"event": "start", "gr\n{"event": "start", "groups": [{"name": "decay"}]}\n'
    )
    assert parameter_groups(tmp_path) == [{"name": "decay"}]
