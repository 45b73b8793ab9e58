"""A synthetic study with the habits of a real one: conditional parameters, pruned, diverged and failed trials."""

from __future__ import annotations

import math
import random
from typing import Any

import optuna

from hpsearch.config import TrialConfig
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import (
    AttemptRecord,
    BudgetRecord,
    DecisionRecord,
    EndReason,
    PointRecord,
    StudyRecord,
    TrialRecord,
    TrialState,
)

SEARCHED: dict[str, Scale] = {
    "learning_rate": Scale(log=True),
    "d_model": Scale(choices=(64, 128, 256, 384)),
    "num_layers": Scale(),
    "num_heads": Scale(choices=(2, 4, 8)),
    "optimizer": Scale(choices=("adamw", "sgd", "lion")),
    "momentum": Scale(),
    "beta2": Scale(log=True),
    "dropout": Scale(),
    "weight_decay": Scale(log=True),
    "warmup_steps": Scale(),
    "batch_size": Scale(choices=(8, 16, 32)),
    "context_length": Scale(choices=(64, 128, 256)),
    "hidden_act": Scale(choices=("gelu", "relu2", "swiglu")),
    "lr_schedule": Scale(choices=("cosine", "linear", "wsd")),
    "tie_embeddings": Scale(choices=(True, False)),
}
PRIOR: dict[str, Any] = {
    "learning_rate": 3e-4,
    "d_model": 128,
    "num_layers": 4,
    "num_heads": 4,
    "optimizer": "adamw",
    "beta2": 0.99,
    "dropout": 0.1,
    "weight_decay": 0.01,
    "warmup_steps": 20,
    "batch_size": 16,
    "context_length": 128,
    "hidden_act": "gelu",
    "lr_schedule": "cosine",
    "tie_embeddings": True,
}
SAMPLE = (
    "The class statement returns a list of the objects that are defined in the\nmodule. If the method is not called, "
    "the exception is raised with the\nname of the argument <value> & the default.\n\n   >>> x = list(range(10))\n"
    "   >>> x[-1]\n   9\n"
)


def _propose(draw: random.Random) -> dict[str, Any]:
    params: dict[str, Any] = {}
    optimizer = draw.choice(("adamw", "adamw", "sgd", "lion"))
    params["learning_rate"] = 10 ** draw.uniform(-5, -2)
    params["d_model"] = draw.choice((64, 128, 256, 384))
    params["num_layers"] = draw.randint(2, 8)
    params["num_heads"] = draw.choice((2, 4, 8))
    params["optimizer"] = optimizer
    if optimizer == "sgd":
        params["momentum"] = draw.uniform(0.8, 0.99)
    else:
        params["beta2"] = draw.uniform(0.95, 0.999)
    params["dropout"] = round(0.05 * draw.randint(0, 6), 2)
    params["weight_decay"] = 10 ** draw.uniform(-4, -0.5)
    params["warmup_steps"] = draw.randint(0, 200)
    params["batch_size"] = draw.choice((8, 16, 32))
    params["context_length"] = draw.choice((64, 128, 256))
    params["hidden_act"] = draw.choice(("gelu", "relu2", "swiglu"))
    params["lr_schedule"] = draw.choice(("cosine", "linear", "wsd"))
    params["tie_embeddings"] = draw.random() < 0.5
    return params


def _floor(params: dict[str, Any], draw: random.Random) -> float:
    rate: float = math.log10(params["learning_rate"]) + 2.9
    value: float = 2.05 + 0.22 * rate**2 + 0.09 * abs(math.log2(params["d_model"] / 256)) + 0.8 * params["dropout"]
    value += {"adamw": 0.0, "lion": 0.06, "sgd": 0.7}[params["optimizer"]]
    return value + draw.gauss(0, 0.02)


