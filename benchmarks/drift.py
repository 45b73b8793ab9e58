"""Where searches went, and where the forecast says that they go: mean steps of a trial, by thirds of a study.

    python benchmarks/drift.py

The searches are those of benchmarks/search.jsonl, under equal FLOPs: a trial of many steps is a small model in small batches,
which takes longest. Steps depend on no machine. Every trial counts with the steps of its whole run, paused or not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from random import Random
from statistics import fmean

from hpsearch.forecasting.forecast import draw_configs
from hpsearch.forecasting.trajectory import course, likely_loss
from hpsearch.paths import cache_dir
from hpsearch.space.load import load_space
from hpsearch.storage.records import BudgetRecord
from hpsearch.workload.workload import LanguageModel

HERE = Path(__file__).parent
TRIALS = 40
"""About what the searches had begun when their compute was spent."""


def thirds(steps: list[int]) -> list[float]:
    return [fmean(steps[len(steps) * part // 3 : len(steps) * (part + 1) // 3]) for part in range(3)]


def main() -> None:
    space = load_space(HERE / "search.yaml")
    assert space.budget.amount is not None
    budget = BudgetRecord("flops", space.budget.amount, space.budget.evaluations, space.budget.amount)
    model = LanguageModel(space, cache_dir())
    found = defaultdict(list)
    for line in (HERE / "search.jsonl").read_text().splitlines():
        run = json.loads(line)
        trials = [trial for _, trial in sorted(run["trials"].items(), key=lambda item: int(item[0]))]
        found[run["system"]].append(thirds([model.candidate(trial["proposal"], budget).max_iters for trial in trials]))
    random = Random(0)
    for name, sampler in (("forecast, random", "random"), ("forecast, learning", "auto")):
        configs = draw_configs(space, lambda proposal: model.candidate(proposal, budget), sampler=sampler)
        ranked = sorted(range(1, len(configs)), key=lambda index: likely_loss(configs[index]))
        for _ in range(200):
            order = course(ranked, TRIALS, random, drifting=sampler == "auto")
            found[name].append(thirds([configs[index].max_iters for index in order]))
    print(f"{'':28} mean  first  second  third")
    for name, runs in found.items():
        parts = [fmean(run[part] for run in runs) for part in range(3)]
        print(f"{name:28} {fmean(parts):4.0f}  {parts[0]:5.0f}  {parts[1]:6.0f}  {parts[2]:5.0f}")


if __name__ == "__main__":
    main()
