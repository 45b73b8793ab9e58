"""Bad input: exit code 2, one line on standard error with place and remedy, no traceback, nothing created.

`PROMISE` is what the program promises to refuse. The tables below follow it word by word: a key is a piece of it, its rows are
the commands that show it. A row that is the name of a test is shown by that test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from cli import Cli
from servers import Server
from tiny import SPACE as TINY

from hpsearch.errors import BadInput
from hpsearch.execution.resources import on_this_machine
from hpsearch.space.load import load_space
from hpsearch.storage.leases import this_process
from hpsearch.storage.records import TrialRecord, TrialState
from hpsearch.tuning.callbacks import Silent
from hpsearch.tuning.request import Request, check
from hpsearch.tuning.session import work
from hpsearch.tuning.study import open_study

PROMISE = """
`--trials 0` or a word; `--slots -1`; `--timeout nan`; unknown sampler, pruner, optimizer or verb (nearest match named);
study name empty, over 128 characters or outside `[A-Za-z0-9._-]`; study that exists with another space (the difference
shown), another objective or direction; missing study (nearest named); `--device cuda` without one; YAML syntax error
(file:line:column); a YAML tag such as `!!python/object`; unknown key (nearest match); duplicate key (both lines); low above
high; log with low ≤ 0; step larger than the range; step with log; empty or repeated choices; a prior outside its range; a
range on a fixed-only setting; a rule that no configuration satisfies (`d_model % num_heads` names the pair); a rule that is
not a plain expression; `1e-4` and `1.0e-4` are both numbers; two aliases that disagree; data missing, empty, a folder
without text, not UTF-8 (byte offset), shorter than `context_length + 1` tokens (both numbers) or with a validation part too
small to evaluate; storage URL with a bad scheme, missing driver (names the extra to install), missing folder, a file that
is no database, wrong password (masked everywhere: messages, logs, process list, dashboard), a password with `@`, `{}` or
`%` in it works; exporting from a study with no finished trial; an output path that cannot be written (found before training
starts)
""".replace("\n", " ").strip()

SPACE = TINY.replace("text: pydoc", "text: text.txt")
TEXT = "".join(f"Line {number} of a text that is long enough to train a small model on.\n" for number in range(600))
CONFIG = "data: {text: text.txt}\nhyperparameters:\n  max_iters: 5\n  d_model: 16\n  num_heads: 2\n"
EXPORTING = ("export", "--study", "tiny")
RUN = ("run", "--space", "s.yaml")
TRAIN = ("train", "--config", "c.yaml")


@dataclass(frozen=True)
class Row:
    words: tuple[str, ...]
    told: tuple[str, ...]
    """Parts of the line."""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """Beside s.yaml, a sound space, its text.txt, and c.yaml, a sound config; or instead of them."""
    trials: int | None = None
    """Complete trials of the study `tiny` that the folder has; None where it has no study."""
    environment: Mapping[str, str] = field(default_factory=dict)


def space(old: str, new: str, *told: str) -> Row:
    """`hpsearch run` of the sound space with one change."""
    assert SPACE.count(old) == 1, old
    return Row(RUN, told, {"s.yaml": SPACE.replace(old, new)})


def data(given: str, *told: str, **files: str | bytes) -> Row:
    return Row(
        (*RUN, "--data", given),
        told,
        {name.replace("_", "/", 1): content for name, content in files.items()},
    )


def storage(url: str, *told: str, **files: str | bytes) -> Row:
    return Row((*RUN, "--storage", url), told, {name.replace("_", "."): content for name, content in files.items()})


def config(old: str, new: str, *told: str) -> Row:
    assert CONFIG.count(old) == 1, old
    return Row(TRAIN, told, {"c.yaml": CONFIG.replace(old, new)})


def foreign(statement: str) -> Row:
    """`hpsearch run` on a SQLite database that another program made."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute(statement)
        content = database.serialize()
    told = ("sqlite:///hpsearch.db", "belongs to another program", "name another database")
    return Row((*RUN, "--storage", "sqlite:///hpsearch.db"), told, {"hpsearch.db": content})


Rows = Mapping[str, Row | tuple[Row, ...] | str]

