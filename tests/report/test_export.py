from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hpsearch.cli.export import written
from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.errors import BadInput, SpaceError
from hpsearch.export.config_file import best_config_yaml, config_yaml, parse_value, read_config, to_json
from hpsearch.export.formats import WRITERS, to_command, to_toml
from hpsearch.results.tables import to_csv
from hpsearch.results.view import StudyView, status_dict
from hpsearch.storage.records import BudgetRecord, ConfirmationRecord, TrialRecord, TrialState


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


Write = Callable[[str], Path]


def test_every_trial_comes_back_from_its_export_as_it_was(view: StudyView, write: Write) -> None:
    for trial in view.trials:
        for form in ("yaml", "json", "toml"):
            path = write(WRITERS[form](view, trial))
            read = read_config(path.rename(path.with_suffix(f".{form}")))
            assert read.config.concrete() == trial.config
            assert read.config == TrialConfig.build(
                trial.params | {"max_iters": 500, "eval_interval": 50, "vocab_size": 256, "d_ff": 1024}
            )
            assert read.data.model_dump() == view.study.data
            assert read.data_fingerprint == view.study.data_fingerprint
            assert (read.run.device, read.run.threads) == ("cpu", 1)
            assert read.study is not None
            assert (read.study.name, read.study.trial, read.study.value) == ("lm", trial.number, trial.value)


def test_the_export_says_what_produced_it(view: StudyView) -> None:
    assert view.best is not None
    text = best_config_yaml(view, view.best)
    for fact in ("trial 8", "val_bpb 2.187", "torch 2.13.0", "41be41be", "15 device_seconds", "1 thread", "9f2c9f2c", "tpe"):
        assert fact in text, fact
    assert "The best trial" in text
    assert "A trial" in best_config_yaml(view, view.trials[0])


def confirmed(view: StudyView) -> StudyView:
    """The same study with its best and its default retrained on two seeds."""
    assert view.best is not None
    records = [
        ConfirmationRecord(number, seed, value + seed / 100, {}, 1.0, 1.0)
        for number, value in ((0, 3.0), (view.best.number, 2.2))
        for seed in (1, 2)
    ]
    return replace(view, confirmations=records)


@pytest.mark.parametrize("form", ["yaml", "toml", "env", "cli"])
def test_every_export_carries_the_verdict_in_its_comments(view: StudyView, form: str) -> None:
    seen = confirmed(view)
    assert seen.best is not None
    assert "\n# Verdict: better than the default by 0.8" in WRITERS[form](seen, seen.best)


@pytest.mark.parametrize("program", [None, "nanogpt"])
def test_json_carries_the_verdict_as_status_does(view: StudyView, program: str | None, write: Write) -> None:
    seen = confirmed(view)
    assert seen.best is not None
    text = written(seen, seen.best, "json", program)
    found = json.loads(text)["confirmation"]
    assert found == status_dict(seen)["confirmation"]
    assert found["beats_default"] is True
    assert json.loads(written(seen, seen.trials[1], "json", program))["confirmation"] is None  # It was not retrained.
    if program is None:
        assert read_config(write(text)).config.concrete() == seen.best.config  # JSON is YAML.


def test_every_hyperparameter_is_named_with_its_meaning_or_as_left_out(view: StudyView) -> None:
    assert view.best is not None
    lines = best_config_yaml(view, view.best).splitlines()
    for name, info in HYPERPARAMETERS.items():
        settings = [line for line in lines if line.startswith(f"  {name}:")]
        if view.best.config[name] is None:
            assert settings == []
            assert any(line.startswith("  # off") and name in line for line in lines), name
        else:
            assert len(settings) == 1
            assert info.doc in settings[0]


def test_a_reason_of_several_lines_stays_inside_its_comment(view: StudyView, write: Write) -> None:
    trial = replace(view.trials[1], reason="killed\nmax_iters: 7\n", state=TrialState.FAILED, values=None)
    read = read_config(write(best_config_yaml(view, trial)))
    assert read.config.max_iters == 500
    assert read.study is not None
    assert read.study.value is None


TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
"""What a text can hold: no NUL character, which no path can have, and no half of a character."""


