"""Hundreds of searches in minutes: the real coordinator, and trials that replay a table of real runs.

    python benchmarks/replayed.py --seeds 30 --out replayed.jsonl
    python benchmarks/search_report.py replayed.jsonl --plot replayed.png

The searches are those of benchmarks/search.py, over the space of the table (benchmarks/make_table.py), with as many training
FLOPs each; a trial has the curve that the table's curves near it make likely (benchmarks/replay.py). What scaling laws are
known for has them as priors, as in benchmarks/search.yaml; with --own-priors those that the table's space states. --share 0.5
searches with that part of the table's budget a trial. The same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from replay import TABLE, replayed, trainer
from ruamel.yaml import YAML
from search import SYSTEMS, Job, left, search, tell

from hpsearch.cli.options import cache_dir
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.space.parameters import NEEDS
from hpsearch.space.serialize import to_yaml
from hpsearch.training.events import EvalPoint, TrainResult

EVALUATIONS = 8
REPLAYED = [system for system in SYSTEMS if system != "ray"]
"""Ray's workers take longer to start than such a search."""


@dataclass(frozen=True)
class Asked:
    """One search to do."""

    seed: int
    system: str
    total: float
    cache: Path
    space: Path
    data: str
    table: Path


def train(config: TrialConfig, data: DataConfig) -> Iterator[EvalPoint | TrainResult]:
    return replayed(config)


def searched(asked: Asked) -> dict[str, Any]:
    from instant import Instant

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    os.environ["HPSEARCH_REPLAY_TABLE"] = str(asked.table)
    with contextlib.closing(Instant(1, trainer)) as executor:
        return search(Job(asked.system, asked.seed, asked.data, asked.total, asked.cache, train, executor, asked.space))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--total", type=float, default=16.0, help="compute of one search, in whole trials")
    parser.add_argument("--share", type=float, default=1.0, help="part of the table's budget that a trial has")
    parser.add_argument("--systems", nargs="+", default=REPLAYED, choices=REPLAYED)
    parser.add_argument("--own-priors", action="store_true")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="searches at a time")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--cache", type=Path, default=cache_dir())
    parser.add_argument("--out", type=Path, default=Path("replayed.jsonl"))
    options = parser.parse_args()
    with options.table.open(encoding="utf-8") as lines:
        document = YAML(typ="safe", pure=True).load(json.loads(next(lines))["space"])
    # Fewer evaluations than the table's: a peer may ask for a configuration whose budget pays for fewer steps.
    document["budget"] |= {"flops": options.share * float(document["budget"]["flops"]), "evaluations": EVALUATIONS}
    for name, declared in document["parameters"].items():
        if name in NEEDS and isinstance(declared, dict) and not options.own_priors:
            declared["prior"] = "auto"
    with (
        tempfile.TemporaryDirectory() as folder,
        options.out.open("a", encoding="utf-8") as out,
        multiprocessing.get_context("spawn").Pool(options.workers) as pool,
    ):
        space = Path(folder) / "table.yaml"
        space.write_text(to_yaml(document), "utf-8")
        asked = [
            Asked(seed, system, options.total, options.cache, space, document["data"]["text"], options.table.absolute())
            for seed, system in left(options.out, options.seeds, options.systems)
        ]
        for row in pool.imap_unordered(searched, asked):
            tell(row, out)


if __name__ == "__main__":
    main()