PROMISED: Rows = {
    "`--trials 0`": Row((*RUN, "--trials", "0"), ("--trials 0", "at least 1")),
    "a word": Row((*RUN, "--trials", "many"), ("'many'", "--trials", "valid integer")),
    "`--slots -1`": Row((*RUN, "--slots", "-1"), ("--slots -1", "auto")),
    "`--timeout nan`": Row((*RUN, "--timeout", "nan"), ("--timeout nan", "above 0")),
    "unknown sampler": Row((*RUN, "--sampler", "tpa"), ("unknown sampler 'tpa'", "did you mean 'tpe'")),
    "pruner": Row((*RUN, "--pruner", "medien"), ("unknown pruner 'medien'", "did you mean 'median'")),
    "optimizer": space("choices: [adamw, sgd]", "choices: [adamm, sgd]", "s.yaml:9:", "adamm", "did you mean 'adam"),
    "verb (nearest match named)": Row(("rum",), ("'rum'", "'run'")),
    "study name empty": Row((*RUN, "--study", ""), ("--study ''", "1 to 128 characters")),
    "over 128 characters": Row((*RUN, "--study", "x" * 129), ("1 to 128 characters",)),
    "outside `[A-Za-z0-9._-]`": (
        Row((*RUN, "--study", "../x"), ("--study '../x'", "letters, digits")),
        Row((*RUN, "--study", "naïve"), ("--study 'naïve'", "letters, digits")),
        Row((*RUN, "--study", "two\nlines"), ("letters, digits",)),
    ),
    "study that exists with another space (the difference shown)": Row(
        RUN,
        ("s.yaml", "'tiny'", "learning_rate: high 0.03 → 0.01", "--study NAME"),
        {"s.yaml": SPACE.replace("high: 3e-2", "high: 1e-2")},
        trials=0,
    ),
    "another objective": Row(
        RUN,
        ("s.yaml", "'tiny'", "objective: val_bpb → val_loss", "--study NAME"),
        {"s.yaml": SPACE.replace("val_bpb", "val_loss")},
        trials=0,
    ),
    "direction": "test_a_study_of_another_direction_is_refused",
    "missing study (nearest named)": (
        Row(("status", "--study", "tinny"), ("tinny", "did you mean 'tiny'"), trials=0),
        Row(("trials", "--study", "tinny"), ("did you mean 'tiny'",), trials=0),
        Row(("export", "--study", "tinny"), ("did you mean 'tiny'",), trials=0),
    ),
    "`--device cuda` without one": Row(
        (*RUN, "--device", "cuda"), ("--device cuda", "no GPU", "--device cpu"), environment={"CUDA_VISIBLE_DEVICES": ""}
    ),
    "YAML syntax error (file:line:column)": space("prior: 3e-4}", "prior: 3e-4", "s.yaml:7:13: ", "not YAML", "',' or '}'"),
    "a YAML tag such as `!!python/object`": space(
        "d_model: 16", "d_model: !!python/object:os.system 16", "s.yaml:12:12: ", "!!python/object:os.system", "remove the tag"
    ),
    "unknown key (nearest match)": (
        space("learning_rate:", "learning_rte:", "s.yaml:6:3: ", "did you mean 'learning_rate'"),
        space("objective:", "objectiv:", "s.yaml:2:1: ", "did you mean 'objective'"),
        space("step: 0.05", "stp: 0.05", "s.yaml:8:34: ", "did you mean 'step'"),
    ),
    "duplicate key (both lines)": space("num_layers: 1\n", "num_layers: 1\n  num_layers: 2\n", "s.yaml:12:3: ", "on line 11"),
    "low above high": space("low: 1e-4", "low: 1e-1", "s.yaml:6:24: ", "low 0.1 is above high 0.03", "swap them"),
    "log with low ≤ 0": space("step: 0.05, prior: 0.1", "log: true", "s.yaml:8:18: ", "low above 0", "remove log"),
    "step larger than the range": space("step: 0.05", "step: 0.5", "s.yaml:8:40: ", "step 0.5 is larger", "0.0 to 0.2"),
    "step with log": space("log: true,", "log: true, step: 1e-4,", "s.yaml:6:59: ", "step does not go with log", "remove one"),
    "empty": space("choices: [4, 8], prior: 8", "choices: []", "s.yaml:7:25: ", "choices is empty", "at least one"),
    "repeated choices": space("choices: [4, 8]", "choices: [8, 8]", "s.yaml:7:29: ", "8 is among", "twice", "keep one"),
    "a prior outside its range": space("prior: 3e-4", "prior: 0.5", "s.yaml:6:60: ", "prior 0.5 is outside", "0.0001 to 0.03"),
    "a range on a fixed-only setting": space(
        "eval_iters: 2", "eval_iters: {low: 1, high: 4}", "s.yaml:17:3: ", "eval_iters is refused", "give it one value"
    ),
    "a rule that no configuration satisfies (`d_model % num_heads` names the pair)": space(
        "max_save_num: 1\n",
        "max_save_num: 1\nrequire: d_model % num_heads == 1\n",
        "s.yaml:20:10: ",
        "d_model % num_heads == 1",
        "change the values of d_model or num_heads",
    ),
    "a rule that is not a plain expression": space(
        "max_save_num: 1\n",
        "max_save_num: 1\nrequire: __import__('os').remove('x') == 1\n",
        "s.yaml:20:10: ",
        "only functions by name can be called: min, max",
    ),
    "`1e-4` and `1.0e-4` are both numbers": "test_numbers_are_numbers_however_they_are_written",
    "two aliases that disagree": space(
        "d_model: 16", "d_model: 16\n  hidden_size: 32", "s.yaml:13:3: ", "'hidden_size' and 'd_model' (line 12)", "keep one"
    ),
    "data missing": (
        data("txet.txt", "txet.txt", "did you mean 'text.txt'"),
        data("no/such.txt", "no/such.txt", "the folder 'no' does not exist"),
    ),
    "empty, a": data("e.txt", "e.txt", "the file is empty", **{"e.txt": ""}),
    "folder without text": data("d", "d: no text in this folder", ".txt", d_x="binary"),
    "not UTF-8 (byte offset)": data("b.txt", "b.txt", "0xff at offset 3", "iconv", **{"b.txt": b"abc\xff\xfe" * 9000}),
    "shorter than `context_length + 1` tokens (both numbers)": Row(
        RUN,
        ("17", "16", "longer text"),
        {"s.yaml": SPACE.replace("validation: 0.1", "validation: held.txt"), "held.txt": TEXT, "text.txt": "sixteen letters."},
    ),
    "with a validation part too small to evaluate": data("t.txt", "t.txt: ", "2,048;", **{"t.txt": "short text " * 60}),
    "storage URL with a bad scheme": (
        storage("mongo://x/y", "mongo", "sqlite:///"),
        storage("postgrsql://x/y", "postgrsql", "did you mean 'postgresql'"),
        storage("studies.db", "studies.db", "sqlite:///"),
    ),
    "missing driver (names the extra to install)": (
        # Python finds these first, and no driver in them.
        storage("postgresql://u:w0rd@h/d", "***", "'.[postgresql]'", psycopg_py="raise ImportError"),
        storage("mysql://u:w0rd@h/d", "***", "run: pip install -c constraints.txt '.[mysql]'", pymysql_py="raise ImportError"),
    ),
    "missing folder": storage("sqlite:///no/such/x.db", "no/such", "does not exist", "create it"),
    "a file that is no database": storage("sqlite:///n.db", "n.db", "not a", "name another", n_db="this is text\n" * 400),
    "wrong password (masked everywhere: messages, logs, process list, dashboard)": (
        "test_a_wrong_password_is_refused_and_shown_nowhere"
    ),
    "a password with `@`, `{}` or `%` in it works": "test_a_password_of_odd_characters_works",
    "exporting from a study with no finished trial": (
        Row(EXPORTING, ("study 'tiny'", "no complete trial yet", "hpsearch trials"), trials=0),
        Row((*EXPORTING, "--trial", "7"), ("no trial 7", "none yet"), trials=0),
    ),
    "an output path that cannot be written (found before training starts)": (
        Row((*RUN, "--studies-dir", "/proc/hpsearch"), ("/proc/hpsearch", "/proc cannot be written", "name another")),
        Row((*RUN, "--studies-dir", "text.txt"), ("--studies-dir text.txt", "is a file", "name a folder")),
        Row((*TRAIN, "--out", "/proc/model"), ("--out /proc/model", "/proc cannot be written", "name another")),
        Row((*TRAIN, "--out", "text.txt"), ("--out text.txt", "is a file", "name a folder")),
        Row((*EXPORTING, "--out", "no/best.yaml"), ("no/best.yaml", "the folder no does not exist", "create it"), trials=1),
        Row((*EXPORTING, "--out", "/proc/best.yaml"), ("/proc/best.yaml", "cannot be written", "another place"), trials=1),
        Row(("report", "--out", "no/report.html"), ("no/report.html", "does not exist", "create it"), trials=1),
        Row(("report", "--out", "/proc/report.html"), ("/proc/report.html", "cannot be written", "another place"), trials=1),
    ),
}  # fmt: skip