@given(
    rate=st.floats(min_value=1e-300, max_value=1e30),
    text=st.text(TEXT, min_size=1),
    weights=st.dictionaries(
        st.text(TEXT, min_size=1, max_size=99), st.floats(min_value=1e-9, max_value=1e9), min_size=1, max_size=3
    ),
)
def test_floats_and_texts_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, view: StudyView, rate: float, text: str, weights: dict[str, float]
) -> None:
    paths = [tmp_path_factory.getbasetemp() / f"exact.{form}" for form in ("yaml", "toml")]
    trial = replace(view.trials[0], config=view.trials[0].config | {"learning_rate": rate, "save_dir": "kept/here"})
    study = replace(view.study, data={"text": weights, "tokenizer": "bpe", "validation": text})
    for path, writer in zip(paths, (best_config_yaml, to_toml), strict=True):
        path.write_text(writer(StudyView(study, view.trials), trial), encoding="utf-8")
        read = read_config(path)
        assert read.config.learning_rate == rate
        assert read.config.save_dir == "kept/here"
        assert read.data.text == weights
        assert read.data.validation == text
    again = paths[0].with_name("again.yaml")
    again.write_text(config_yaml(read), encoding="utf-8")
    assert read_config(again) == dataclasses.replace(read, study=None)


@given(text=st.text(TEXT))
@example(text="语" * 300)
def test_the_command_line_gives_every_value_as_it_was(view: StudyView, text: str) -> None:
    trial = replace(view.trials[0], config=view.trials[0].config | {"save_dir": "kept/here", "learning_rate": 1e-5})
    study = replace(view.study, data={"text": {"a b.txt": 0.25, text: 1.0}, "tokenizer": "bpe", "validation": 0.1})
    told = to_command(StudyView(study, view.trials), trial)
    words = shlex.split(told[told.index("\nhpsearch train") :])
    changes = dict(word.partition("=")[::2] for flag, word in itertools.pairwise(words) if flag == "--set")
    read = read_config(None, {name: parse_value(value) for name, value in changes.items()})
    assert read.config.concrete() == trial.config
    assert read.data.model_dump() == study.data


def test_changes_replace_what_a_file_says_under_any_of_its_names(write: Write) -> None:
    path = write("hyperparameters: {max_iters: 5, hidden_size: 64}\ndata: {tokenizer: chars}")
    read = read_config(path, {"d_model": 128, "data.text": ["a.txt", "b.txt"]})
    assert (read.config.d_model, read.data.text, read.data.tokenizer) == (128, ("a.txt", "b.txt"), "chars")
    with pytest.raises(BadInput, match=r"^--set dropout: .*less than 1, got 2"):
        read_config(path, {"dropout": 2})
    with pytest.raises(BadInput, match=r"^--set data\.tokenizer: .*got 'words'"):
        read_config(path, {"data.tokenizer": "words"})
    with pytest.raises(SpaceError, match="2:1: 'data' must hold"):
        read_config(write("max_iters: 5\ndata: 3"), {"data.tokenizer": "bpe"})


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("max_iters = 5\nmax_iters = 6", "", "not TOML"),
        ("[hyperparameters]\nmax_iters = ", ":2:", "not TOML"),
        ("[hyperparameters]\nmax_iters = 5\ndropuot = 0.1", "", "did you mean 'dropout'?"),
        ("[data]\ntext = 'pydoc'", "", "no hyperparameters here"),
    ],
)
def test_a_bad_toml_file_is_refused(text: str, place: str, words: str, write: Write) -> None:
    path = write(text)
    path = path.rename(path.with_suffix(".toml"))
    with pytest.raises(SpaceError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}:")
    assert place in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_small_numbers_are_numbers_in_both_versions_of_yaml(view: StudyView, version: str) -> None:
    trial = replace(view.trials[0], config=view.trials[0].config | {"learning_rate": 1e-5, "layer_norm_epsilon": 1e-12})
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    settings: dict[str, Any] = yaml.load(best_config_yaml(view, trial))["hyperparameters"]
    assert (settings["learning_rate"], settings["layer_norm_epsilon"]) == (1e-5, 1e-12)
    assert settings["tie_embeddings"] is True


