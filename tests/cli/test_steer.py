"""A real study in the background, watched and steered from other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cli import Cli
from tiny import SPACE

from hpsearch.results.formatting import short

TRIALS = 2
RUN = ("run", "--space", "slow.yaml", "--trials", str(TRIALS), "--device", "cpu", "--slots", "1", "--pruner", "none")

pytestmark = pytest.mark.timeout(600)


def write_space(cli: Cli, tokens: int) -> None:
    text = SPACE.replace("name: tiny", "name: slow").replace(
        "tokens: 7680, evaluations: 4", f"tokens: {tokens}, evaluations: 8"
    )
    (cli.folder / "slow.yaml").write_text(text)


@contextmanager
def running(cli: Cli) -> Iterator[subprocess.Popen[str]]:
    """`hpsearch run` in the background, as far as its database."""
    process = cli.start(*RUN)
    try:
        wait_for(lambda: cli.run("status").returncode == 0, process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        if condition():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.1)
    raise AssertionError("it never happened")


def trial(cli: Cli, number: int) -> dict[str, Any]:
    found: list[dict[str, Any]] = [trial for trial in cli.json("trials") if trial["number"] == number]
    return found[0] if found else {"state": "none", "reason": ""}


def test_a_study_is_stopped_steered_and_resumed_from_another_terminal(cli: Cli) -> None:
    write_space(cli, 960_000)  # Nobody waits for the end of a trial.
    with running(cli) as process:
        cli.ok("enqueue", "--set", "learning_rate=0.0123", "--set", "optimizer=sgd")
        wait_for(lambda: trial(cli, 0)["state"] == "running", process)
        cli.ok("prune", "0")
        wait_for(lambda: trial(cli, 1)["state"] == "running", process)
        cli.ok("stop", "--wait")
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "another terminal" in told
    pruned, enqueued = cli.json("trials")
    assert pruned["state"] == "pruned"
    assert "by hand" in pruned["reason"]
    assert (enqueued["state"], enqueued["proposed_by"]) == ("paused", "enqueued")
    assert enqueued["params"]["learning_rate"] == 0.0123
    assert enqueued["params"]["optimizer"] == "sgd"
    assert 0.8 <= enqueued["params"]["momentum"] <= 0.99
    done = cli.run("stop")
    assert (done.returncode, "nobody works on study 'slow'" in done.stderr) == (0, True)
    refused = cli.run("prune", "0")
    assert (refused.returncode, "has ended (pruned)" in refused.stderr) == (2, True)
    # A request that nobody reads waits for the next coordinator, for which the space in the database is enough.
    done = cli.run("prune", "1")
    assert (done.returncode, "when the study goes on" in done.stderr) == (0, True)
    (cli.folder / "slow.yaml").unlink()
    done = cli.run("resume", "--slots", "1", "--device", "cpu")
    assert (done.returncode, "no trial succeeded" in done.stderr) == (5, True), done.stderr
    assert [(trial["number"], trial["state"]) for trial in cli.json("trials")] == [(0, "pruned"), (1, "pruned")]
    done = cli.run("enqueue", "--set", "dropout=0")
    assert (done.returncode, "more with `hpsearch resume --study slow --trials N`" in done.stderr) == (0, True)


def test_a_study_is_watched_from_another_terminal_until_it_ends(cli: Cli) -> None:
    write_space(cli, 24_000)
    with running(cli) as process:
        watchers = [cli.start("watch", *words) for words in (("--json",), ())]
        leaver = cli.start("watch", "--json")
        try:
            assert leaver.stdout is not None
            assert json.loads(leaver.stdout.readline())["event"] == "opened"
            leaver.send_signal(signal.SIGINT)
            _, told = leaver.communicate(timeout=60)
            assert (leaver.returncode, "goes on" in told) == (0, True)
            process.communicate(timeout=400)
            assert process.returncode == 0
            (lines, errors), (printed, plain) = (watcher.communicate(timeout=60) for watcher in watchers)
        finally:
            for each in (*watchers, leaver):
                if each.poll() is None:
                    os.killpg(each.pid, signal.SIGKILL)
                    each.communicate()
    assert [watcher.returncode for watcher in watchers] == [0, 0], (errors, plain)
    events = [json.loads(line) for line in lines.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("opened", "closed")
    assert events[-1]["finished_reason"] == f"{TRIALS} trials are done"
    by_kind = {kind: [event["trial"] for event in events if event["event"] == kind] for kind in ("started", "ended")}
    assert by_kind["started"] == by_kind["ended"] == list(range(TRIALS))
    for number in range(TRIALS):
        seen = [event["rung"] for event in events if event["event"] == "evaluated" and event["trial"] == number]
        assert seen == list(range(1, 9))
    assert f"trial {TRIALS - 1} complete" in plain
    assert printed.startswith("best: trial ")
    assert "\x1b" not in plain + printed  # TERM=dumb
    after = cli.run("watch")
    assert (after.returncode, "is finished" in after.stderr) == (0, True)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("learning_rate=1", "is searched from 0.0001 to 0.03"),
        ("learning_rate=fast", "is searched from 0.0001 to 0.03"),
        ("dropout=0.07", "in steps of 0.05"),
        ("batch_size=5", "is one of 4, 8"),
        ("momentum=0.9", "it needs optimizer == 'sgd'"),
        ("d_model=32", "not searched in this study"),
        ("learning_rte=1e-3", "did you mean 'learning_rate'"),
        ("learning_rate", "write it as NAME=VALUE"),
    ],
)
def test_a_configuration_that_does_not_fit_the_space_is_refused(finished: Cli, setting: str, said: str) -> None:
    done = finished.run("enqueue", "--set", setting)
    assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr


def test_what_is_left_open_is_the_baselines_and_what_no_trial_can_be_made_of_is_refused(cli: Cli) -> None:
    text = SPACE.replace("prior: 3e-4", "prior: auto").replace("d_model: 16", "d_model: {choices: [16, 64], prior: 16}")
    (cli.folder / "tiny.yaml").write_text(text + "constraints: {num_parameters: {max: 2e4}}\n")
    run = cli.run("run", "--space", "tiny.yaml", "--trials", "1", "--slots", "1", "--device", "cpu")
    assert run.returncode == 0, run.stderr
    rate = short(trial(cli, 0)["params"]["learning_rate"])
    done = cli.run("enqueue", "--set", "optimizer=sgd", "--set", "dropout=0")
    assert done.returncode == 0, done.stderr
    assert f"learning_rate {rate}," in done.stderr
    assert "momentum 0." in done.stderr  # Which trial 0 has not.
    refused = cli.run("enqueue", "--set", "d_model=64")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "--set d_model=64: num_parameters is " in refused.stderr
    assert "constrained to at most 20,000" in refused.stderr


@pytest.mark.parametrize("verb", [("watch",), ("stop",), ("resume",), ("prune", "1"), ("enqueue", "--set", "dropout=0")])
def test_a_missing_study_is_refused_with_the_nearest(finished: Cli, verb: tuple[str, ...]) -> None:
    done = finished.run(*verb, "--study", "tiyn")
    assert (done.returncode, "did you mean 'tiny'" in done.stderr) == (2, True)


def test_the_shell_completes_verbs_and_names_of_studies(finished: Cli) -> None:
    def completed(line: str) -> str:
        words = {"_HPSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()))}
        return finished.run(**words).stdout

    assert "watch" in completed("hpsearch ").split()
    assert completed("hpsearch status --study ").split() == ["tiny"]


def test_a_folder_without_studies_completes_to_nothing_and_makes_nothing(cli: Cli) -> None:
    words = {"_HPSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": "hpsearch status --study ", "COMP_CWORD": "3"}
    done = cli.run(**words)
    assert done.stdout.strip() == ""
    assert cli.files() == []
