"""Which learning rate small models want, beside the scaling law that `prior: auto` takes it from.

    python benchmarks/small_rates.py --seeds 2 --out small_rates.jsonl

Models of a few thousand to a few hundred thousand parameters, each with the compute that pays for its size best (20 tokens a
parameter) and batches by the law, are trained at rates a factor of two apart; the rest is as `prior: auto` has it. The same
command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # Before torch loads.

from search_synthetic import read
from side_by_side import show

from hpsearch.cli.options import cache_dir
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.model.counting import count
from hpsearch.training.loop import train
from hpsearch.workload.scaling_laws import TOKENS_PER_PARAMETER, batch_tokens, beta2, warmup_steps

SHAPES = ((16, 1), (24, 1), (48, 1), (64, 2))
"""Width and blocks."""
RATES = tuple(3e-3 * 2**power for power in range(6))
CONTEXT = 32


def config_of(width: int, layers: int, rate: float, seed: int) -> TrialConfig:
    settings: dict[str, Any] = {
        **{"d_model": width, "num_layers": layers, "d_ff": 4 * width, "num_heads": 2, "vocab_size": 256},
        **{"context_length": CONTEXT, "position": "rotary", "max_new_tokens": 1, "eval_iters": 64},
        **{"learning_rate": rate, "weight_decay": 0.1, "seed": seed, "max_iters": 1, "batch_size": 1},
    }
    size = count(TrialConfig.build(settings)).non_embedding_parameters
    tokens = TOKENS_PER_PARAMETER * size
    batch = max(1, round(batch_tokens(tokens) / CONTEXT))
    steps = max(10, round(tokens / (batch * CONTEXT)))
    settings |= {"batch_size": batch, "max_iters": steps, "eval_interval": steps, "save_interval": 10 * steps}
    return TrialConfig.build(settings | {"warmup_steps": round(warmup_steps(steps)), "beta2": beta2(batch * CONTEXT)})


def trained(config: TrialConfig, data: DataConfig, cache: Path) -> float:
    """Held-out bits per byte at the end; infinite where it diverged."""
    corpus = open_corpus(data, vocab_size=256, architecture="decoder", cache_dir=cache)
    with tempfile.TemporaryDirectory() as folder:
        training = train(config, corpus, Path(folder), threads=1, resume=False)
        while True:
            try:
                next(training)
            except StopIteration as end:
                return float(end.value.metrics.get("val_bpb", float("inf")))


def law(size: int) -> float:
    """Step Law's rate, without what holds it down."""
    return 1.79 * size**-0.713 * (TOKENS_PER_PARAMETER * size) ** 0.307


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pydoc", help="a text file, or a text that every Python has")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many, smallest first")
    parser.add_argument("--cache", type=Path, default=cache_dir())
    parser.add_argument("--out", type=Path, default=Path("small_rates.jsonl"))
    options = parser.parse_args()
    data = DataConfig(text=options.data, tokenizer="bytes", validation=0.1)
    found = read(options.out)
    done = {(row["width"], row["layers"], row["rate"], row["seed"]) for row in found}
    with options.out.open("a", encoding="utf-8") as out:
        for width, layers in SHAPES[: options.shapes]:
            for seed in range(options.seeds):
                for rate in RATES:
                    if (width, layers, rate, seed) not in done:
                        row = {"width": width, "layers": layers, "rate": rate, "seed": seed}
                        found.append(row | {"value": trained(config_of(width, layers, rate, seed), data, options.cache)})
                        out.write(json.dumps(found[-1]) + "\n")
                        out.flush()
    rows = []
    for width, layers in SHAPES[: options.shapes]:
        config = config_of(width, layers, RATES[0], 0)
        size = count(config).non_embedding_parameters
        row = {"model": f"{layers} x {width}", "parameters": size, "steps": config.max_iters, "batch": config.batch_size}
        for rate in RATES:
            values = [each["value"] for each in found if (each["width"], each["layers"], each["rate"]) == (width, layers, rate)]
            row[f"{rate:g}"] = f"{statistics.mean(values):.3f}"
        rows.append(row | {"law": f"{law(size):.3f}"})
    show("Held-out bits per byte by learning rate, means over the seeds", rows, None)


if __name__ == "__main__":
    main()
