"""Short decays on the side of a WSD run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.training.branch import set_back
from hpsearch.training.checkpoints import load_checkpoint
from hpsearch.training.events import Answer, EvalPoint, Outcome
from hpsearch.training.schedules import BRANCH_SHARE, WSD_DECAY_FRACTION, branch_rates, learning_rate_at

EVERY = ["adamw", "adam", "sgd", "muon", "adafactor", "lion"]


def wsd(runs: Any, **settings: Any) -> Any:
    """24 steps, 6 evaluations; the decay begins after 19 of them."""
    whole = {"lr_schedule": "wsd", "max_iters": 24, "eval_interval": 4, "dropout": 0.2, "warmup_steps": 2}
    return runs.config(**(whole | settings))


def without_branches(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points without what a branch adds to them."""
    return [
        {name: value for name, value in point.items() if name not in ("flops", "metrics")}
        | {"metrics": {name: value for name, value in point["metrics"].items() if not name.startswith("branch_")}}
        for point in points
    ]


def test_a_branch_decays_as_the_schedule_does_and_is_a_stated_part_of_the_steps(runs: Any) -> None:
    config = wsd(runs, max_iters=1000, eval_interval=100, lr_decay_ratio=0.1, learning_rate=1e-2)
    rates = branch_rates(500, config)
    assert len(rates) == 500 * BRANCH_SHARE
    assert rates[0] == pytest.approx(1e-2)
    falls = [before - after for before, after in itertools.pairwise(rates)]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert rates[-1] - falls[0] == pytest.approx(1e-3)


