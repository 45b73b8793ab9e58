"""The rows of a model's vocabulary: what the text and the architecture decide, and nothing else does."""

from __future__ import annotations

import json

import pytest
import yaml
from cli import Cli

SIZES = {"num_layers": 1, "d_model": 16, "d_ff": 32, "num_heads": 2, "context_length": 16, "batch_size": 2, "eval_iters": 2}
SPECIALS = {"decoder": 0, "encoder": 4, "encoder_decoder": 4}
TEXT = "Nine jumping foxes, quick & brown.\n" * 2000


def space(tokenizer: str) -> str:
    parameters = SIZES | {
        "architecture": {"choices": list(SPECIALS), "prior": "encoder"},
        "learning_rate": {"choices": [1e-3, 3e-3], "prior": 3e-3},
        "max_save_num": 1,
        "max_new_tokens": 5,
    }
    return yaml.safe_dump(
        {
            "name": "archs",
            "objective": "train_seconds",
            "data": {"text": "t.txt", "tokenizer": tokenizer},
            "budget": {"max_iters": 4, "evaluations": 2},
            "parameters": parameters,
        },
        sort_keys=False,
    )


@pytest.mark.parametrize(("tokenizer", "ordinary"), [("bytes", 256), ("chars", len(set(TEXT)) + 1)])
def test_each_architecture_of_a_study_has_its_own_vocabulary_and_retrains_to_the_last_bit(
    cli: Cli, tokenizer: str, ordinary: int
) -> None:
    (cli.folder / "t.txt").write_text(TEXT)
    (cli.folder / "s.yaml").write_text(space(tokenizer))
    cli.ok("run", "--space", "s.yaml", "--trials", "6", "--slots", "1", "--device", "cpu", "--sampler", "grid")
    trials = [trial for trial in cli.json("trials") if trial["state"] == "complete"]
    assert {trial["config"]["architecture"] for trial in trials} == set(SPECIALS)
    first = {trial["config"]["architecture"]: trial for trial in reversed(trials)}
    for architecture, trial in first.items():
        assert trial["config"]["vocab_size"] == ordinary + SPECIALS[architecture]
        cli.ok("export", "--trial", str(trial["number"]), "--out", "e.yaml")
        again = json.loads(cli.ok("train", "--config", "e.yaml", "--out", architecture, "--device", "cpu", "--json"))["metrics"]
        stored = cli.json("show", str(trial["number"]))["metrics"]
        clockless = stored.keys() - {"train_seconds"}
        assert {"val_loss", "num_parameters"} <= clockless
        assert {name: again[name] for name in clockless} == {name: stored[name] for name in clockless}


def test_a_config_whose_vocabulary_is_not_its_texts_is_refused_with_both_numbers(cli: Cli) -> None:
    (cli.folder / "t.txt").write_text(TEXT)
    config = {"data": {"text": "t.txt"}, "hyperparameters": SIZES | {"max_iters": 2, "vocab_size": 300}}
    (cli.folder / "c.yaml").write_text(yaml.safe_dump(config))
    for words in ((), ("--data", "t.txt"), ("--set", "vocab_size=300")):
        done = cli.run("train", "--config", "c.yaml", "--device", "cpu", *words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "300" in done.stderr
        assert "256" in done.stderr
    assert not (cli.folder / "model").exists()
    cli.ok("train", "--config", "c.yaml", "--device", "cpu", "--set", "vocab_size=256", "--out", "right")


def test_a_vocabulary_that_another_text_gave_is_left_out_and_said(cli: Cli) -> None:
    (cli.folder / "t.txt").write_text(TEXT)
    (cli.folder / "u.txt").write_text(TEXT.replace("foxes", "WOLVES"))
    config = {"data": {"text": "t.txt", "tokenizer": "chars"}, "hyperparameters": SIZES | {"max_iters": 2}}
    (cli.folder / "c.yaml").write_text(yaml.safe_dump(config))
    cli.ok("train", "--config", "c.yaml", "--device", "cpu", "--out", "a")
    config["hyperparameters"] |= {"vocab_size": json.loads((cli.folder / "a/config.json").read_text())["vocab_size"]}
    (cli.folder / "c.yaml").write_text(yaml.safe_dump(config))
    done = cli.run("train", "--config", "c.yaml", "--data", "u.txt", "--device", "cpu", "--out", "b")
    assert done.returncode == 0, done.stderr
    assert "vocab_size" in done.stderr
    characters = set((cli.folder / "u.txt").read_text())
    assert json.loads((cli.folder / "b/config.json").read_text())["vocab_size"] == len(characters) + 1
    # What is left beside the weights names the text that they were trained on, and trains again.
    cli.ok("train", "--config", "b/config.yaml", "--device", "cpu", "--out", "c")
