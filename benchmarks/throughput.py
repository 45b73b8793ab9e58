"""Tokens per second of our training loop beside a plain PyTorch loop over GPT-2 of `transformers`, and how near ours comes to
the machine's matrix-multiplication rate.

Ours is hpsearch.training.loop.train itself, meter, log and data included. The peer gets the same batches, initial weights,
fused AdamW and clipping. Each runs in a process of its own and they take turns. Ratios are of processor time, above 1 where
ours is faster; in brackets the quartiles over the rounds. Rates are model FLOPs (hpsearch.model.counting: attention counted
whole, though a causal kernel skips about half of it) per second of processor time and thread. They are compared with matrix
products that take turns in the same process: `shapes` are the model's own products (forward, and the two of backward) as
torch.mm computes them, `square` is 1024 x 1024 x 1024 by torch.mm, `best` the same square by the faster of torch.mm and oneDNN.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from side_by_side import Side, Work, our_steps, plain_steps, quartiles, show, take_turns

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.model.counting import count

HEADS = {64: 4, 128: 4, 256: 4, 384: 6}


def build_ours(config: TrialConfig, data: DataConfig, cache_dir: Path) -> dict[str, Work]:
    """Our steps, and the matrix products."""
    works = our_steps(config, data, cache_dir)
    return works | {"products": product_rates(config)}


def product_rates(config: TrialConfig) -> Callable[[], dict[str, float]]:
    """FLOPs per second of processor time of three kinds of matrix products."""
    import torch

    from hpsearch.model.linear import linear

    D, F, V, L = config.d_model, config.d_ff, config.vocab_size, config.num_layers
    rows = config.batch_size * config.context_length
    torch.manual_seed(0)

    def operands(m: int, k: int, n: int) -> tuple[Any, Any]:
        return torch.randn(m, k), torch.randn(k, n)

    layers = [(D, 3 * D), (D, D), (D, F), (F, D)] * L + [(D, V)]
    shapes = [shape for k, n in layers for shape in ((rows, k, n), (rows, n, k), (n, rows, k))]
    operands_of = {shape: operands(*shape) for shape in shapes}
    square, flops = operands(1024, 1024, 1024), 2 * 1024**3

    def timed(work: Work, amount: int) -> float:
        began = time.process_time()
        work()
        return amount / (time.process_time() - began)

    @torch.no_grad()
    def rates() -> dict[str, float]:
        by_mm = max(timed(lambda: torch.mm(*square), flops) for _ in range(3))
        by_onednn = max(timed(lambda: linear(*square), flops) for _ in range(3))
        own = timed(lambda: [torch.mm(*operands_of[shape]) for shape in shapes], sum(2 * m * k * n for m, k, n in shapes))
        return {"shapes": own, "square": by_mm, "best": max(by_mm, by_onednn)}

    return rates


def measure(config: TrialConfig, options: argparse.Namespace, threads: int, cache_dir: Path) -> dict[str, Any]:
    data = DataConfig(text=options.data, tokenizer="bytes", validation=0.1)
    ours = Side(build_ours, threads, config, data, cache_dir)
    theirs = Side(plain_steps, threads, config, data, cache_dir, True)
    steps, peers, products = take_turns([(ours, "steps"), (theirs, "steps"), (ours, "products")], options.repeats)
    ours.close()
    theirs.close()
    tokens = config.log_interval * config.batch_size * config.context_length
    flops = tokens * count(config).flops_per_token
    low, middle, high = quartiles([peer.cpu_s / step.cpu_s for step, peer in zip(steps, peers, strict=True)])
    row = {
        "threads": threads,
        "width": config.d_model,
        "context": config.context_length,
        "ours tokens/s": quartiles([tokens / step.wall_s for step in steps])[1],
        "peer tokens/s": quartiles([tokens / peer.wall_s for peer in peers])[1],
        "ours/peer": f"{middle:.3f} [{low:.3f} {high:.3f}]",
        "by wall clock": quartiles([peer.wall_s / step.wall_s for step, peer in zip(steps, peers, strict=True)])[1],
        "GFLOP/s": quartiles([flops / step.cpu_s / 1e9 for step in steps])[1],
    }
    for name in ("shapes", "square", "best"):
        shares = [flops / step.cpu_s / product.value[name] for step, product in zip(steps, products, strict=True)]
        row[f"% of {name}"] = 100 * quartiles(shares)[1]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 384])
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="each in fresh processes")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are measured, after one that is not")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long one turn lasts")
    parser.add_argument("--data", default="pydoc")
    parser.add_argument("--out", type=Path, help="write JSON here too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
            for context in options.contexts:
                for width in options.widths:
                    settings = {
                        "num_layers": options.layers,
                        "d_model": width,
                        "d_ff": 4 * width,
                        "num_heads": HEADS.get(width, 4),
                        "vocab_size": 256,
                        "context_length": context,
                        "max_position_embeddings": context,
                        "layer_norm_epsilon": 1e-5,
                        "dropout": 0.0,
                        "batch_size": options.batch,
                        "eval_iters": 1,
                        "max_iters": 10**9,
                    }
                    config = TrialConfig.build(settings)
                    step_s = count(config).flops_per_token * options.batch * context / 50e9
                    config = TrialConfig.build(settings | {"log_interval": max(1, round(options.seconds / step_s))})
                    rows.append(measure(config, options, threads, Path(folder)))
        show(f"{options.layers} layers, batch {options.batch}, vocabulary 256, {options.repeats} rounds", rows, options.out)


if __name__ == "__main__":
    main()
