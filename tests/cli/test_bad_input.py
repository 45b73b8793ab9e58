"""Bad input: exit code 2, one line on standard error with place and remedy, no traceback, nothing created."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cli import Cli
from tiny import SPACE

RUN = ("run", "--space", "s.yaml")
TRAIN = ("train", "--config", "c.yaml")


@dataclass(frozen=True)
class Case:
    words: tuple[str, ...]
    told: tuple[str, ...]
    """Parts of the line."""
    files: dict[str, str | bytes] = field(default_factory=dict)


def changed(old: str, new: str) -> dict[str, str | bytes]:
    assert old in SPACE
    return {"s.yaml": SPACE.replace(old, new)}


GOOD: dict[str, str | bytes] = {"s.yaml": SPACE}
CONFIG: dict[str, str | bytes] = {"c.yaml": "hyperparameters:\n  max_iters: 5\n  d_model: 16\n  num_heads: 2\n"}

CASES: dict[str, Case] = {
    "trials 0": Case((*RUN, "--trials", "0"), ("--trials 0", "at least 1"), GOOD),
    "trials a word": Case((*RUN, "--trials", "many"), ("many", "--trials"), GOOD),
    "slots negative": Case((*RUN, "--slots", "-1"), ("--slots -1", "auto"), GOOD),
    "slots a word": Case((*RUN, "--slots", "two"), ("--slots two", "auto"), GOOD),
    "timeout nan": Case((*RUN, "--timeout", "nan"), ("--timeout nan", "above 0"), GOOD),
    "seed negative": Case((*RUN, "--seed", "-3"), ("--seed -3", "from 0"), GOOD),
    "unknown sampler": Case((*RUN, "--sampler", "tpa"), ("unknown sampler 'tpa'", "did you mean 'tpe'"), GOOD),
    "unknown pruner": Case((*RUN, "--pruner", "medien"), ("unknown pruner 'medien'", "did you mean 'median'"), GOOD),
    "unknown verb": Case(("rum",), ("rum", "run")),
    "unknown option": Case((*RUN, "--trails", "5"), ("--trails", "--trials"), GOOD),
    "unknown optimizer": Case(RUN, ("s.yaml:9:", "adamm", "adamw"), changed("choices: [adamw, sgd]", "choices: [adamm, sgd]")),
    "study name empty": Case((*RUN, "--study", ""), ("--study ''", "1 to 128 characters"), GOOD),
    "study name too long": Case((*RUN, "--study", "x" * 129), ("1 to 128 characters",), GOOD),
    "study name with a slash": Case((*RUN, "--study", "../x"), ("--study '../x'", "letters, digits"), GOOD),
    "device without a GPU": Case((*RUN, "--device", "cuda"), ("--device cuda", "--device cpu"), GOOD),
    "device unknown": Case((*RUN, "--device", "gpu"), ("--device gpu", "cuda"), GOOD),
    "budget without a number": Case((*RUN, "--budget", "tokens"), ("--budget tokens", "device_seconds=15"), GOOD),
    "budget of an unknown kind": Case((*RUN, "--budget", "token=5"), ("token", "tokens"), GOOD),
    "budget too small": Case((*RUN, "--budget", "tokens=100"), ("0.781 steps", "larger --budget"), GOOD),
    "set without a value": Case((*RUN, "--set", "dropout"), ("--set dropout", "NAME=VALUE"), GOOD),
    "set unknown": Case((*RUN, "--set", "dropuot=0.1"), ("dropuot", "did you mean 'dropout'"), GOOD),
    "no such space": Case(("run", "--space", "quik"), ("quik", "quick")),
    "no such space file": Case(("run", "--space", "spaces/mine.yaml"), ("spaces/mine.yaml",)),
    "yaml syntax": Case(RUN, ("s.yaml:6:",), changed("learning_rate: {low", "learning_rate: {{low")),
    "yaml tag": Case(RUN, ("s.yaml:12:", "!!python/object"), changed("d_model: 16", "d_model: !!python/object:os.system 16")),
    "unknown key": Case(RUN, ("s.yaml:6:", "did you mean 'learning_rate'"), changed("learning_rate:", "learning_rte:")),
    "duplicate key": Case(RUN, ("s.yaml:12:", "11"), changed("num_layers: 1\n", "num_layers: 1\n  num_layers: 2\n")),
    "low above high": Case(RUN, ("s.yaml:6:", "low", "high"), changed("low: 1e-4, high: 3e-2", "low: 1e-1, high: 3e-2")),
    "log from 0": Case(RUN, ("s.yaml:8:", "log"), changed("step: 0.05, prior: 0.1", "log: true")),
    "step larger than the range": Case(RUN, ("s.yaml:8:", "step"), changed("step: 0.05", "step: 0.5")),
    "empty choices": Case(RUN, ("s.yaml:7:", "choices"), changed("choices: [4, 8], prior: 8", "choices: []")),
    "repeated choices": Case(RUN, ("s.yaml:7:", "8"), changed("choices: [4, 8]", "choices: [8, 8]")),
    "prior outside": Case(RUN, ("s.yaml:6:", "prior"), changed("prior: 3e-4", "prior: 0.5")),
    "range on a fixed setting": Case(
        RUN, ("s.yaml:17:", "eval_iters"), changed("eval_iters: 2", "eval_iters: {low: 1, high: 4}")
    ),
    "rule that nothing satisfies": Case(
        RUN, ("s.yaml:20:", "d_model % num_heads"), {"s.yaml": f"{SPACE}require: d_model % num_heads == 1\n"}
    ),
    "rule that is no expression": Case(RUN, ("s.yaml:20:",), {"s.yaml": f"{SPACE}require: __import__('os')\n"}),
    "momentum without its condition": Case(RUN, ("s.yaml:10:", "when: optimizer"), changed(", when: optimizer == 'sgd'", "")),
    "aliases that disagree": Case(RUN, ("d_model", "hidden_size"), changed("d_model: 16", "d_model: 16\n  hidden_size: 32")),
    "data missing": Case((*RUN, "--data", "absent.txt"), ("absent.txt",), GOOD),
    "data empty": Case((*RUN, "--data", "e.txt"), ("e.txt", "empty"), GOOD | {"e.txt": ""}),
    "data not UTF-8": Case((*RUN, "--data", "b.txt"), ("b.txt", "offset 3"), GOOD | {"b.txt": b"abc\xff\xfe" * 9000}),
    "data a folder without text": Case((*RUN, "--data", "d"), ("d", "text"), GOOD | {"d/x.bin": b"\x00"}),
    "data too short": Case((*RUN, "--data", "t.txt"), ("2,048",), GOOD | {"t.txt": "short text " * 20}),
    "storage with a bad scheme": Case((*RUN, "--storage", "mongo://x/y"), ("mongo", "sqlite:///"), GOOD),
    "storage in a missing folder": Case((*RUN, "--storage", "sqlite:///no/such/x.db"), ("no/such", "does not exist"), GOOD),
    "storage that is no database": Case(
        (*RUN, "--storage", "sqlite:///n.db"), ("n.db", "not a"), GOOD | {"n.db": "this is text, and no database at all " * 40}
    ),
    "studies folder that is a file": Case((*RUN, "--studies-dir", "f"), ("--studies-dir f", "is a file"), GOOD | {"f": "x"}),
    "studies folder that cannot be made": Case(
        (*RUN, "--studies-dir", "/proc/hpsearch"), ("--studies-dir /proc/hpsearch",), GOOD
    ),
    "status without a study": Case(("status",), ("no study yet", "hpsearch run")),
    "show a word": Case(("show", "first"), ("first",)),
    "export of nothing": Case(("export",), ("no study yet",)),
    "report into a missing folder": Case(("report", "--out", "no/report.html"), ("no/report.html", "does not exist")),
    "train without a config": Case(TRAIN, ("c.yaml",)),
    "train an unknown hyperparameter": Case(TRAIN, ("c.yaml:4:", "did you mean 'num_heads'"), {
        "c.yaml": CONFIG["c.yaml"].replace("num_heads", "num_haeds")  # type: ignore[arg-type, union-attr]
    }),
    "train an impossible shape": Case(TRAIN, ("c.yaml:4:", "multiple of num_heads"), {
        "c.yaml": CONFIG["c.yaml"].replace("num_heads: 2", "num_heads: 3")  # type: ignore[arg-type, union-attr]
    }),
    "train into a file": Case((*TRAIN, "--out", "o"), ("--out o", "is a file"), CONFIG | {"o": "x"}),
    "train on no threads": Case((*TRAIN, "--threads", "0"), ("--threads 0",), CONFIG),
    "generate without a model": Case(("generate", "--model", "m"), ("--model m", "hpsearch train")),
    "dashboard beyond loopback": Case(("dashboard", "--host", "0.0.0.0"), ("no study yet",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_in_one_line_and_changes_nothing(cli: Cli, case: Case) -> None:
    for name, content in case.files.items():
        path = cli.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = cli.files()
    done = cli.run(*case.words)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("space: the bundled")]
    assert line.startswith("hpsearch: ")
    for part in case.told:
        assert part in line, line
    assert cli.files() == before


def test_verbs_name_the_nearest_study_and_the_trials_that_there_are(finished: Cli) -> None:
    done = finished.run("status", "--study", "tinny")
    assert (done.returncode, "did you mean 'tiny'" in done.stderr) == (2, True)
    done = finished.run("show", "99")
    assert (done.returncode, "has no trial 99; its trials are 0 to 7" in done.stderr) == (2, True)
    done = finished.run("export", "--out", "no/such/best.yaml")
    assert (done.returncode, "the folder no/such does not exist" in done.stderr) == (2, True)
    done = finished.run("export", "--trial", "77")
    assert done.returncode == 2
    done = finished.run("dashboard", "--host", "0.0.0.0", "--port", "0")
    assert (done.returncode, "served on loopback only" in done.stderr) == (2, True)


def test_a_study_of_another_space_is_refused_with_the_difference(finished: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SPACE.replace("high: 3e-2", "high: 1e-2"))
    done = finished.run("run", "--space", str(other), "--trials", "9")
    assert done.returncode == 2
    assert "learning_rate: high 0.03 → 0.01" in done.stderr
    assert len(finished.json("trials")) == 8
