"""Results taken elsewhere: configs in every form, tables, and models for transformers."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import stat
import subprocess
import threading
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
import transformers
from cli import COMMAND, Cli

from hpsearch.config import HYPERPARAMETERS
from hpsearch.data.batches import held_out_batches
from hpsearch.data.corpus import open_corpus
from hpsearch.export.config_file import read_config


@pytest.mark.parametrize("form", ["yaml", "json", "toml"])
def test_every_form_of_our_config_is_the_same_config(finished: Cli, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"c.{form}"
    finished.ok("export", "--format", form, "--out", str(out))
    read = read_config(out)
    best = finished.json("status")["best"]
    assert read.config.concrete() == best["config"]
    assert read.study is not None
    assert (read.study.value, read.study.trial) == (best["value"], best["number"])
    assert read.data_fingerprint == finished.json("status")["data_fingerprint"]
    assert read.run.threads is not None


def test_the_shell_reads_every_variable_as_it_was(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "c.env"
    finished.ok("export", "--format", "env", "--out", str(out))
    line = f"set -a; . {out}; exec env -0"
    told = subprocess.run(["sh", "-c", line], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True).stdout
    found = dict(entry.partition("=")[::2] for entry in told.split("\0") if entry.startswith("HPSEARCH_"))
    config = {name: value for name, value in finished.json("status")["best"]["config"].items() if value is not None}
    for name, value in config.items():
        text = found.pop(f"HPSEARCH_{name.upper()}")
        assert (text if isinstance(value, str) else json.loads(text)) == value
    assert found.keys() == {f"HPSEARCH_DATA_{name}" for name in ("TEXT", "TOKENIZER", "VALIDATION", "FINGERPRINT")}


def test_the_command_line_trains_to_the_exported_score(finished: Cli, tmp_path: Path) -> None:
    told = finished.ok("export", "--format", "cli")
    command = told[told.index("\nhpsearch train") + 1 :].replace("hpsearch train", " ".join([*COMMAND, "train"]), 1).rstrip()
    line = f"{command} --out {tmp_path / 'model'} --json"
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=finished.folder,
        env=finished.environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    assert json.loads(done.stdout)["metrics"]["val_bpb"] == finished.json("status")["best"]["value"]
    # What it left beside the weights goes on with them.
    beside = read_config(tmp_path / "model" / "config.yaml")
    assert beside.config.concrete() == finished.json("status")["best"]["config"]


def test_a_config_can_be_changed_on_the_command_line(cli: Cli) -> None:
    config = {"max_iters": 2, "num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 32, "context_length": 16, "batch_size": 2}
    (cli.folder / "c.toml").write_text("[hyperparameters]\n" + "\n".join(f"{name} = {value}" for name, value in config.items()))
    cli.ok("train", "--config", "c.toml", "--set", "eval_iters=2", "--set", "hidden_size=24", "--out", "m", "--device", "cpu")
    assert json.loads((cli.folder / "m" / "config.json").read_text())["d_model"] == 24


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "max_iters"), "write it as NAME=VALUE"),
        (("--set", "max_iters=2", "--set", "learning_rte=1"), "did you mean 'learning_rate'"),
        (("--set", "max_iters=2", "--set", "dropout=2"), "--set dropout: "),
        (("--set", "max_iters=2", "--set", "data.tokenizr=bpe"), "did you mean 'tokenizer'"),
        (("--set", "dropout=0.1"), "max_iters is missing"),
        ((), "name a file with --config"),
    ],
)
def test_a_bad_setting_is_refused_by_name(cli: Cli, words: tuple[str, ...], said: str) -> None:
    done = cli.run("train", *words)
    assert done.returncode == 2
    assert said.lower() in done.stderr.lower()
    assert cli.files() == []


def test_a_bad_toml_file_is_refused_with_its_place(cli: Cli) -> None:
    (cli.folder / "c.toml").write_text("[hyperparameters]\nmax_iters = \n")
    done = cli.run("train", "--config", "c.toml")
    assert (done.returncode, "c.toml:2:" in done.stderr, "not TOML" in done.stderr) == (2, True, True)


def test_other_programs_names(finished: Cli) -> None:
    told = json.loads(finished.ok("export", "--for", "litgpt", "--format", "json", "--trial", "0"))
    assert told["settings"]["model_config"]["n_embd"] == 16
    assert any(line.startswith("position learned") for line in told["missing"])
    assert "n_embd = 16" in finished.ok("export", "--for", "nanogpt")
    assert "TrainingArguments(" in finished.ok("export", "--for", "transformers")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "yml"), "did you mean 'yaml'"),
        (("--for", "nanogtp"), "did you mean 'nanogpt'"),
        (("--for", "nanogpt", "--format", "toml"), "form of its own"),
        (("--format", "hf"), "name it with --out"),
        (("--model", "m"), "goes with --format hf"),
        (("--prefer", "smalest-within 1%"), "did you mean 'smallest-within'"),
        (("--prefer", "first", "--trial", "0"), "keep one of them"),
        (("--out", "none/c.yaml"), "does not exist"),
    ],
)
def test_a_bad_export_is_refused(finished: Cli, words: tuple[str, ...], said: str) -> None:
    done = finished.run("export", *words)
    assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr


def test_the_preferred_trial_is_exported(finished: Cli) -> None:
    told = finished.ok("export", "--prefer", "smallest-within 1000%", "--format", "json")
    sizes = {trial["number"]: trial["num_parameters"] for trial in finished.json("trials") if trial["state"] == "complete"}
    assert sizes[json.loads(told)["study"]["trial"]] == min(sizes.values())


def test_a_trials_model_loads_in_transformers_with_its_score(finished: Cli, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    best = finished.json("status")["best"]
    finished.ok("export", "--format", "hf", "--out", str(out))
    assert {path.name for path in out.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    asked = read_config(finished.folder / "studies" / "0001-tiny" / "best.yaml")
    cache = Path(finished.environment["HPSEARCH_CACHE_DIR"])
    corpus = open_corpus(asked.data, vocab_size=256, architecture="decoder", cache_dir=cache)
    assert tokenizer("Grüße")["input_ids"] == corpus.tokenizer.encode("Grüße").tolist()
    nats, count = 0.0, 0
    with torch.inference_mode():
        for batch in held_out_batches(corpus, asked.config):
            logits = theirs(input_ids=batch.inputs_BT).logits.flatten(0, 1)
            nats += float(torch.nn.functional.cross_entropy(logits, batch.targets_BT.flatten(), reduction="sum"))
            count += int((batch.targets_BT >= 0).sum())
    assert nats / count == pytest.approx(best["metrics"]["val_loss"], abs=1e-4)
    card = (out / "README.md").read_text()
    for part in (f"Trial {best['number']} of", "val_bpb", asked.data_fingerprint, "Not confirmed", "AutoModelForCausalLM"):
        assert part in card
    again = finished.run("export", "--format", "hf", "--out", str(out))
    assert (again.returncode, "not empty" in again.stderr) == (2, True)


def test_a_trained_folder_loads_in_transformers(finished: Cli, tmp_path: Path) -> None:
    best = str(finished.folder / "studies" / "0001-tiny" / "best.yaml")
    finished.ok("train", "--config", best, "--out", str(tmp_path / "model"), "--device", "cpu")
    finished.ok("export", "--format", "hf", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "hf"))
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.config.n_embd == 16
    assert "that of trial" in (tmp_path / "hf" / "README.md").read_text()


def test_weights_that_are_gone_are_said_with_the_way_to_have_them_again(finished: Cli, tmp_path: Path) -> None:
    copy = Cli(tmp_path / "copy", finished.environment)
    shutil.copytree(finished.folder, copy.folder)
    number = copy.json("status")["best"]["number"]
    shutil.rmtree(copy.folder / "studies" / "0001-tiny" / "trials" / f"{number:04d}" / "checkpoints")
    done = copy.run("export", "--format", "hf", "--out", "hf")
    assert (done.returncode, "are not there; train them again with" in done.stderr) == (2, True), done.stderr
    assert not (copy.folder / "hf").exists()


def test_the_table_of_trials_is_csv_and_parquet(finished: Cli, tmp_path: Path) -> None:
    trials = finished.json("trials")
    rows = list(csv.DictReader(io.StringIO(finished.ok("trials", "--format", "csv"))))
    assert [int(row["number"]) for row in rows] == [trial["number"] for trial in trials]
    for row, trial in zip(rows, trials, strict=True):
        assert row.keys() >= {"state", "value", *HYPERPARAMETERS, "rung", "tokens", "flops", "seconds", "reason", "proposed_by"}
        assert (float(row["value"]) if row["value"] else None) == trial["value"]
        assert float(row["learning_rate"]) == trial["config"]["learning_rate"]
        assert (row["momentum"] == "") == (trial["config"]["momentum"] is None)
        assert (row["reason"], int(row["attempts"])) == (trial["reason"], trial["attempts"])
    out = tmp_path / "t.parquet"
    finished.ok("trials", "--format", "parquet", "--out", str(out))
    table = pyarrow.parquet.read_table(out).to_pylist()
    assert [row["value"] for row in table] == [trial["value"] for trial in trials]
    assert [row["momentum"] for row in table] == [trial["config"]["momentum"] for trial in trials]
    for words, said in (
        (("--format", "parquet"), "--out FILE"),
        (("--format", "xlsx"), "use csv or parquet"),
        (("--format", "csv", "--json"), "keep one"),
    ):
        done = finished.run("trials", *words)
        assert (done.returncode, said in done.stderr) == (2, True)


def test_parquet_without_its_library_names_the_extra(finished: Cli, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    path = f"{tmp_path}:{finished.environment.get('PYTHONPATH', '')}"
    done = finished.run("trials", "--format", "parquet", "--out", str(tmp_path / "t.parquet"), PYTHONPATH=path)
    assert (done.returncode, "'.[tables]'" in done.stderr) == (2, True)


def test_trials_and_show_draw_each_curve(finished: Cli) -> None:
    assert "▁" in finished.ok("trials")
    assert "▁" in finished.ok("show", "0")
    plain = finished.run("trials", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0, plain.stderr
    assert "▁" not in plain.stdout


def test_toml_is_toml(finished: Cli) -> None:
    document = tomllib.loads(finished.ok("export", "--format", "toml"))
    assert document["study"]["objective"] == "val_bpb"


SHORT = {
    **{"max_iters": 2, "num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 16, "context_length": 16, "batch_size": 2},
    **{"eval_iters": 1, "max_new_tokens": 5},
}


def short_config(cli: Cli, **more: object) -> str:
    (cli.folder / "c.json").write_text(json.dumps({"hyperparameters": SHORT | more}))
    return "c.json"


@pytest.mark.parametrize("kind", ["config", "set"])
@pytest.mark.parametrize("name", ["save_dir", "log_file"])
@pytest.mark.parametrize("place", ["~/.bashrc", "a/../../b", "config.yaml"])
def test_a_config_from_someone_else_names_no_place_outside(cli: Cli, kind: str, name: str, place: str) -> None:
    words = ("--config", short_config(cli, **{name: place} if kind == "config" else {}))
    done = cli.run("train", *words, *(("--set", f"{name}={place}") if kind == "set" else ()), "--out", "m")
    assert done.returncode == 2
    assert f"{name}: " in done.stderr
    assert ("c.json:1:" in done.stderr) == (kind == "config")
    assert cli.files() == ["c.json"]


def test_a_command_puts_checkpoints_and_log_where_it_likes_also_under_names_that_are_no_text(cli: Cli) -> None:
    out, kept, log = (os.fsdecode(name) for name in (b"m\xff", b"kept\n\xff", b"log\xff.jsonl"))
    words = ("--config", short_config(cli), "--out", out, "--save-dir", kept, "--log-file", log, "--device", "cpu")
    cli.ok("train", *words)
    assert sorted(path.name for path in (cli.folder / out).iterdir()) == [
        *("config.json", "config.yaml", "hpsearch-wrote.json", "model.safetensors", "sample.txt", "tokenizer.json")
    ]
    assert (cli.folder / kept / "step-00000002.pt").exists()
    cli.ok("train", *words)  # What it wrote itself is no file of anybody else.
    starts = [json.loads(line)["iteration"] for line in (cli.folder / log).open() if '"start"' in line]
    assert starts == [0, 2]


@pytest.mark.parametrize("option", ["--out", "--save-dir"])
def test_a_folder_with_files_of_others_is_refused_by_name(cli: Cli, option: str) -> None:
    (cli.folder / "theirs").mkdir()
    (cli.folder / "theirs" / "config.json").write_text("mine")
    done = cli.run("train", "--config", short_config(cli), option, "theirs", "--device", "cpu")
    assert done.returncode == 2
    assert f"{option} theirs: config.json is there already" in done.stderr
    assert cli.files() == ["c.json", "theirs", "theirs/config.json"]


def test_bad_input_of_a_training_run_makes_no_folder(cli: Cli) -> None:
    done = cli.run("train", "--config", short_config(cli), "--data", "nowhere.txt", "--out", "m", "--device", "cpu")
    assert done.returncode == 2
    assert cli.files() == ["c.json"]


def test_figures_replace_those_of_before_and_no_file_of_others(finished: Cli, tmp_path: Path) -> None:
    words = ("report", "--format", "json", "--figure", "history", "--out", str(tmp_path / "figures"))
    finished.ok(*words)
    finished.ok(*words)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "history.json").write_text("mine")
    done = finished.run(*words[:-1], str(tmp_path / "others"))
    assert (done.returncode, "history.json is there already" in done.stderr) == (2, True)
    assert (tmp_path / "others" / "history.json").read_text() == "mine"


def test_a_table_goes_through_a_pipe_that_stays_one(finished: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    finished.ok("trials", "--format", "csv", "--out", str(tmp_path / "pipe"))
    reader.join(30)
    assert got
    assert got[0].startswith("number,")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