def test_several_texts_come_back(view: StudyView, write: Write) -> None:
    study = replace(view.study, data={"text": ["a.txt", "b c.txt"], "tokenizer": "chars", "validation": 0.2})
    read = read_config(write(best_config_yaml(StudyView(study, view.trials), view.trials[0])))
    assert read.data.text == ("a.txt", "b c.txt")


def test_a_short_file_written_by_hand_is_enough(write: Write) -> None:
    flat = read_config(write("max_iters: 2e3\nlearning_rate: 1e-3\nhidden_size: 128\ndropout_rate: 0\n"))
    nested = read_config(
        write("hyperparameters: {max_iters: 2000, learning_rate: 1.0e-3, d_model: 128, dropout: 0}\ndata: {tokenizer: chars}\n")
    )
    assert flat.config == nested.config
    assert flat.config.learning_rate == 1e-3
    assert (flat.data.text, flat.data.tokenizer, nested.data.tokenizer) == ("pydoc", "bytes", "chars")
    assert (flat.study, flat.run.device, flat.data_fingerprint) == (None, None, "")


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("max_iters: 5\nlearning_rte: 1", "2:1", "unknown hyperparameter 'learning_rte'; did you mean 'learning_rate'?"),
        ("hyperparameters:\n  max_iters: 5\n  dropuot: 0.1", "3:3", "did you mean 'dropout'?"),
        ("hyperparameters: {max_iters: 5}\ndta: {}", "2:1", "unknown section 'dta'; did you mean 'data'?"),
        ("hyperparameters: {max_iters: 5}\ndropout: 0", "2:1", "move it below 'hyperparameters'"),
        ("max_iters: 5\ndata: {txt: a}", "2:8", "did you mean 'text'?"),
        ("max_iters: 5\ndata:\n  tokenizer: word", "3:3", "data.tokenizer"),
        ("max_iters: 5\nrun: {threads: many}", "2:7", "run.threads"),
        ("max_iters: 5\nrun: 3", "2:1", "'run' must hold"),
        ("max_iters: 5\nmax_iters: 6", "2:1", "duplicate key"),
        ("max_iters: 5\ndropout: [0.1", "2:14", "expected ',' or ']'"),
        ("max_iters: 5\nsave_dir: !!python/object:os.system {}", "2:11", "tag"),
        ("max_iters: 5\ndropout: 2", "2:1", "less than 1"),
        ("max_iters: 5\nlearning_rate: {low: 1, high: 2}", "2:1", "valid number"),
        ("max_iters: 5\nnum_attention_heads: 7", "2:1", "multiple of num_heads"),
        ("max_iters: 5\nd_model: 64\nhidden_size: 128", "3:1", "two names of d_model"),
        ("max_iters: 5\nmomentum: 0.9", "2:1", "does nothing"),
        ("hyperparameters:\n  dropout: 0.1", "1:1", "max_iters is missing"),
        ("hpsearch: 9\nmax_iters: 5", "1:1", "reads form 1"),
        ("1: 2\nmax_iters: 5", "1:1", "unknown hyperparameter '1'"),
        ("- 1", "1:1", "no configuration here"),
        ("", "1:1", "no configuration here"),
        ("hyperparameters:\n", "1:1", "no hyperparameters here"),
        ("data: {text: pydoc}", "1:1", "no hyperparameters here"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(text: str, place: str, words: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(SpaceError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{place}: "), message
    assert words in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_config(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"max_iters: \xff")
    with pytest.raises(BadInput, match="byte 11"):
        read_config(binary)


def test_the_json_holds_no_nan(view: StudyView) -> None:
    trial = replace(view.trials[0], values=(float("nan"),))
    assert json.loads(to_json(view, trial))["study"]["value"] is None


def own(view: StudyView, config: dict[str, Any], reason: str = "") -> tuple[StudyView, TrialRecord]:
    """A trial of a trainer of one's own that was given `config`."""
    study = replace(view.study, data={"command": "python train.py"}, budget=BudgetRecord("steps", 10, 5))
    return replace(view, study=study), replace(view.trials[0], config=config, params=config, reason=reason)


NASTY = [
    "$(touch pwned)",
    "`touch pwned`; touch pwned",
    "a'b\"c\\",
    "two\nlines # no comment",
    "\x1b]0;title\x07",
    "",
    "~/x",
    "=1+1",
    "-n",
    "é 世界 \u2028",
]


@pytest.mark.parametrize("form", ["env", "cli"])
def test_a_shell_reads_any_text_and_runs_nothing_of_it(view: StudyView, form: str, tmp_path: Path) -> None:
    config = {f"x{index}": text for index, text in enumerate(NASTY)}
    seen, trial = own(view, config, reason="\ntouch pwned\r\ntouch pwned\x85touch pwned")
    if form == "cli":
        command = "cat " + " ".join(f"{{x{index}}}" for index in range(len(NASTY)))
        seen = replace(seen, study=replace(seen.study, data={"command": command}))
    file = tmp_path / "export"
    file.write_text(WRITERS[form](seen, trial), encoding="utf-8")
    names = [f"HPSEARCH_X{index}" for index in range(len(NASTY))]
    show = f"import json, os; print(json.dumps([os.environ.get(name) for name in {names}]))"
    cat = "cat() { " + shlex.join([sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]) + ' "$@"; }\n'
    then = f"set -a; . ./export; {shlex.join([sys.executable, '-c', show])}" if form == "env" else f"{cat} . ./export"
    done = subprocess.run(["sh", "-c", then], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == NASTY
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("names", [("opt.lr", "opt_lr"), ("lr", "LR"), ("é", "è"), ("data_command", "x")])
def test_two_names_that_would_be_one_variable_are_refused(view: StudyView, names: tuple[str, str]) -> None:
    seen, trial = own(view, {names[0]: 1, names[1]: 2})
    with pytest.raises(BadInput, match=r"would both be HPSEARCH_\w+; use --format yaml"):
        WRITERS["env"](seen, trial)
    assert YAML(typ="safe").load(WRITERS["yaml"](seen, trial))["hyperparameters"] == {names[0]: 1, names[1]: 2}


VALUES: dict[str, Any] = {
    "none": None,
    "inf": math.inf,
    "list": [1, "a", [True]],
    "map": {"a b": 1.5},
    "text": 'q"\\\x00\x7f\x9b\u202e\n世',
    "a b.c": "null",
    "big": 10**30,
    "surrogate": "caf\udce9",
}


def test_yaml_gives_back_every_value_of_a_trainer_of_ones_own(view: StudyView) -> None:
    text = WRITERS["yaml"](*own(view, VALUES))
    assert YAML(typ="safe", pure=True).load(text)["hyperparameters"] == VALUES
    assert all(character.isprintable() or character == "\n" for character in text)


def test_json_gives_back_every_value_or_refuses_it(view: StudyView) -> None:
    with pytest.raises(BadInput, match="infinite or NaN"):
        WRITERS["json"](*own(view, VALUES))
    finite = VALUES | {"inf": 1.0}
    text = WRITERS["json"](*own(view, finite))
    assert json.loads(text)["hyperparameters"] == finite
    text.encode()
    assert all(character.isprintable() or character == "\n" for character in text)


def test_toml_gives_back_what_it_can_hold_and_names_what_it_leaves_out(view: StudyView) -> None:
    text = WRITERS["toml"](*own(view, VALUES))
    assert tomllib.loads(text)["hyperparameters"] == {k: v for k, v in VALUES.items() if k != "none"} | {
        "surrogate": "caf\\xe9"
    }
    assert "# Null, and so left out: none\n" in text
    with pytest.raises(BadInput, match="null inside a list"):
        WRITERS["toml"](*own(view, {"x": [None]}))


def test_a_variable_cannot_hold_a_nul(view: StudyView) -> None:
    with pytest.raises(BadInput, match="holds a NUL"):
        WRITERS["env"](*own(view, {"x": "a\0b"}))


def test_a_spreadsheet_computes_nothing_of_a_table(view: StudyView) -> None:
    seen, trial = own(view, {"x": "=HYPERLINK(1)", "y": -1.5, "z": "+1", "w": "plain"}, reason="@SUM(A1)")
    (row,) = csv.DictReader(io.StringIO(to_csv(replace(seen, trials=[trial]))))
    assert (row["x"], row["y"], row["z"], row["w"]) == ("'=HYPERLINK(1)", "-1.5", "'+1", "plain")
    assert row["reason"] == "'@SUM(A1)"