BEYOND: Rows = {
    "slots a word": Row((*RUN, "--slots", "two"), ("--slots two", "auto")),
    "slots a digit of another script": Row((*RUN, "--slots", "²"), ("--slots ²", "auto")),
    "timeout infinite": Row((*RUN, "--timeout", "inf"), ("--timeout inf", "above 0")),
    "min-gain a word": Row((*RUN, "--min-gain", "little"), ("--min-gain little", "0.5%")),
    "from a study that is not there": Row((*RUN, "--from", "lm"), ("--from lm", "no study yet")),
    "from a database without a study's name": Row((*RUN, "--from", "sqlite:///x.db"), ("--from sqlite:///x.db", "name the")),
    "from, with a sampler that learns nothing": Row(
        (*RUN, "--from", "lm", "--sampler", "qmc"), ("--from: the sampler qmc", "auto")
    ),
    "a pruner and two objectives": Row(
        (*RUN, "--pruner", "median"),
        ("--pruner median", "--scheduler halving"),
        {"s.yaml": SPACE.replace("val_bpb", "[val_bpb, num_parameters]")},
    ),
    "a scheduler without a curve": Row(
        (*RUN, "--scheduler", "halving"),
        ("--scheduler halving", "generation_divergence", "leave it out"),
        {"s.yaml": SPACE.replace("val_bpb", "generation_divergence")},
    ),
    "a pruner without a curve": Row(
        (*RUN, "--pruner", "median"),
        ("--pruner median", "train_seconds tells nothing", "val_loss"),
        {"s.yaml": SPACE.replace("val_bpb", "train_seconds")},
    ),
    "seed negative": Row((*RUN, "--seed", "-3"), ("--seed -3", "from 0")),
    "seed beyond a database's integers": Row((*RUN, "--seed", str(2**63)), (f"--seed {2**63}", "to 2147483647")),
    "trials beyond all bounds": Row((*RUN, "--trials", "9" * 20), (f"--trials {'9' * 20}", "at most 1,000,000")),
    "slots beyond all bounds": Row((*RUN, "--slots", "9" * 20), (f"--slots {'9' * 20}", "1 to 1024")),
    "seeds beyond all bounds": Row(("confirm", "--seeds", "9" * 20), ("--seeds 9999", "1 to 1,000"), trials=1),
    "prune a number beyond all bounds": Row(("prune", "9" * 30), ("no trial 999", "from 0"), trials=1),
    "data an empty word": (
        Row((*RUN, "--data", ""), ("--data", "each with a name")),
        Row((*TRAIN, "--data", ""), ("empty name", "give the path of a text file")),
    ),
    "data of a folder with a file that is not UTF-8": Row(
        (*RUN, "--data", "d"), ("b.txt", "offset 0", "iconv"), {"d/a.txt": "sound", "d/b.txt": b"\xff"}
    ),
    "budget an empty word": Row((*RUN, "--budget", ""), ("--budget", "device_seconds=15")),
    "sampler an empty word": Row((*RUN, "--sampler", ""), ("unknown sampler ''", "tpe")),
    "pruner an empty word": Row((*RUN, "--pruner", ""), ("unknown pruner ''", "median")),
    "scheduler an empty word": Row((*RUN, "--scheduler", ""), ("unknown scheduler ''", "halving")),
    "unknown option": Row((*RUN, "--trails", "5"), ("--trails", "--trials")),
    "option without its value": Row((*RUN, "--trials"), ("--trials",)),
    "no space": Row(("run",), ("--space",)),
    "device unknown": Row((*RUN, "--device", "gpu"), ("--device gpu", "cuda")),
    "budget without a number": Row((*RUN, "--budget", "tokens"), ("--budget tokens", "device_seconds=15")),
    "budget of an unknown kind": Row((*RUN, "--budget", "token=5"), ("token", "tokens")),
    "budget too small": Row((*RUN, "--budget", "tokens=100"), ("0.781 steps", "larger --budget")),
    "set without a value": Row((*RUN, "--set", "dropout"), ("--set dropout", "NAME=VALUE")),
    "set unknown": Row((*RUN, "--set", "dropuot=0.1"), ("dropuot", "did you mean 'dropout'")),
    "set out of bounds": Row((*RUN, "--set", "dropout=2"), ("--set dropout=2", "below 1")),
    "no such space": Row(("run", "--space", "quik"), ("quik", "did you mean 'quick'")),
    "no such space file": Row(("run", "--space", "spaces/mine.yaml"), ("spaces/mine.yaml", "no such file")),
    "a folder as the space": Row(("run", "--space", "."), ("--space .", "is a folder")),
    "space check": Row(("space", "check", "s.yaml"), ("s.yaml:1:1: ", "is empty", "parameters"), {"s.yaml": ""}),
    "space that is not UTF-8": Row(RUN, ("s.yaml:1:", "not UTF-8"), {"s.yaml": b"name: caf\xe9\n"}),
    "momentum without its condition": space(", when: optimizer == 'sgd'", "", "s.yaml:10:", "when: optimizer"),
    "aliases below": space("batch_size: {choices", "batch_sizes: {choices", "s.yaml:7:3: ", "did you mean 'batch_size'"),
    "a path too long": (
        Row(("run", "--space", "x" * 5000), ("x…", "too long", "shorter")),
        storage(f"sqlite:///{'x' * 300}.db", "x…", "too long", "shorter"),
    ),
    "checkpoints outside the trial": space(
        "max_save_num: 1", "max_save_num: 1\n  save_dir: a/../../b", "s.yaml:20:3: save_dir: ", "leads out", "--checkpoints-dir"
    ),
    "a log in the home folder": space(
        "max_save_num: 1", "max_save_num: 1\n  log_file: ~/.bashrc", "s.yaml:20:3: log_file: ", "leads out", "command line"
    ),
    "a log in the place of a file of ours": space(
        "max_save_num: 1", "max_save_num: 1\n  log_file: config.yaml", "s.yaml:20:3: log_file: ", "writes itself", "another"
    ),
    "checkpoints where nothing can be written": Row(
        (*RUN, "--checkpoints-dir", "/proc/x"), ("--checkpoints-dir /proc/x", "name another place")
    ),
    "a baseline that is larger than the machine": space(
        "d_model: 16", "d_model: 1000000", "s.yaml:1:1: ", "memory", "parameters", "make d_model"
    ),
    "storage of no port": storage("postgresql://u:w0rd@127.0.0.1:99999/d", "***", "99999 is no port", "65535"),
    "storage with options that its driver does not take": (
        storage("sqlite:///x.db?timeout=abc", "sqlite:///x.db", "timeout=abc", "give a number of seconds"),
        storage("mysql://u:w0rd@127.0.0.1/d?ssl_ca=/nope", "***", "after the '?', ssl_ca=/nope", "there is no such file"),
        storage("postgresql://u:w0rd@127.0.0.1/d?nope=1", "***", "psycopg has no such option; leave it out"),
    ),
    "storage where nothing can be written": storage("sqlite:////proc/x.db", "/proc/x.db", "cannot be written", "another place"),
    "storage that is a device": storage("sqlite:////dev/null", "/dev/null", "neither a file", "name another"),
    "another program's tables": (
        foreign("CREATE TABLE studies (a)"),
        foreign("CREATE TABLE hps_alembic_version (x)"),
    ),
    "storage in memory": storage("sqlite://", "in memory", "sqlite:///FILE"),
    "storage that is a folder": storage("sqlite:///.", "is a folder", "name a file"),
    "status without a study": Row(("status",), ("no study yet", "hpsearch run")),
    "status of a missing database": Row(("status", "--storage", "sqlite:///x.db"), ("no study yet in sqlite:///x.db",)),
    "show a word": Row(("show", "first"), ("first",)),
    "show a trial that is not": Row(("show", "99"), ("no trial 99", "0 to 0"), trials=1),
    "export of nothing": Row(("export",), ("no study yet",)),
    "export as something else": Row((*EXPORTING, "--format", "xml"), ("--format xml", "yaml"), trials=0),
    "train without a config": Row(("train", "--config", "none.yaml"), ("none.yaml", "No such file")),
    "train an unknown hyperparameter": config("num_heads", "num_haeds", "c.yaml:5:3: ", "did you mean 'num_heads'"),
    "train a duplicate key": Row(TRAIN, ("c.yaml:6:3: ", "'d_model'", "line 4"), {"c.yaml": CONFIG + "  d_model: 32\n"}),
    "train an impossible shape": config("num_heads: 2", "num_heads: 3", "c.yaml:5:", "multiple of num_heads"),
    "train a batch larger than the machine": Row(
        (*TRAIN, "--set", "batch_size=9999999999"), ("batch_size", "memory", "a batch of", "smaller")
    ),
    "nothing to search": Row(("run",), ("bundled: ", "lm", "here: s.yaml", "hpsearch run --space s.yaml")),
    "a length of time that is none": Row((*RUN, "--timeout", "8x"), ("--timeout 8x", "1h30m, 8h or 2d")),
    "a price of ten million layers": Row(
        ("price", "--space", "s.yaml", "--set", "num_layers=10000000", "--device", "cpu"), ("memory", "num_layers", "smaller")
    ),
    "a vocabulary without end": Row(
        (*TRAIN, "--set", "data.tokenizer=bpe", "--set", "vocab_size=1000000000"), ("vocab_size", "16777216")
    ),
    "a number of thousands of digits": Row((*TRAIN, "--set", f"max_iters={'9' * 5000}"), ("max_iters", "finite")),
    "train nested lists": Row(
        ("train", "--config", "c.json"), ("c.json:1:14: ", "deeper than 12 levels", "needs three"), {"c.json": "[" * 3000}
    ),
    "train on no threads": Row((*TRAIN, "--threads", "0"), ("--threads 0", "from 1")),
    "generate without a model": Row(("generate", "--model", "m"), ("--model m", "hpsearch train")),
    "dashboard of nothing": Row(("dashboard",), ("no study yet",)),
    "dashboard beyond loopback": Row(("dashboard", "--host", "0.0.0.0", "--port", "0"), ("loopback",), trials=0),
}  # fmt: skip


