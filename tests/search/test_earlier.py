"""Trials of earlier studies: which are taken, what the sampler makes of them, and what a resumption needs of them."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from toy_spaces import SPACE
from toys import Toys

from hpsearch.errors import BadInput
from hpsearch.results.view import StudyView, status_dict
from hpsearch.sampling.samplers import make_sampler, suggest
from hpsearch.sampling.transfer import FIRST, RANKED, Knowledge, fitted_line, normal_scores
from hpsearch.sampling.warm_start import EarlierStudy, EarlierTrial, Source, kept, parse_source
from hpsearch.space.load import parse_space
from hpsearch.storage.records import TrialRecord, TrialState
from hpsearch.storage.store import Store
from hpsearch.tuning.study import Study

OTHER_BUDGET = SPACE.replace("max_iters: 4", "max_iters: 8")
NARROW = SPACE.replace("high: 1e-2", "high: 1e-3").replace("[16, 24]", "[16, 32]").replace("name: toy", "name: narrow")


def here(toys: Toys, name: str = "toy") -> Source:
    return Source(toys.request().storage_url, name, here=True)


def trials(study: Study) -> list[TrialRecord]:
    return study.store.trials(study.record.id)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Toys:
    """A folder with the finished study `toy`."""
    toys = Toys(tmp_path_factory.mktemp("before"), cache_dir)
    toys.run(12, sampler="random", trainer="diverges_when_steep")
    return toys


def test_a_study_starts_from_an_earlier_one_and_keeps_its_own_numbers_and_best(before: Toys, cache_dir: Path) -> None:
    (study, _), old = before.run(5, name="next", slots=1, earlier=(here(before),)), trials(before.run(12)[0])
    (taken,) = kept(study.record)
    assert (taken.found, len(taken.trials), taken.differs(study.record)) == (12, 12, [])
    mine = trials(study)
    assert [trial.number for trial in mine] == [0, 1, 2, 3, 4]
    assert [frozen.number for frozen in study.optuna.trials] == [0, 1, 2, 3, 4]
    assert [trial.proposed_by for trial in mine[:2]] == ["prior", "earlier"]
    best = min((trial for trial in old if trial.state is TrialState.COMPLETE), key=lambda trial: trial.value or 0.0)
    assert mine[1].params == best.params
    # Twelve trials are a start: the model proposes at once.
    assert {trial.proposed_by for trial in mine[2:]} <= {"gp", "tpe", "wide", "near-prior"}
    assert study.optuna.best_trial.number in range(5)


def test_a_diverged_trial_of_an_earlier_study_counts_as_its_worst(before: Toys) -> None:
    old = trials(before.run(12)[0])
    diverged = [trial.params for trial in old if trial.reason.startswith("diverged")]
    assert diverged
    (taken,) = kept(before.run(1, name="worst", earlier=(here(before),))[0].record)
    worst = max(trial.value or 0.0 for trial in old if trial.state is TrialState.COMPLETE)
    assert {tuple(each.values) for each in taken.trials if each.params in diverged} == {(worst,)}


def test_what_does_not_fit_is_left_out_with_its_reason_and_number(before: Toys) -> None:
    study, _ = before.run(1, text=NARROW, earlier=(here(before),))
    (taken,) = kept(study.record)
    old = trials(before.run(12)[0])
    steep = [trial for trial in old if trial.params["learning_rate"] > 1e-3]
    wide = [trial for trial in old if trial not in steep and trial.params["d_model"] == 24]
    assert sum(taken.left_out.values()) == len(steep) + len(wide)
    said = {reason.partition(" ")[0]: reason for reason in taken.left_out}
    assert said["learning_rate"] == f"learning_rate {steep[0].params['learning_rate']:.6g} is above high 0.001"
    if wide:
        assert said["d_model"] == "d_model 24 is not among the choices 16, 32"
    assert len(taken.trials) == 12 - sum(taken.left_out.values())
    (shown,) = status_dict(StudyView.load(study.store, study.record))["earlier"]
    assert (shown["taken"], shown["left_out"], "trials" in shown) == (len(taken.trials), taken.left_out, False)
    told = taken.sentences(study.record)
    inform = f"{len(taken.trials)} of 12 trials inform the sampler"
    assert told[0] == f"from toy: {inform}, with their values (same text, same budget)"
    assert f"{sum(taken.left_out.values())} trials are left out: " in told[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SPACE.replace("num_layers: 1", "num_layers: 2"), r"num_layers is 1 there and 2 here \(12\)"),
        (SPACE.replace("d_ff: 32", "d_ff: 3 * d_model"), r"d_ff is 32 there and 48 here \("),
        (SPACE + "  grad_clip: 0.5\n", r"grad_clip is \S+ there and 0.5 here"),
        (SPACE.replace("1e-4, high: 1e-2", "1e-7, high: 1e-6").replace("prior: 1e-3", "prior: 1e-6"), "is above high 1e-06"),
    ],
)
def test_a_study_of_which_nothing_fits_is_refused_and_nothing_is_created(before: Toys, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        before.run(1, text=text, name="refused", earlier=(here(before),))
    with Store.open(here(before).url, create=False) as store:
        assert store.find_study("refused") is None


def test_other_budgets_and_texts_inform_by_rank_only(before: Toys) -> None:
    study, _ = before.run(3, text=OTHER_BUDGET, name="longer", slots=1, earlier=(here(before),))
    (taken,) = kept(study.record)
    assert taken.differs(study.record) == ["another budget"]
    assert taken.differs(replace(study.record, data_fingerprint="other")) == ["another text", "another budget"]
    assert [trial.proposed_by for trial in trials(study)] == ["prior", "earlier", "earlier"]


def test_a_resumption_needs_the_same_studies_but_not_their_database(toys: Toys, tmp_path: Path, cache_dir: Path) -> None:
    old = Toys(tmp_path / "old", cache_dir)
    old.folder.mkdir()
    old.run(6, sampler="random")
    source = parse_source(f"{tmp_path}/old/hpsearch.db#toy", toys.request().storage_url)
    assert not source.here
    study, _ = toys.run(3, slots=1, earlier=(source,))
    assert kept(study.record)[0].label == f"sqlite:///{tmp_path}/old/hpsearch.db#toy"
    (tmp_path / "old" / "hpsearch.db").unlink()
    study, ended = toys.run(5, slots=1, earlier=(source,))
    assert ended == "5 trials are done"
    study, ended = toys.run(6, slots=1)
    assert ended == "6 trials are done"
    assert len(kept(study.record)[0].trials) == 6
    with pytest.raises(BadInput, match=r"--from else: study 'toy' was begun with --from sqlite://.*#toy; leave the option out"):
        toys.run(6, earlier=(here(toys, "else"),))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["nothing"], r"--from nothing: no study 'nothing' in"),
        (["toy", "toy"], "--from toy: named twice; its trials would count twice"),
        (["again"], "--from again: a study cannot start from itself"),
    ],
)
def test_a_study_that_cannot_be_started_from_is_refused(before: Toys, names: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        before.run(1, name="again", earlier=tuple(here(before, name) for name in names))


def test_samplers_that_learn_nothing_are_refused(before: Toys) -> None:
    for name in ("random", "qmc", "cmaes"):
        with pytest.raises(BadInput, match=f"--from: the sampler {name} learns nothing from earlier studies; use auto"):
            before.run(1, name="blind", sampler=name, earlier=(here(before),))


def test_a_study_without_earlier_ones_refuses_them_later(before: Toys) -> None:
    before.run(1, name="plain")
    with pytest.raises(BadInput, match="study 'plain' was begun without it"):
        before.run(2, name="plain", earlier=(here(before),))


def test_sources_are_read_from_their_words(tmp_path: Path) -> None:
    own = f"sqlite:///{tmp_path}/hpsearch.db"
    assert parse_source("lm", own) == Source(own, "lm", here=True)
    assert parse_source(f"{own}#lm", own).here
    assert parse_source("postgresql://me:se#cret@host/db#lm", own).name == "lm"
    assert "secret" not in str(parse_source("postgresql://me:secret@host/db#lm", own))
    for wrong in ("postgresql://host/db", "#lm", f"{own}#", f"{tmp_path}/none.db#lm", ""):
        with pytest.raises(BadInput, match="--from"):
            parse_source(wrong, own)


# What a sampler makes of them

RATES = parse_space("name: rates\nparameters:\n  learning_rate: {low: 1e-5, high: 1e-1, log: true, prior: 1e-2}\n")


def earlier(study: Study, best: float, count: int = 20, **changes: object) -> EarlierStudy:
    """Trials spread over RATES, the best at `best`."""
    rates = [10 ** (-5 + 4 * index / (count - 1)) for index in range(count)]
    found = [EarlierTrial({"learning_rate": rate}, [7 + abs(math.log10(rate / best))]) for rate in rates]
    (known,) = kept(study.record)
    return replace(known, trials=found, found=count, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def any_study(before: Toys) -> Study:
    return before.run(1, name="any", earlier=(here(before),))[0]


@pytest.mark.parametrize("name", ["auto", "tpe", "gp"])
@pytest.mark.parametrize("same_measure", [True, False])
def test_the_sampler_looks_where_earlier_studies_were_good(any_study: Study, name: str, same_measure: bool) -> None:
    record = any_study.record if same_measure else replace(any_study.record, data_fingerprint="other")
    knowledge = Knowledge([earlier(any_study, best=1e-4)], lambda: record, RATES)
    study = optuna.create_study(sampler=make_sampler(name, RATES, 0, 0, knowledge=knowledge))
    proposed = []
    for _ in range(8):
        trial = study.ask()
        rate = float(suggest(trial, RATES)["learning_rate"])
        proposed.append(rate)
        study.tell(trial, (7 if same_measure else 2) + abs(math.log10(rate / 1e-4)))
    away = statistics.median(abs(math.log10(rate / 1e-4)) for rate in proposed)
    assert away < 0.6, proposed
    assert len(study.trials) == 8


def test_a_misleading_earlier_study_is_recovered_from(any_study: Study) -> None:
    record = replace(any_study.record, data_fingerprint="other")
    knowledge = Knowledge([earlier(any_study, best=1e-5)], lambda: record, RATES)
    study = optuna.create_study(sampler=make_sampler("auto", RATES, 1, 0, knowledge=knowledge))
    for _ in range(25):
        trial = study.ask()
        study.tell(trial, 2 + abs(math.log10(float(suggest(trial, RATES)["learning_rate"]) / 3e-2)))
    assert study.best_value < 2.1


def test_ranks_give_way_to_the_studys_own_trials_and_values_do_not(any_study: Study) -> None:
    other = replace(any_study.record, data_fingerprint="other")
    before = earlier(any_study, best=1e-4, count=80)
    own = optuna.create_study()
    shown: list[tuple[int, int]] = []
    for count in (0, 8, 32, 600):
        while len(own.trials) < count:
            own.add_trial(
                optuna.trial.create_trial(
                    value=2 + abs(math.log10(1.01e-5 * (1 + len(own.trials)) / 1e-4)),
                    params={"learning_rate": 1.01e-5 * (1 + len(own.trials))},
                    distributions=RATES.distributions(),
                )
            )
        by = [Knowledge([before], lambda record=record: record, RATES) for record in (other, any_study.record)]  # type: ignore[misc]
        shown.append((len(by[0].trials(own.trials)), len(by[1].trials(own.trials))))
    assert shown == [(RANKED, 80), (RANKED, 80), (RANKED // 4, 80), (0, 80)]


def test_an_earlier_study_that_predicts_badly_is_no_longer_shown(any_study: Study) -> None:
    other = replace(any_study.record, data_fingerprint="other")
    own = optuna.create_study()
    for index in range(8):
        rate = 10 ** (-4.9 + index / 2)
        own.add_trial(
            optuna.trial.create_trial(
                value=2 - math.log10(rate), params={"learning_rate": rate}, distributions=RATES.distributions()
            )
        )
    shown = [len(Knowledge([earlier(any_study, best)], lambda: other, RATES).trials(own.trials)) for best in (1e-5, 1e-1)]
    assert shown == [0, 20]


def test_the_studys_own_result_replaces_the_earlier_one_of_the_same_configuration(any_study: Study) -> None:
    before = earlier(any_study, best=1e-4)
    own = optuna.trial.create_trial(value=9.0, params=before.trials[3].params, distributions=RATES.distributions())
    knowledge = Knowledge([before], lambda: any_study.record, RATES)
    shown = knowledge.trials([own])
    assert len(shown) == 19
    assert all(trial.params != own.params and trial.state is OptunaState.COMPLETE for trial in shown)


def test_the_best_of_each_study_comes_before_the_second_best_of_one(any_study: Study) -> None:
    two = [earlier(any_study, best, data_fingerprint="other") for best in (1e-5, 1e-1)]
    first = Knowledge(two, lambda: any_study.record, RATES).first()
    assert [round(math.log10(each["learning_rate"]), 1) for each in first][:2] == [-5.0, -1.0]
    assert len(first) == FIRST


def test_scores_are_brought_to_the_scale_on_which_they_predict() -> None:
    scores = normal_scores([30.0, 10.0, 20.0, 1e9, 25.0, 5.0])
    assert list(np.argsort(scores)) == [5, 1, 2, 4, 0, 3]
    values = [2 + 0.1 * score for score in scores]
    line = fitted_line(scores, values, spread=0.05)
    assert line is not None
    assert line[0] == pytest.approx(2.0, abs=0.01)
    assert line[1] == pytest.approx(0.1, abs=0.02)
    assert fitted_line(scores, values[::-1], spread=0.05) is None
    # One value gives the place, and the earlier study's own spread the slope.
    first = fitted_line(scores[:1], [2.0], spread=0.05)
    assert first is not None
    assert first[1] == pytest.approx(0.1)