def synthetic_view(trials: int = 50, evaluations: int = 10, seed: int = 0, name: str = "lm", sample: str = SAMPLE) -> StudyView:
    """A study of `trials` trials in which about 40 % are pruned, 4 % diverge and 3 % fail."""
    draw = random.Random(seed)
    budget_flops = 3.4e13
    study = StudyRecord(
        id=7,
        name=name,
        space_text="name: lm\n",
        space_digest="9f2c" * 16,
        objectives=("val_bpb",),
        data={"text": "pydoc", "tokenizer": "bytes", "validation": 0.1},
        data_fingerprint="41be" * 16,
        budget=BudgetRecord("device_seconds", 15, evaluations, budget_flops, 2.27e12, "cpu, 1 thread"),
        sampler="tpe",
        pruner="median",
        seed=0,
        versions={"hpsearch": "0.1.0", "torch": "2.13.0", "optuna": "5.0.0", "python": "3.11.7"},
        host="workstation",
        device="cpu",
        threads=1,
        folder=f"0007-{name}",
        trials_target=trials,
        created_at=1_780_000_000.0,
        finished_reason=f"all {trials} trials are done" if trials else "",
    )
    records: list[TrialRecord] = []
    points: list[PointRecord] = []
    attempts: list[AttemptRecord] = []
    decisions: list[DecisionRecord] = []
    for number in range(trials):
        params = dict(PRIOR) if number == 0 else _propose(draw)
        floor = _floor(params, draw)
        fate = draw.random() if number else 0.99
        state, reason, last, end_reason = TrialState.COMPLETE, "", evaluations, EndReason.COMPLETED
        if fate < 0.04:
            state, last = TrialState.PRUNED, draw.randint(0, evaluations // 2)
            end_reason = EndReason.DIVERGED
            reason = f"diverged: the loss is not finite at step {37 + number}"
        elif fate < 0.07:
            state, reason, last = TrialState.FAILED, "its slot was killed three times (signal 9)", draw.randint(0, 3)
            end_reason = EndReason.POISONED
        elif floor > 2.6 and fate < 0.9:
            state, last = TrialState.PRUNED, draw.randint(max(1, evaluations // 4), max(2, evaluations // 2))
            end_reason = EndReason.PRUNED_BY_PRUNER
            reason = f"val_bpb {floor:.3f} at rung {last} is worse than the median 2.412 of 12 trials"
        started = 1_780_000_000.0 + 16 * (number // 2)
        value = math.nan
        for rung in range(1, last + 1):
            part = rung / evaluations
            value = floor + (5.2 - floor) * math.exp(-5.5 * part) + draw.gauss(0, 0.01)
            points.append(
                PointRecord(
                    number,
                    rung,
                    50 * rung,
                    51_200 * rung,
                    budget_flops * part,
                    15 * part,
                    value * 0.66,
                    {"val_bpb": value, "val_loss": value * 0.69},
                    params["learning_rate"] * (1 - 0.9 * part),
                    0.8,
                    34_000.0,
                )
            )
        if state is TrialState.PRUNED:
            decisions.append(DecisionRecord(number, last, "prune", reason, "median", started + 15))
        if state is TrialState.COMPLETE and number % 5 == 4:
            decisions.append(DecisionRecord(number, evaluations // 2, "pause", "not in the best half", "halving", started + 7))
            decisions.append(DecisionRecord(number, evaluations // 2, "promote", "in the best half", "halving", started + 7))
        slot = f"slot-{number % 2}"
        attempts.append(AttemptRecord(number, 1, slot, "workstation", 4242, started, 0, started + 15, state.value))
        config = TrialConfig.build(
            {**params, "max_iters": 50 * evaluations, "eval_interval": 50, "vocab_size": 256, "d_ff": 1024}
        )
        records.append(
            TrialRecord(
                number=number,
                state=state,
                params=params,
                config=config.concrete(),
                proposed_by="baseline" if number == 0 else "tpe" if number > 10 else "tpe (start-up)",
                values=(value,) if state is TrialState.COMPLETE else None,
                metrics={"val_bpb": value, "val_loss": value * 0.69} if state is TrialState.COMPLETE else {},
                rung=last,
                iteration=50 * last,
                tokens=51_200 * last,
                flops=budget_flops * last / evaluations,
                seconds=15.0 * last / evaluations,
                reason=reason,
                end_reason=end_reason,
                attempts=3 if state is TrialState.FAILED else 1,
                sample=sample if state is TrialState.COMPLETE else "",
                num_parameters=12 * params["num_layers"] * params["d_model"] ** 2,
                started_at=started,
                ended_at=started + 15,
                told=True,
            )
        )
    return StudyView(study, records, points, attempts, decisions)


def optuna_study(view: StudyView) -> optuna.Study:
    """Optuna's side of a view, in memory."""
    floats = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
        "momentum": optuna.distributions.FloatDistribution(0.8, 0.99),
        "beta2": optuna.distributions.FloatDistribution(0.95, 0.999, log=True),
        "dropout": optuna.distributions.FloatDistribution(0, 0.3, step=0.05),
        "weight_decay": optuna.distributions.FloatDistribution(1e-4, 10**-0.5, log=True),
        "num_layers": optuna.distributions.IntDistribution(2, 8),
        "warmup_steps": optuna.distributions.IntDistribution(0, 200),
    }
    study = optuna.create_study(direction="minimize")
    states = {TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE, TrialState.PRUNED: optuna.trial.TrialState.PRUNED}
    for trial in view.trials:
        curve = {point.rung: point.metrics["val_bpb"] for point in view.curve(trial.number)}
        study.add_trial(
            optuna.trial.create_trial(
                state=states.get(trial.state, optuna.trial.TrialState.FAIL),
                values=trial.values,
                params=trial.params,
                distributions={
                    name: floats.get(name) or optuna.distributions.CategoricalDistribution(SEARCHED[name].choices or ())
                    for name in trial.params
                },
                intermediate_values=curve,
            )
        )
    return study