def each_row(table: Rows) -> Iterator[object]:
    for words, rows in table.items():
        for number, row in enumerate(rows if isinstance(rows, tuple) else (rows,)):
            if isinstance(row, Row):
                yield pytest.param(row, id=" ".join(words.split()) + (f" ({number})" if number else ""))


def test_every_piece_of_the_promise_has_its_rows() -> None:
    at = 0
    for words, rows in PROMISED.items():
        start = PROMISE.index(words, at)
        assert re.fullmatch(r"[;,]?\s*(or)?\s*", PROMISE[at:start]), f"no row: {PROMISE[at:start]!r}"
        at = start + len(words)
        if isinstance(rows, str):
            assert callable(globals()[rows])
    assert at == len(PROMISE)


@dataclass(frozen=True)
class Place:
    """An empty folder to work in, with an empty cache of prepared texts beside it."""

    cli: Cli
    cache: Path

    def put(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.cli.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            # The hash of a text that may still change is not remembered: the cache stays empty if nothing is prepared.
            os.utime(path, times=(time.time() + 3600,) * 2)

    def seen(self) -> object:
        """All that is here: files with their sizes, and rows of the databases."""
        found: list[object] = []
        for path in sorted((*self.cli.folder.rglob("*"), *self.cache.rglob("*"))):
            found.append((str(path), 0 if path.suffix == ".db" or path.is_dir() else path.stat().st_size))
        for path in self.cli.folder.rglob("hpsearch.db"):
            with sqlite3.connect(path) as database:
                found += database.iterdump()
            database.close()
        return found


def make_place(folder: Path, environment: Mapping[str, str]) -> Place:
    here, cache = folder / "here", folder / "cache"
    here.mkdir()
    place = Place(Cli(here, {**environment, "HPSEARCH_CACHE_DIR": str(cache)}), cache)
    place.put({"s.yaml": SPACE, "text.txt": TEXT, "c.yaml": CONFIG})
    return place


@pytest.fixture
def place(tmp_path: Path, environment: dict[str, str]) -> Place:
    return make_place(tmp_path, environment)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> dict[int, Path]:
    """Studies folders with a study that has no trial yet, and with one that has one: by their number of trials."""
    made = {}
    for trials in (0, 1):
        place = make_place(tmp_path_factory.mktemp("begun"), environment)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place.cli.folder)  # the space names its text by a relative path
            begin(place.cache, trials)
        made[trials] = place.cli.folder / "studies"
    return made


