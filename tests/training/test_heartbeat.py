"""Signs of life between events, and the answer that reaches a run there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpsearch.training.events import Answer, CheckpointSaved, Outcome
from hpsearch.training.heartbeat import beat, listening


class Heart:
    """Counts beats, and asks for something at one of them and ever after."""

    def __init__(self, at: int | None = None, answer: Answer = Answer.PAUSE) -> None:
        self.beats, self.at, self.answer = 0, at, answer

    def __call__(self) -> Answer:
        self.beats += 1
        return Answer.CONTINUE if self.at is None or self.beats < self.at else self.answer


def test_nobody_need_listen() -> None:
    assert beat() is Answer.CONTINUE


def test_a_listener_hears_only_while_it_listens() -> None:
    heart = Heart()
    with listening(heart):
        beat()
    beat()
    assert heart.beats == 1


def test_a_run_beats_at_every_step_evaluation_and_generated_token(runs: Any, tmp_path: Path) -> None:
    config = runs.config(log_interval=1000, eval_interval=12, max_new_tokens=8)
    heart = Heart()
    with listening(heart):
        runs.finish(config, tmp_path)
    assert heart.beats >= 12 + 1 + 8


def test_a_run_is_paused_between_two_steps_and_ends_as_the_undisturbed_one(runs: Any, tmp_path: Path) -> None:
    config = runs.config(log_interval=1000, eval_interval=12, dropout=0.2)
    undisturbed, _ = runs.finish(config, tmp_path / "whole")
    for at in range(1, 25, 4):
        folder = tmp_path / f"paused-{at}"
        with listening(Heart(at)):
            events, result = runs.finish(config, folder)
        assert result.outcome is Outcome.PAUSED
        assert result.iteration < 13
        assert [type(event) for event in events] == [CheckpointSaved]
        assert events[0].iteration == result.iteration
        after, result = runs.finish(config, folder)
        assert result.outcome is Outcome.COMPLETE
        assert runs.points(after) == runs.points(undisturbed)
        assert runs.weights(folder) == runs.weights(tmp_path / "whole")


def test_a_run_is_stopped_between_two_steps(runs: Any, tmp_path: Path) -> None:
    with listening(Heart(5, Answer.STOP)):
        events, result = runs.finish(runs.config(log_interval=1000, eval_interval=12), tmp_path)
    assert (result.outcome, events) == (Outcome.STOPPED, [])
    assert 0 < result.iteration < 12
