"""Whether Muon should make queries, keys and values orthogonal together, in the one tensor that holds them, or each by itself.

    python benchmarks/muon_qkv.py --out muon_qkv.jsonl

A decoder of two blocks learns a text with the same compute at each of four learning rates and three seeds, both ways; a step of
the second way costs more products, so it gets fewer steps. Prints the mean held-out bits per byte at each rate, and the mean
difference (apart less together) over the seeds. The same command goes on after an interruption. 24 runs: six minutes on a core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from unittest.mock import patch

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # Before torch loads.

from search_synthetic import read
from side_by_side import show
from small_rates import trained

from hpsearch.cli.options import cache_dir
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.model import counting
from hpsearch.training import optimizers

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
WAYS = ("together", "apart")
FLOPS = 5e11
"""Training FLOPs of each run."""


def together(config: TrialConfig, name: str, shape: counting.Shape) -> tuple[int, ...]:
    return (shape[0],)


def config_of(rate: float, seed: int) -> TrialConfig:
    settings = {
        **{"d_model": 64, "num_layers": 2, "d_ff": 256, "num_heads": 4, "vocab_size": 256, "context_length": 64},
        **{"position": "rotary", "batch_size": 16, "dropout": 0.0, "eval_iters": 64, "max_new_tokens": 1},
        **{"optimizer": "muon", "momentum": 0.95, "learning_rate": rate, "weight_decay": 0.1, "beta2": 0.99, "seed": seed},
    }
    draft = TrialConfig.build(settings | {"max_iters": 1})
    steps = int(FLOPS / counting.step_flops(draft))
    plan = {"max_iters": steps, "eval_interval": steps, "save_interval": 10 * steps, "warmup_steps": round(0.02 * steps)}
    return TrialConfig.build(settings | plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pydoc", help="a text file, or a text that every Python has")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--cache", type=Path, default=cache_dir())
    parser.add_argument("--out", type=Path, default=Path("muon_qkv.jsonl"))
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    data = DataConfig(text=options.data, tokenizer="bytes", validation=0.1)
    found = {(row["way"], row["rate"], row["seed"]): row["val_bpb"] for row in read(options.out)}
    with options.out.open("a", encoding="utf-8") as out:
        for seed in seeds:
            for rate in RATES:
                for way in WAYS:
                    if (way, rate, seed) in found:
                        continue
                    rows = together if way == "together" else counting.muon_rows
                    with patch.object(counting, "muon_rows", rows), patch.object(optimizers, "muon_rows", rows):
                        config = config_of(rate, seed)
                        value = trained(config, data, options.cache)
                    found[way, rate, seed] = value
                    row = {"way": way, "rate": rate, "seed": seed, "steps": config.max_iters, "val_bpb": value}
                    out.write(json.dumps(row) + "\n")
                    out.flush()
    table = []
    for rate in RATES:
        values = {way: [found[way, rate, seed] for seed in seeds] for way in WAYS}
        less = [apart - joint for joint, apart in zip(values["together"], values["apart"], strict=True)]
        means = {way: f"{statistics.fmean(each):.4f}" for way, each in values.items()}
        each = " ".join(f"{one:+.4f}" for one in less)
        table.append({"rate": rate, **means, "apart less together": f"{statistics.fmean(less):+.4f}", "each seed": each})
    show("Held-out bits per byte with Muon, means over the seeds", table, None)


if __name__ == "__main__":
    main()
