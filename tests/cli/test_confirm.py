"""`hpsearch confirm` and `run --confirm` as a person types them, on a real study."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli import Cli
from ruamel.yaml import YAML
from tiny import SPACE
from waiting import wait_for

from hpsearch.storage.leases import this_process
from hpsearch.storage.store import Store

CONFIRM = ("confirm", "--study", "tiny", "--top", "1", "--device", "cpu")


def copy_of(finished: Cli, folder: Path) -> Cli:
    """The finished study in a folder of its own, to be added to."""
    shutil.copytree(finished.folder, folder, dirs_exist_ok=True)
    return Cli(folder, finished.environment)


@pytest.fixture(scope="module")
def confirmed(finished: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, dict[str, Any]]:
    """A study that was confirmed on two seeds, and what that said."""
    cli = copy_of(finished, tmp_path_factory.mktemp("confirmed"))
    return cli, cli.json(*CONFIRM, "--seeds", "2")


def values(document: dict[str, Any]) -> dict[tuple[int, int], float]:
    return {(each["trial"], int(seed)): value for each in document["confirmed"] for seed, value in each["values"].items()}


def test_the_best_and_the_default_are_retrained_on_the_same_fresh_seeds(confirmed: tuple[Cli, dict[str, Any]]) -> None:
    cli, document = confirmed
    best = cli.json("status")["best"]["number"]
    assert (document["study"], document["first"], document["default"]) == ("tiny", best, 0)
    assert (document["complete"], document["failures"], document["seeds"]) == (True, [], [1, 2])
    assert set(values(document)) == {(number, seed) for number in (0, best) for seed in (1, 2)}
    assert len(set(values(document).values())) == 4
    assert document["noise"] > 0
    assert document["beats_default"] in (True, False)
    assert not list((cli.folder / "studies" / "0001-tiny" / "confirm").rglob("*.pt"))


def test_a_retraining_is_what_train_gives_for_that_seed(confirmed: tuple[Cli, dict[str, Any]], tmp_path: Path) -> None:
    cli, document = confirmed
    text = cli.ok("export", "--trial", "0")
    config = tmp_path / "seed.yaml"
    config.write_text(re.sub(r"^  seed: 0 ", "  seed: 2 ", text, flags=re.MULTILINE))
    again = cli.json("train", "--config", str(config), "--out", str(tmp_path / "model"), "--device", "cpu")
    assert again["metrics"]["val_bpb"] == values(document)[0, 2]


def test_status_export_and_report_carry_the_verdict(confirmed: tuple[Cli, dict[str, Any]], tmp_path: Path) -> None:
    cli, document = confirmed
    assert f"verdict  {document['sentences'][0]}" in cli.ok("status")
    assert cli.json("status")["confirmation"]["confirmed"] == document["confirmed"]
    exported = cli.ok("export")
    for part in ("# Confirmed: val_bpb ", " over 2 seeds", "# Default (trial 0): val_bpb ", "# Verdict: "):
        assert part in exported
    assert YAML(typ="safe").load(exported)["study"]["trial"] == document["first"]
    study = cli.folder / "studies" / "0001-tiny"
    assert (study / "best.yaml").read_text() == exported
    page = (study / "report.html").read_text()
    assert 'data-figure="confirmation"' in page
    assert f"{document['first']} (search best)" in page


def test_the_preferred_trial_is_retrained_too_and_exported_with_what_came_of_it(
    confirmed: tuple[Cli, dict[str, Any]], tmp_path: Path
) -> None:
    cli = copy_of(confirmed[0], tmp_path / "preferred")
    best = confirmed[1]["first"]
    whole = [trial["number"] for trial in cli.json("trials") if trial["state"] == "complete"]
    small = next(number for number in whole if number not in (0, best))
    # The tiny study's best is its smallest trial too: another one is made to look smaller.
    with closing(sqlite3.connect(cli.folder / "studies" / "hpsearch.db")) as database:
        database.execute("UPDATE hps_trials SET num_parameters = 1 WHERE number = ?", (small,))
        database.commit()
    assert YAML(typ="safe").load(cli.ok("export", "--prefer", "smallest-within 100%"))["study"]["trial"] == small
    document = cli.json(*CONFIRM, "--seeds", "2", "--prefer", "smallest-within 100%")
    assert {each["trial"] for each in document["confirmed"]} == {0, best, small}
    assert document["first"] == best
    assert "# Confirmed: val_bpb " in cli.ok("export", "--prefer", "smallest-within 100%")


def test_the_same_again_does_nothing_and_more_seeds_add_the_difference(
    confirmed: tuple[Cli, dict[str, Any]], tmp_path: Path
) -> None:
    _, document = confirmed
    cli = copy_of(confirmed[0], tmp_path / "more")
    again = cli.run(*CONFIRM, "--seeds", "2")
    assert again.returncode == 0
    assert "all of it is stored already" in again.stderr
    assert "confirmation over seeds 1, 2" in again.stdout
    more = cli.run(*CONFIRM, "--seeds", "3", "--json")
    assert "2 retrainings on fresh seeds" in more.stderr
    whole = json.loads(more.stdout)
    assert whole["seeds"] == [1, 2, 3]
    assert values(document).items() <= values(whole).items()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_confirmation_goes_on_and_ends_with_the_same_values(
    confirmed: tuple[Cli, dict[str, Any]], finished: Cli, tmp_path: Path, number: signal.Signals
) -> None:
    _, document = confirmed
    cli = copy_of(finished, tmp_path / "killed")
    running = cli.start(*CONFIRM, "--seeds", "2", "--slots", "1")
    database = cli.folder / "studies" / "hpsearch.db"

    def stored() -> int:
        with Store.open(f"sqlite:///{database}", create=False) as store:
            return len(store.confirmations(store.study("tiny").id))

    wait_for(lambda: stored() >= 1, running)
    os.killpg(running.pid, number)
    _, told = running.communicate(timeout=60)
    if number is signal.SIGINT:
        assert running.returncode == 130
        assert "the same command goes on" in told
        assert "Traceback" not in told
    before = stored()
    assert 1 <= before < 4, "it was interrupted in the middle"
    done = cli.run(*CONFIRM, "--seeds", "2", "--slots", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert f"confirming study 'tiny': {4 - before} retraining" in done.stderr
    assert values(json.loads(done.stdout)) == values(document)
    assert cli.json("status")["owner"] is None


def test_a_study_that_another_process_works_on_is_left_alone(finished: Cli, tmp_path: Path) -> None:
    cli = copy_of(finished, tmp_path / "owned")
    with Store.open(f"sqlite:///{cli.folder / 'studies' / 'hpsearch.db'}", create=False) as store:
        record, owner = store.study("tiny"), this_process()
        store.acquire(record.id, owner, 300)
        done = cli.run(*CONFIRM, "--seeds", "1")
        store.release(record.id, owner)
        assert (done.returncode, f"owned by process {os.getpid()}" in done.stderr) == (3, True)
        assert store.confirmations(record.id) == []


def test_a_retraining_that_takes_no_step_within_the_step_limit_loses_its_slot(finished: Cli, tmp_path: Path) -> None:
    cli = copy_of(finished, tmp_path / "hung")
    done = cli.run(*CONFIRM, "--seeds", "1", "--slots", "1", "--step-limit", "0.0001")
    assert done.returncode == 5, done.stderr
    assert "nothing could be retrained: trial 0 on seed 1: no step for 0.0001 s" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--top", "0"), "--top 0: give a number of trials from 1"),
        (("--prefer", "smalest-within 1%"), "did you mean 'smallest-within'"),
        (("--seeds", "0"), "--seeds 0: give a number of seeds from 1"),
        (("--step-limit", "soon"), "--step-limit soon: give a number of seconds above 0"),
        (("--slots", "none"), "--slots none: give a whole number"),
        (("--study", "tinny"), "did you mean 'tiny'"),
        (("--device", "gpu"), "--device gpu: use auto"),
    ],
)
def test_bad_input_is_refused_in_one_line(finished: Cli, words: tuple[str, ...], told: str) -> None:
    done = finished.run("confirm", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_run_confirms_at_its_end(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    done = cli.run(*("run", "--space", "tiny.yaml", "--trials", "2", "--confirm", "--top", "1", "--seeds", "2"))
    assert done.returncode == 0, done.stderr
    assert "confirmation over seeds 1, 2 (val_bpb, lower is better)" in done.stdout
    document = cli.json("status")["confirmation"]
    assert document["seeds"] == [1, 2]
    best = (cli.folder / "studies" / "0001-tiny" / "best.yaml").read_text()
    assert "# Confirmed: val_bpb " in best
