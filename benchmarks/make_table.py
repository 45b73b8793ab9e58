"""Train some hundred small configurations once for real, so that any number of studies can be replayed from their curves.

    python benchmarks/make_table.py --rows 200 --workers 2

Configurations are drawn at random, by seed, from a space; each is trained at a quarter, a half and the whole of the budget,
with a schedule of that length each time. The table is a file of JSON lines: what was asked first, then a line per run, in the
order in which they ended. The same command goes on after an interruption, and a larger --rows adds rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from hpsearch.cli.options import cache_dir
from hpsearch.config import TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.errors import BadInput
from hpsearch.sampling.samplers import make_sampler, suggest
from hpsearch.space.load import load_space
from hpsearch.space.space import SearchSpace
from hpsearch.storage.records import BudgetRecord
from hpsearch.workload.feasibility import candidate

HERE = Path(__file__).parent
SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Run:
    """One training run to do."""

    row: int
    share: float
    proposal: dict[str, Any]
    """Values of what is searched."""
    config: dict[str, Any]
    space: Path
    cache_dir: Path


def main() -> None:
    options = arguments()
    space = load_space(options.space)
    if space.budget.kind != "flops":
        raise SystemExit(f"{options.space}: give the budget in flops, so that the table means the same on every machine")
    corpus = open_corpus(space.data, vocab_size=256, architecture="decoder", cache_dir=options.cache)
    header = {"space": space.to_yaml(), "text": corpus.data_fingerprint, "seed": options.seed, "shares": SHARES}
    done = read(options.out, header)
    runs = [run for run in planned(space, options) if (run.row, run.share) not in done]
    print(f"{len(done)} runs are in {options.out}, {len(runs)} to do", flush=True)
    began = time.monotonic()
    with (
        options.out.open("a", encoding="utf-8") as table,
        multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=30) as pool,
    ):
        if not done and not table.tell():
            append(table, header)
        for count, found in enumerate(pool.imap_unordered(trained, runs), start=1):
            append(table, found)
            left = (time.monotonic() - began) / count * (len(runs) - count)
            ending = found["curve"][-1] if found["curve"] else found["outcome"]
            print(
                f"row {found['row']} at {found['share']}: {ending} ({count}/{len(runs)}, {left / 60:.0f} min left)", flush=True
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=HERE / "table.yaml")
    parser.add_argument("--rows", type=int, default=200, help="configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time, of one thread each")
    parser.add_argument("--cache", type=Path, default=cache_dir())
    parser.add_argument("--out", type=Path, default=HERE / "table.jsonl")
    return parser.parse_args()


def planned(space: SearchSpace, options: argparse.Namespace) -> Iterator[Run]:
    """All runs of the table, in order: the same for the same space and seed, however many rows are asked for."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    corpora: dict[int, Any] = {}
    whole = BudgetRecord("flops", space.budget.amount or 0.0, space.budget.evaluations, space.budget.amount)

    def unfit(proposal: Any) -> str | None:
        """Why a configuration cannot be trained at the least budget."""
        try:
            candidate(space, proposal, at_share(whole, SHARES[0]), options.cache, corpora)
        except BadInput as error:
            return str(error)
        return None

    study = optuna.create_study(sampler=make_sampler("random", space, options.seed, 0, unfit))
    for row in range(options.rows):
        proposal = suggest(study.ask(), space)
        for share in SHARES:
            config = candidate(space, proposal, at_share(whole, share), options.cache, corpora)
            yield Run(row, share, proposal, config.model_dump(mode="json"), options.space, options.cache)


def at_share(budget: BudgetRecord, share: float) -> BudgetRecord:
    amount = budget.amount * share
    return BudgetRecord("flops", amount, budget.evaluations, amount)


def trained(run: Run) -> dict[str, Any]:
    """The line of one run: its curve, how it ended and what it took."""
    from hpsearch.training.events import EvalPoint
    from hpsearch.training.loop import train

    space, config = load_space(run.space), TrialConfig.model_validate(run.config)
    corpus = open_corpus(space.data, vocab_size=config.vocab_size, architecture=config.architecture, cache_dir=run.cache_dir)
    curve, seconds = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        training = train(config, corpus, Path(folder), threads=1, resume=False)
        while True:
            try:
                event = next(training)
            except StopIteration as stop:
                result = stop.value
                break
            if isinstance(event, EvalPoint):
                curve.append(round(event.metrics[space.objectives[0]], 5))
                seconds = event.seconds
    return {
        "row": run.row,
        "share": run.share,
        "proposal": run.proposal,
        "max_iters": config.max_iters,
        "curve": curve,
        "outcome": str(result.outcome),
        "reason": result.reason,
        "seconds": round(seconds, 3),
    }


def read(path: Path, header: dict[str, Any]) -> set[tuple[int, float]]:
    """The runs that a table already has. Cuts off a line that an interruption left unfinished."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    if whole := content[: content.rfind(b"\n") + 1]:
        first, *lines = map(json.loads, whole.splitlines())
        if first != json.loads(json.dumps(header)):
            raise SystemExit(f"{path}: made from another space, text or seed; give another --out")
    else:
        lines = []
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return {(line["row"], line["share"]) for line in lines}


def append(table: Any, line: dict[str, Any]) -> None:
    table.write(json.dumps(line) + "\n")
    table.flush()


if __name__ == "__main__":
    main()