def begin(cache: Path, trials: int) -> None:
    """What `hpsearch run` has made by the time that it starts its slots; then one trial that is complete, if it must."""
    space, studies = load_space(Path("s.yaml")), Path("studies")
    studies.mkdir()
    request = Request(space, space.name, 5, f"sqlite:///{studies}/hpsearch.db", studies, cache)
    owner = this_process()
    study = open_study(request, check(request), owner)
    if trials:
        config = study.prepare(space.prior()).config
        record = TrialRecord(0, TrialState.COMPLETE, space.prior(), config, "prior", values=(2.5,))
        study.store.add_trial(study.record.id, record, token=owner.token)
    study.store.release(study.record.id, owner)
    study.storage.engine.dispose()
    study.store.close()


def refused(place: Place, words: tuple[str, ...], environment: Mapping[str, str] | None = None) -> str:
    """The one line with which a command is refused; nothing else was said, and nothing made."""
    before = place.seen()
    done = place.cli.run(*words, **(environment or {}))
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("hpsearch: ")
    assert place.seen() == before
    return line


def refused_row(row: Row, folder: Path, environment: Mapping[str, str], begun: Mapping[int, Path]) -> str:
    place = make_place(folder, environment)
    if row.trials is not None:
        shutil.copytree(begun[row.trials], place.cli.folder / "studies")
    place.put(row.files)
    return refused(place, row.words, row.environment)


