from __future__ import annotations

import pytest
from cli import Cli
from tiny import SPACE


def test_price_forecasts_and_leaves_nothing_behind(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    document = cli.json("price", "--space", "tiny.yaml", "--trials", "12", "--slots", "2", "--device", "cpu")
    assert cli.files() == ["tiny.yaml"]
    assert (document["trials"], document["slots"], document["rungs"]) == (12, 2, 4)
    trial = document["trial"]
    assert trial["tokens"] == 7680
    assert document["tokens"] == 12 * 7680
    assert document["flops"] == pytest.approx(12 * trial["flops"])
    # Trials end in pairs; the last one may be alone.
    assert 5 * trial["seconds"] < document["seconds"] < 9 * trial["seconds"]
    assert document["slowest_seconds"] >= document["seconds"]
    assert [rung["rung"] for rung in document["by_rung"]] == [1, 2, 3, 4]
    assert [rung["tokens"] for rung in document["by_rung"]] == [1920, 3840, 5760, 7680]
    assert len(document["shapes"]) > 1
    for shape in document["shapes"]:
        assert shape["flops_per_s"] > 0
    # A process with torch in it has more than this.
    assert document["memory_bytes"] > 2 * 50e6
    assert document["disk_bytes"] > 0


def test_price_tells_a_person_the_same(cli: Cli) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    told = cli.ok("price", "--space", "tiny.yaml", "--trials", "3", "--slots", "2", "--budget", "device_seconds=5")
    assert told.startswith("3 trials, 2 at a time: about ")
    for part in ("compute", "disk", "memory", "the mean trial, up to each rung", "what was measured"):
        assert part in told
    assert cli.files() == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--trials", "0"), "--trials 0: a study has at least 1 trial"),
        (("--slots", "-1"), "--slots -1: give a whole number"),
        (("--budget", "seconds"), "--budget seconds: write it as"),
        (("--set", "learning_rte=1"), "did you mean 'learning_rate'"),
        (("--data", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_bad_input_is_refused_in_one_line(cli: Cli, words: tuple[str, ...], told: str) -> None:
    (cli.folder / "tiny.yaml").write_text(SPACE)
    done = cli.run("price", "--space", "tiny.yaml", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert cli.files() == ["tiny.yaml"]


def test_a_study_remembers_what_its_forecast_was_worth(finished: Cli) -> None:
    noted = finished.json("status")["forecast"]
    assert noted["trials"] == 8
    assert 0 < noted["done"] <= 1
    assert noted["expected_s"] == pytest.approx(noted["seconds"] * noted["done"])
    assert noted["error"] == pytest.approx(noted["expected_s"] / noted["actual_s"] - 1)
    assert "forecast " in finished.ok("status")
    assert "was forecast at" in (finished.folder / "studies" / "0001-tiny" / "report.html").read_text()
