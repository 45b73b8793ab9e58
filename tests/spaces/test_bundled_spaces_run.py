"""Each space that ships with the program is searched for a few trials by the real command."""

from __future__ import annotations

import pytest
from cli import Cli

from hpsearch.space.bundled import bundled_spaces
from hpsearch.space.load import load_space

MEASURES = {
    "encoder": "val_masked_bpb",
    "encoder_decoder": "val_bpb",
    "lm": "val_bpb",
    "modern": "val_bpb",
    "quick": "val_bpb",
}
TOKENS = dict.fromkeys(MEASURES, 2048) | {"encoder": 4096}
"""Of a trial: one batch of the baseline for each evaluation."""
TRIALS, EVALUATIONS = 3, 2


def run(cli: Cli, space: str) -> None:
    """Search what the space searches; only its evaluation and its samples are shortened."""
    cli.ok(
        *("run", "--space", space, "--trials", f"{TRIALS}", "--slots", "2"),
        *(
            "--budget",
            f"tokens={TOKENS[space]},evaluations={EVALUATIONS}",
            "--set",
            "eval_iters=1",
            "--set",
            "max_new_tokens=8",
        ),
    )


def check(cli: Cli, space: str) -> None:
    """All trials ended well, were judged by the space's objective, and have what the space searches."""
    status = cli.json("status")
    assert (status["study"], status["objectives"]) == (space, [MEASURES[space]])
    trials = cli.json("trials")
    assert [trial["state"] for trial in trials] == ["complete"] * TRIALS
    searched = {parameter.name for parameter in load_space(bundled_spaces()[space]).searched}
    assert set().union(*(trial["params"] for trial in trials)) <= searched
    for trial in trials:
        assert trial["value"] == trial["metrics"][MEASURES[space]]
        assert 0 < trial["value"] < 16
        assert trial["rung"] == EVALUATIONS
        assert 0 < trial["tokens"] <= TOKENS[space]
    assert status["best"]["value"] == min(trial["value"] for trial in trials)
    assert len({tuple(trial["params"].items()) for trial in trials}) == TRIALS


def test_every_bundled_space_is_run_here() -> None:
    assert sorted(bundled_spaces()) == sorted(MEASURES)


@pytest.mark.parametrize("space", ["lm", "modern", "quick"])
def test_a_bundled_space_runs(cli: Cli, space: str) -> None:
    run(cli, space)
    check(cli, space)


@pytest.mark.parametrize("space", ["encoder", "encoder_decoder"])
def test_a_bundled_space_of_masks_runs_and_its_best_model_fills_them(cli: Cli, space: str) -> None:
    run(cli, space)
    check(cli, space)
    cli.ok("export", "--out", "best.yaml")
    trained = cli.json("train", "--config", "best.yaml", "--out", "model", "--device", "cpu")
    assert trained["exported_value"] == cli.json("status")["best"]["value"]
    assert trained["metrics"][MEASURES[space]] == trained["exported_value"]
    prompts = ["The <mask>ist of names", "re<mask>rn <mask>one"]
    filled = cli.json(
        *("generate", "--model", "model", "--num-samples", "2"), *(word for prompt in prompts for word in ("--prompt", prompt))
    )
    assert [answer["prompt"] for answer in filled] == prompts
    for answer in filled:
        assert len(answer["samples"]) == 2
        assert all(sample and "<mask>" not in sample for sample in answer["samples"])
    if space == "encoder":
        # One token for each mask, and the rest of the prompt as it was.
        assert all(sample.startswith("The ") and sample.endswith("ist of names") for sample in filled[0]["samples"])