def test_a_branch_of_the_runs_own_length_and_place_is_the_runs_own_decay(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = wsd(runs, max_iters=1000, eval_interval=100)
    monkeypatch.setattr("hpsearch.training.schedules.BRANCH_SHARE", WSD_DECAY_FRACTION / (1 - WSD_DECAY_FRACTION))
    own = [learning_rate_at(step, config) for step in range(800, 1000)]
    assert branch_rates(800, config) == pytest.approx(own)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_only_wsd_branches(runs: Any, tmp_path: Path, schedule: str) -> None:
    config = wsd(runs, lr_schedule=schedule)
    assert branch_rates(8, config) == []
    events, _ = runs.finish(config, tmp_path, branch_rungs=(2,))
    assert not any(name.startswith("branch_") for event in events if isinstance(event, EvalPoint) for name in event.metrics)


def test_nothing_branches_off_before_the_first_step_or_in_the_runs_own_decay(runs: Any) -> None:
    config = wsd(runs)
    assert [bool(branch_rates(step, config)) for step in (0, 1, 19, 20, 24)] == [False, True, True, False, False]


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_run_with_branches_is_the_run_without_them_bit_for_bit(runs: Any, tmp_path: Path, optimizer: str) -> None:
    config = wsd(runs, optimizer=optimizer)
    plain, _ = runs.finish(config, tmp_path / "plain")
    branched, result = runs.finish(config, tmp_path / "branched", branch_rungs=(2, 4, 6))
    assert result.outcome is Outcome.COMPLETE
    assert without_branches(runs.points(branched)) == without_branches(runs.points(plain))
    assert runs.weights(tmp_path / "branched") == runs.weights(tmp_path / "plain")
    found = [point["metrics"] for point in runs.points(branched)]
    assert ["branch_val_bpb" in metrics for metrics in found] == [False, True, False, True, False, False]
    assert all(metrics["branch_val_bpb"] != metrics["val_bpb"] for metrics in (found[1], found[3]))


def test_branches_are_off_unless_asked_for(runs: Any, tmp_path: Path) -> None:
    events, _ = runs.finish(wsd(runs), tmp_path)
    assert all(set(point["metrics"]) == {"val_loss", "val_bpb"} for point in runs.points(events))


def test_the_compute_of_branches_counts_and_their_tokens_do_not(runs: Any, tmp_path: Path) -> None:
    config = wsd(runs)
    plain = runs.points(runs.finish(config, tmp_path / "plain")[0])
    branched = runs.points(runs.finish(config, tmp_path / "branched", branch_rungs=(2, 4))[0])
    step = plain[0]["flops"] / config.eval_interval
    more = [(after["flops"] - before["flops"]) / step for before, after in zip(plain, branched, strict=True)]
    first, second = len(branch_rates(8, config)), len(branch_rates(16, config))
    assert (first, second) == (1, 2)
    assert more == pytest.approx([0, first, first, first + second, first + second, first + second])
    assert [point["tokens"] for point in branched] == [point["tokens"] for point in plain]


def test_a_branch_measures_what_a_run_that_decays_there_reaches(runs: Any, tmp_path: Path) -> None:
    """20 steps of which the last 4 decay: a branch after 16 steps is as long with a share of a quarter."""
    short = wsd(runs, max_iters=20, lr_decay_iters=20)
    reached = runs.points(runs.finish(short, tmp_path / "short")[0])[-1]["metrics"]["val_bpb"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpsearch.training.schedules.BRANCH_SHARE", 0.25)
        events, _ = runs.finish(wsd(runs, max_iters=40, lr_decay_iters=40), tmp_path / "long", branch_rungs=(4,))
    assert runs.points(events)[3]["metrics"]["branch_val_bpb"] == reached


def test_a_promoted_trial_has_the_curve_of_one_that_was_never_paused(runs: Any, tmp_path: Path) -> None:
    config = wsd(runs)
    whole, _ = runs.finish(config, tmp_path / "whole", branch_rungs=(2, 4))
    before, left = runs.finish(config, tmp_path / "paused", {second_point(whole): Answer.PAUSE}, branch_rungs=(2, 4))
    assert (left.outcome, left.iteration) == (Outcome.PAUSED, 8)
    after, result = runs.finish(config, tmp_path / "paused", branch_rungs=(2, 4))
    assert result.outcome is Outcome.COMPLETE
    assert runs.points(before) + runs.points(after) == runs.points(whole)
    assert runs.weights(tmp_path / "paused") == runs.weights(tmp_path / "whole")


def second_point(events: list[Any]) -> int:
    return [place for place, event in enumerate(events) if isinstance(event, EvalPoint)][1]


def test_a_run_killed_after_a_branch_repeats_it_and_counts_it_once(runs: Any, tmp_path: Path) -> None:
    config = wsd(runs)
    whole, _ = runs.finish(config, tmp_path / "whole", branch_rungs=(2,))
    runs.leave(config, tmp_path / "killed", second_point(whole) + 1, branch_rungs=(2,))
    after, _ = runs.finish(config, tmp_path / "killed", branch_rungs=(2,))
    assert runs.points(after) == runs.points(whole)[1:]


def test_a_branch_that_diverges_is_left_out_and_the_run_goes_on(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.training.loop.branch_rates", lambda iteration, config: [1e38, 1e38])
    config = wsd(runs, optimizer="sgd", grad_clip=0)
    events, result = runs.finish(config, tmp_path / "branched", branch_rungs=(2,))
    assert result.outcome is Outcome.COMPLETE
    assert "branch_val_bpb" not in runs.points(events)[1]["metrics"]
    runs.finish(config, tmp_path / "plain")
    assert runs.weights(tmp_path / "branched") == runs.weights(tmp_path / "plain")


def test_an_error_inside_is_set_back_too() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draw = torch.get_rng_state()

    def train_and_fail() -> None:
        with set_back(model, [optimizer]):
            optimizer.step()
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        train_and_fail()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(draw, torch.get_rng_state())
    assert {float(state["step"]) for state in optimizer.state_dict()["state"].values()} == {1.0}


def test_the_checkpoint_remembers_the_steps_of_branches(runs: Any, tmp_path: Path) -> None:
    runs.finish(wsd(runs), tmp_path, branch_rungs=(4,))
    newest = max((tmp_path / "checkpoints").glob("*.pt"))
    assert load_checkpoint(newest)["branch_steps"] == 2