@pytest.fixture(scope="module")
def lines(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
    begun: dict[int, Path],
) -> Iterator[Mapping[int, Future[str]]]:
    """The answers of the commands of all chosen rows, by the row's identity. Two at a time: each starts an interpreter."""
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    chosen = [call.params["row"] for call in calls if isinstance(call.params.get("row"), Row)]
    with ThreadPoolExecutor(2) as pool:
        yield {id(row): pool.submit(refused_row, row, tmp_path_factory.mktemp("row"), environment, begun) for row in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("row", [*each_row(PROMISED), *each_row(BEYOND)])
def test_it_is_refused_in_one_line_and_nothing_is_created(row: Row, lines: Mapping[int, Future[str]]) -> None:
    line = lines[id(row)].result()
    for part in row.told:
        assert part in line, line
    assert "w0rd" not in line


def test_numbers_are_numbers_however_they_are_written(place: Place) -> None:
    names = ("learning_rate", "weight_decay", "layer_norm_epsilon", "initializer_range")
    written = ("1e-4", "1.0e-4", "1E-4", "1.e-04")
    entries = "".join(
        f"  {name}: {{low: 0.00001, high: 0.5, prior: {number}}}\n" for name, number in zip(names, written, strict=True)
    )
    place.put({"s.yaml": f"parameters:\n{entries}"})
    assert place.cli.json("space", "check", "s.yaml")["baseline"] == dict.fromkeys(names, 1e-4)


def test_a_study_of_another_direction_is_refused(place: Place) -> None:
    import optuna

    url = f"sqlite:///{place.cli.folder}/hpsearch.db"
    optuna.create_study(study_name="tiny", storage=url, direction="maximize")
    line = refused(place, (*RUN, "--storage", url))
    assert "'tiny'" in line
    assert "maximize" in line
    assert "--study NAME" in line


@pytest.mark.parametrize("kind", ["postgresql_server", "mariadb_server"])
def test_a_wrong_password_is_refused_and_shown_nowhere(kind: str, place: Place, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)
    url = server.url("anything", password="wrong-w0rd")
    given: tuple[tuple[tuple[str, ...], Mapping[str, str]], ...] = (
        ((*RUN, "--storage", url), {}),
        (("status",), {"HPSEARCH_STORAGE": url}),
        (("dashboard", "--port", "0"), {"HPSEARCH_STORAGE": url}),
    )
    for words, environment in given:
        line = refused(place, words, environment)
        assert "***" in line
        assert "check the user, the password" in line
        assert "w0rd" not in line


@pytest.mark.parametrize("kind", ["postgresql_server", pytest.param("mariadb_server", marks=pytest.mark.soak)])
def test_a_password_of_odd_characters_works(kind: str, place: Place, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)
    whole = server.fresh_database()
    name, password = whole.rpartition("/")[2], "p@{ss}{}w0rd%41%(x)s/:#?"
    made = {
        "postgresql": (f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", f"ALTER DATABASE {name} OWNER TO {name}"),
        "mysql": (f"CREATE USER {name}@'%' IDENTIFIED BY '{password}'", f"GRANT ALL ON {name}.* TO {name}@'%'"),
    }
    server.execute(*made[server.kind])
    url = f"{server.kind}://{name}:{quote(password, safe='')}@127.0.0.1:{server.port}/{name}"
    done = place.cli.run(*RUN, "--storage", url, "--trials", "1", "--slots", "1")
    assert done.returncode == 0, done.stderr
    status = place.cli.run("status", "--storage", url)
    assert "1 of 1" in status.stdout, status.stderr
    told = done.stdout + done.stderr + status.stdout + status.stderr
    told += "".join(path.read_text(errors="replace") for path in place.cli.folder.rglob("*") if path.is_file())
    assert "w0rd" not in told
    server.drop(whole)


@pytest.mark.parametrize("kind", ["postgresql_server", "mariadb_server"])
def test_a_user_without_rights_is_refused(kind: str, place: Place, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(kind)
    whole = server.fresh_database()
    name = f"looker_{whole.rpartition('/')[2]}"[:30]
    made = {
        "postgresql": (f"CREATE ROLE {name} LOGIN PASSWORD 'w0rd'",),
        "mysql": (f"CREATE USER {name}@'%' IDENTIFIED BY 'w0rd'", f"GRANT SELECT ON *.* TO {name}@'%'"),
    }
    server.execute(*made[server.kind])
    line = refused(
        place, (*RUN, "--storage", f"{server.kind}://{name}:w0rd@127.0.0.1:{server.port}/{whole.rpartition('/')[2]}")
    )
    assert "denied" in line
    assert "grant the user the right" in line
    assert "w0rd" not in line
    server.drop(whole)


def test_a_baseline_that_only_the_slots_find_too_large_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.cli.folder)
    place.put({"s.yaml": SPACE.replace("d_model: 16", "d_model: 1000000")})
    before = place.seen()
    space, studies = load_space(Path("s.yaml")), Path("studies")
    request = Request(space, "tiny", 5, f"sqlite:///{studies}/hpsearch.db", studies, place.cache)
    unknown = replace(on_this_machine("1", "cpu"), memory_bytes=None)
    with pytest.raises(BadInput, match=r"s\.yaml:1:1: the baseline \(the priors\) cannot be trained"):
        work(request, unknown, lambda _: contextlib.nullcontext(Silent()), lambda _: None)
    assert place.seen() == before
