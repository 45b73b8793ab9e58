"""The forecast on a trainer whose steps take what a formula says, and on the real one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from metered_trainers import checkpoint_bytes, step_seconds
from tiny import SPACE as TINY
from toys import Toys

from hpsearch.config import TrialConfig
from hpsearch.data.corpus import Corpus
from hpsearch.errors import SpaceError
from hpsearch.execution.local_executor import LocalExecutor
from hpsearch.forecasting.benchmark import Bench, Measured, measure, measure_speed
from hpsearch.forecasting.forecast import (
    DRAWS,
    FOUND,
    MEAN_STEP,
    MODEL_EACH_S,
    MODEL_S,
    SIZES,
    THOROUGH,
    Effort,
    Forecast,
    _CostModel,
    _fit,
    _makespan,
    choose_shapes,
    compared,
    dear_evaluations,
    draw_configs,
    effort_for,
    forecast,
    held_out_tokens,
    note,
)
from hpsearch.forecasting.trajectory import likely_loss
from hpsearch.model.counting import count, update_flops
from hpsearch.sampling.auto import LATER_WIDE, START_UP, modelled_share
from hpsearch.storage.records import StudyRecord, TrialRecord, TrialState
from hpsearch.tuning.request import check, new_budget
from hpsearch.workload.feasibility import candidate

SPACE = """
name: priced
data: {text: pydoc, tokenizer: bytes}
budget: {tokens: 1e6, evaluations: 5}
parameters:
  num_layers: {low: 1, high: 4, prior: 2}
  d_model: {choices: [16, 32, 48], prior: 32}
  num_heads: {choices: [2, 3], prior: 2}
  d_ff: 4 * d_model
  batch_size: {choices: [4, 8], prior: 8}
  learning_rate: {low: 1e-4, high: 1e-2, log: true, prior: 1e-3}
  context_length: 16
  eval_iters: 2
require: [d_model % num_heads == 0]
constraints: {num_parameters: {max: 90000}}
"""


class Priced:
    """A space with what a forecast of it needs."""

    def __init__(self, toys: Toys, text: str = SPACE, sampler: str = "random") -> None:
        request = toys.request(text=text)
        checked = check(request)
        corpora: dict[int, Corpus] = {checked.baseline.vocab_size: checked.corpus}
        budget = new_budget(request)
        self.bench = Bench(request.space, toys.cache_dir, ("cpu",), 1, checked.corpus.data_fingerprint)
        self.corpus, self.baseline = checked.corpus, checked.baseline
        self.configs = draw_configs(
            request.space,
            lambda proposal: candidate(request.space, proposal, budget, toys.cache_dir, corpora),
            sampler=sampler,
        )

    def forecast(
        self, trials: int = 10, trainer: str = "metered", slots: int = 2, shapes: int = 6, drifting: bool = False
    ) -> Forecast:
        with closing(LocalExecutor(slots, 1, trainer=f"metered_trainers:{trainer}")) as executor:
            sampler, effort = "tpe" if drifting else "random", Effort(shapes)
            return forecast(self.bench, executor, self.configs, trials, self.corpus, sampler=sampler, effort=effort)

    def mean(self, of: Callable[[TrialConfig], float], trials: int = 10) -> float:
        """Of `trials` trials: the baseline, and others drawn from the space."""
        return (of(self.baseline) + (trials - 1) * fmean(map(of, self.configs[1:]))) / trials


def whole_s(config: TrialConfig) -> float:
    """Of all steps of a run on a machine that now and then does something else."""
    return MEAN_STEP * config.max_iters * step_seconds(config)


@pytest.fixture
def priced(toys: Toys) -> Priced:
    return Priced(toys)


def test_the_space_is_stood_for_by_the_baseline_and_draws_that_may_be_trials(priced: Priced, toys: Toys) -> None:
    assert len(priced.configs) == DRAWS + 1
    assert priced.configs[0] == priced.baseline
    assert {config.num_layers for config in priced.configs} == {1, 2, 3, 4}
    for config in priced.configs:
        assert config.d_model % config.num_heads == 0
        assert count(config).num_parameters <= 90_000
        assert config.max_iters * config.batch_size * 16 == pytest.approx(1e6, rel=0.01)
    assert Priced(toys).configs == priced.configs


def test_where_a_search_learns_the_best_draws_are_improved_within_the_rules(priced: Priced, toys: Toys) -> None:
    learning = Priced(toys, sampler="auto").configs
    assert learning[: DRAWS + 1] == priced.configs
    found = learning[DRAWS + 1 :]
    assert len(found) == round(FOUND * 5)
    assert max(map(likely_loss, found)) <= min(map(likely_loss, priced.configs)), "the best draw is where the others come from"
    for config in found:
        assert config.d_model % config.num_heads == 0
        assert count(config).num_parameters <= 90_000
        assert config.max_iters * config.batch_size * 16 == pytest.approx(1e6, rel=0.01)


def test_the_shapes_are_the_baseline_the_cheapest_and_the_dearest(priced: Priced) -> None:
    def cost(config: TrialConfig) -> float:
        return count(config).flops_per_token * config.batch_size

    chosen = choose_shapes(priced.configs, 3)
    assert chosen[0] == priced.baseline
    assert sorted(map(cost, chosen)) == [min(map(cost, priced.configs)), cost(priced.baseline), max(map(cost, priced.configs))]
    assert 3 < len(choose_shapes(priced.configs, 6)) <= 6, "of equal ones one is enough"
    assert choose_shapes(priced.configs[:1], 3) == [priced.baseline]
    others = [config.model_copy(update={"learning_rate": 1e-2, "optimizer": "muon"}) for config in priced.configs[1:]]
    assert choose_shapes([priced.baseline, *others], 6) == choose_shapes(priced.configs, 6), "only sizes tell them apart"


def test_where_a_search_is_likely_to_go_is_measured_without_dropout(priced: Priced) -> None:
    likely = min(priced.configs, key=likely_loss)
    baseline, best = choose_shapes(priced.configs, 2, drifting=True)
    assert baseline == priced.baseline
    assert {name: getattr(best, name) for name in SIZES} == {name: getattr(likely, name) for name in SIZES}
    assert (best.dropout, best.learning_rate) == (0.0, priced.baseline.learning_rate)
    assert choose_shapes(priced.configs, 3, drifting=True)[:2] == [baseline, best]


def test_the_forecast_finds_the_cost_of_configurations_that_it_did_not_measure(priced: Priced) -> None:
    found = priced.forecast()
    steps = priced.mean(whole_s)
    # Beside its steps a trial has five evaluations, which this trainer answers at once.
    assert found.trial.seconds == pytest.approx(steps, rel=0.05)
    assert found.seconds == pytest.approx(10 * steps / 2, rel=0.25)
    slowest = max(map(whole_s, priced.configs))
    assert found.slowest_seconds == pytest.approx(10 * slowest / 2, rel=0.05)
    assert found.trial.tokens == pytest.approx(1e6, rel=0.01)
    flops = priced.mean(lambda config: count(config).flops_per_token * 1e6)
    assert found.trial.flops == pytest.approx(flops, rel=0.03)
    # Two checkpoints are kept, and the best weights beside them.
    kept = priced.mean(lambda config: 2 * checkpoint_bytes(config) + 4 * count(config).num_parameters)
    assert found.disk_bytes == pytest.approx(10 * kept, rel=0.03)
    assert found.memory_bytes == 2 * 4_000_000


def test_the_baseline_alone_would_price_the_space_wrong(priced: Priced) -> None:
    steps, alone = fmean(map(whole_s, priced.configs)), whole_s(priced.baseline)
    assert abs(alone / steps - 1) > 0.05
    assert priced.forecast(shapes=2).trial.seconds == pytest.approx(steps, rel=0.25)
    assert priced.forecast(shapes=3).trial.seconds == pytest.approx(steps, rel=0.05)


def test_a_search_that_learns_is_forecast_where_it_goes(priced: Priced) -> None:
    # At equal tokens the largest model is the best, and takes the longest.
    random, learning = priced.forecast(trials=60), priced.forecast(trials=60, drifting=True)
    assert 1.2 * random.trial.seconds < learning.trial.seconds < priced.forecast(trials=600, drifting=True).trial.seconds
    assert learning.seconds < learning.slowest_seconds == pytest.approx(random.slowest_seconds, rel=0.05)
    few = priced.forecast(trials=5, drifting=True)
    assert few.trial.flops == priced.forecast(trials=5).trial.flops, "the first trials have nothing to learn from"


def test_what_evaluations_cost_beside_the_budget_is_told(priced: Priced) -> None:
    found = priced.forecast()
    held_out = held_out_tokens(priced.corpus)(priced.baseline)
    cost = 5 * held_out * count(priced.baseline).forward_flops_per_token
    assert found.baseline_evaluations == pytest.approx(cost / (1e6 * count(priced.baseline).flops_per_token), rel=0.01)
    assert found.trial.evaluation_flops == pytest.approx(
        priced.mean(lambda config: 5 * held_out * count(config).forward_flops_per_token), rel=0.02
    )
    assert note(found)["evaluation_flops"] == found.trial.evaluation_flops
    assert dear_evaluations(note(found)) == ""
    dear = dear_evaluations(note(replace(found, baseline_evaluations=1.25)))
    assert "evaluations cost 1.2 times what its training does" in dear
    assert "eval_iters" in dear
    assert dear_evaluations({}) == "", "a forecast of an earlier version says nothing of it"


def test_the_speed_counts_what_the_optimizer_multiplies(priced: Priced) -> None:
    muon = priced.baseline.model_copy(update={"optimizer": "muon"})
    speeds = [Measured(config, step_s=0.5).flops_per_s for config in (priced.baseline, muon)]
    assert 0.5 * (speeds[1] - speeds[0]) == update_flops(muon) > 0


def test_every_rung_is_the_same_part_of_a_trial(priced: Priced) -> None:
    found = priced.forecast()
    rungs = found.by_rung()
    assert len(rungs) == 5
    assert [cost.tokens / found.trial.tokens for cost in rungs] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rungs[-1] == found.trial


def test_a_shape_that_cannot_be_trained_is_left_out_and_none_at_all_is_an_error(priced: Priced) -> None:
    found = priced.forecast(trainer="large_ones_need_memory")
    assert {shape.config.num_layers for shape in found.shapes} <= {1, 2}
    with pytest.raises(SpaceError, match="neither the baseline"):
        priced.forecast(trainer="nothing_trains")
    with (
        closing(LocalExecutor(1, 1, trainer="metered_trainers:nothing_trains")) as executor,
        pytest.raises(SpaceError, match=r"the baseline \(the priors\) cannot be trained: ValueError: a bug"),
    ):
        measure_speed(priced.bench, executor, priced.baseline)


def test_the_speed_is_that_of_the_baseline_in_every_slot(priced: Priced) -> None:
    flops = count(priced.baseline).flops_per_token * priced.baseline.batch_size * 16
    with closing(LocalExecutor(2, 1, trainer="metered_trainers:metered")) as executor:
        speed = measure_speed(priced.bench, executor, priced.baseline)
        assert len(executor.idle()) == 2
    assert speed == pytest.approx(flops / step_seconds(priced.baseline))


def test_moments_in_which_the_machine_did_something_else_change_nothing(priced: Priced) -> None:
    flops = count(priced.baseline).flops_per_token * priced.baseline.batch_size * 16
    with closing(LocalExecutor(2, 1, trainer="metered_trainers:metered_with_hiccups")) as executor:
        speed = measure_speed(priced.bench, executor, priced.baseline)
    assert speed == pytest.approx(flops / step_seconds(priced.baseline))


def test_rates_are_fitted_to_the_least_relative_error_and_none_is_negative() -> None:
    rows = [(1.0, 1.0, 1e6), (1.0, 4.0, 5e6), (1.0, 2.0, 9e6), (1.0, 6.0, 2e6)]
    exact = _fit(rows, [2e-3 * layers + 3e-9 * flops for _, layers, flops in rows])
    assert exact == pytest.approx([0.0, 2e-3, 3e-9], abs=1e-12)
    falling = _fit([(1.0, 1.0), (1.0, 2.0)], [2.0, 1.0])
    assert min(falling) >= 0


def test_a_forecast_takes_a_small_part_of_its_study() -> None:
    efforts = [effort_for(seconds) for seconds in (20, 100, 1000)]
    assert efforts[-1] == THOROUGH
    for seconds, effort in zip((20, 100, 1000), efforts, strict=True):
        assert effort.shapes * effort.enough_s < 0.05 * seconds


def test_a_sampler_that_fits_a_model_takes_time_to_ask(priced: Priced) -> None:
    def study_s(sampler: str, trials: int) -> float:
        with closing(LocalExecutor(1, 1, trainer="metered_trainers:metered")) as executor:
            return forecast(
                priced.bench, executor, priced.configs, trials, priced.corpus, sampler=sampler, effort=Effort(1)
            ).seconds

    # Of one Gaussian process for each trial, once there is something to learn from; the trials are the same for both.
    searched, later = len(priced.bench.space.searched), 8
    fitted_s = later * (MODEL_S + MODEL_EACH_S * searched)
    # Trials here take so long that hardly an evaluation has to wait.
    assert study_s("gp", START_UP + later) - study_s("tpe", START_UP + later) == pytest.approx(fitted_s, rel=0.5)
    assert study_s("gp", START_UP) == pytest.approx(study_s("tpe", START_UP), abs=0.5 * fitted_s)


def test_in_a_large_space_fewer_trials_are_proposed_by_the_model() -> None:
    shares = [modelled_share(parameters) for parameters in (2, 8, 15, 34)]
    assert shares[0] == shares[1] == 1 - LATER_WIDE
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < shares[-1] < 0.7


def explicit(config: TrialConfig, dropout: float, loss: float) -> TrialConfig:
    return config.model_copy(update={"attention_probs_dropout_prob": dropout, "attention_loss_weight": loss})


def test_attention_weights_that_are_written_out_are_paid_for(priced: Priced) -> None:
    value_s = 1e-8

    def step_s(config: TrialConfig, times: float) -> float:
        tokens, layers = config.batch_size * config.context_length, config.num_layers
        values = layers * (4 * config.d_model + config.d_ff) + config.vocab_size
        weights = 1.5 * times * layers * config.num_heads * config.context_length
        return 1e-3 + 5e-4 * layers * (1 + 0.15 * times) + value_s * tokens * (values + weights)

    measured = []
    for index, shape in enumerate(choose_shapes(priced.configs, 6)):
        dropped = index % 2
        config = explicit(shape, 0.1 * dropped, 0.0)
        measured.append(Measured(config, step_s(shape, dropped), 0.1, 0.01, checkpoint_bytes=1000))
    model, config = _CostModel(measured, lambda _: 1, 0.0, 1), priced.configs[7]
    plain, *others = (
        model.trial(explicit(config, *given)).seconds for given in ((0.0, 0.0), (0.1, 0.0), (0.0, 1e-3), (0.1, 1e-3))
    )
    for seconds, times in zip(others, (1, 2, 2.5), strict=True):
        more_s = MEAN_STEP * config.max_iters * (step_s(config, times) - step_s(config, 0))
        assert seconds - plain == pytest.approx(more_s, rel=0.02)


def test_a_gpu_writes_none_out_for_dropout(priced: Priced) -> None:
    shapes = choose_shapes(priced.configs, 6)
    measured = [Measured(shape, step_s=step_seconds(shape), evaluation_s=0.1, checkpoint_bytes=1000) for shape in shapes]
    gpu = _CostModel(measured, lambda _: 1, 0.0, 1, fused=True)
    plain, dropped, told = (
        gpu.trial(explicit(priced.baseline, *given)).seconds for given in ((0.0, 0.0), (0.1, 0.0), (0.0, 1e-3))
    )
    assert plain == dropped < told


def test_evaluations_wait_while_the_model_is_fitted(priced: Priced) -> None:
    measured = [Measured(priced.baseline, step_s=0.01, evaluation_s=0.1, checkpoint_s=0.01, checkpoint_bytes=1000)]
    short = priced.baseline.model_copy(update={"max_iters": 5, "eval_interval": 1})

    def more_s(slots: int, config: TrialConfig, fits: float = 1.0) -> float:
        model = _CostModel(measured, lambda _: 1, 0.5, slots)
        return model.trial(config, fits).seconds - model.trial(config).seconds - 0.5 * fits

    # A trial of about 1.5 s: in four slots one is asked for all the time, and each of five evaluations waits half of 0.5 s.
    assert more_s(4, short) == pytest.approx(5 * 0.25)
    assert 0 < more_s(1, short) < 0.5 * more_s(4, short)
    assert more_s(1, short, fits=0.5) == pytest.approx(0.5 * more_s(1, short), rel=0.3)
    assert more_s(4, priced.baseline) < 0.2, "a long trial hardly meets one"


def test_the_last_trials_do_not_fill_all_slots() -> None:
    assert _makespan(10 * [2.0], slots=2) == 10.0
    assert _makespan(9 * [2.0], slots=2) == 10.0
    assert _makespan(3 * [2.0], slots=8) == 2.0
    assert _makespan([4.0, 1.0, 1.0, 1.0, 1.0], slots=2) == 4.0


def test_what_came_of_a_forecast_is_measured_on_the_work_that_was_done(priced: Priced) -> None:
    noted = note(priced.forecast(trials=4))
    record = replace(_study(), budget=replace(_study().budget, evaluations=5))
    trials = [
        TrialRecord(0, TrialState.COMPLETE, {}, {}, "tpe", rung=5),
        TrialRecord(1, TrialState.COMPLETE, {}, {}, "tpe", rung=4),
        TrialRecord(2, TrialState.PRUNED, {}, {}, "tpe", rung=2),
    ]
    found = compared(noted, record, trials, actual_s=100.0)
    assert found["done"] == pytest.approx(2.4 / 4)
    assert found["expected_s"] == pytest.approx(0.6 * noted["seconds"])
    assert found["error"] == pytest.approx(found["expected_s"] / 100 - 1)
    assert compared(noted, record, [], actual_s=0.0)["error"] is None


def test_real_runs_are_measured_from_their_start_to_their_end_and_leave_nothing(
    toys: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    priced = Priced(toys, TINY)
    with closing(LocalExecutor(2, 1)) as executor:
        found = measure(priced.bench, executor, choose_shapes(priced.configs, 3), 0.1)
        assert len(executor.idle()) == 2
    assert len(found) == 2, "the space has batches of two sizes"
    for each in found:
        assert min(each.step_s, each.start_s, each.evaluation_s, each.checkpoint_s, each.end_s) > 0
        assert each.checkpoint_bytes > 4 * count(each.config).num_parameters
        assert each.peak_bytes > 1e7
    assert list((tmp_path / "temporary").iterdir()) == []


def _study() -> StudyRecord:
    from hpsearch.storage.records import BudgetRecord

    return StudyRecord(
        name="priced",
        space_text="",
        space_digest="",
        objectives=("val_bpb",),
        data={},
        data_fingerprint="",
        budget=BudgetRecord("tokens", 1e6, 5),
        sampler="tpe",
        pruner="none",
        seed=0,
        versions={},
        host="",
        device="cpu",
        threads=1,
        folder="",
        trials_target=4,
    )
