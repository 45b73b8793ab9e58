"""The character-level reference: our trainer's validation loss, and its time beside a plain PyTorch loop over the same model.

4 layers, 4 heads, d_model 128, context 64, batch 12, 2,000 steps, learning rate 1e-3 with 100 warm-up steps and cosine decay
to a tenth, AdamW with beta2 0.99 and weight decay 0.1, no dropout. The validation loss is over all of the held-out tenth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from side_by_side import Side, our_steps, plain_steps, quartiles, show, take_turns

from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a text file, such as tiny Shakespeare")
    parser.add_argument("--steps", type=int, default=2000, help="of the run that is evaluated (default 2000; 0: only timing)")
    parser.add_argument("--repeats", type=int, default=10, help="rounds of timing (0: no timing)")
    parser.add_argument("--turn", type=int, default=20, help="steps in one turn of the timing")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write JSON here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(text=options.data, tokenizer="chars", validation=0.1)
        corpus = open_corpus(data, vocab_size=0, architecture="decoder", cache_dir=Path(folder))
        settings = {
            "num_layers": 4,
            "num_heads": 4,
            "d_model": 128,
            "d_ff": 512,
            "vocab_size": corpus.tokenizer.vocab_size,
            "context_length": 64,
            "max_position_embeddings": 64,
            "layer_norm_epsilon": 1e-5,
            "dropout": 0.0,
            "batch_size": 12,
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "lr_schedule": "cosine",
            "lr_decay_ratio": 0.1,
            "beta2": 0.99,
            "weight_decay": 0.1,
            "seed": options.seed,
            "eval_iters": corpus.validation_bytes // 2048,
        }
        rows: list[dict[str, object]] = []
        if options.steps:
            rows += train_once(TrialConfig.build(settings | {"max_iters": options.steps}), data, Path(folder), options.threads)
        if options.repeats:
            timed = TrialConfig.build(settings | {"max_iters": 10**9, "lr_decay_iters": 2000, "log_interval": options.turn})
            rows += compare(timed, data, Path(folder), options)
        show(f"character-level reference, {options.threads} thread(s)", rows, options.out)


def train_once(config: TrialConfig, data: DataConfig, folder: Path, threads: int) -> list[dict[str, object]]:
    """Validation loss in nats per character at the end, and what the run took."""
    from hpsearch.training.loop import train

    corpus = open_corpus(data, vocab_size=config.vocab_size, architecture="decoder", cache_dir=folder)
    cpu, metrics = time.process_time(), {}
    run = train(config, corpus, folder / "run", threads=threads)
    try:
        while True:
            next(run)
    except StopIteration as stop:
        metrics = stop.value.metrics
    return [
        {"measure": "validation loss, nats per character", "value": metrics["val_loss"], "spread": f"{config.max_iters} steps"},
        {"measure": "seconds in steps", "value": metrics["train_seconds"], "spread": ""},
        {"measure": "CPU seconds in all", "value": time.process_time() - cpu, "spread": "evaluations and checkpoints too"},
    ]


def compare(config: TrialConfig, data: DataConfig, folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Time of a step of our loop and of the plain one, in turns."""
    ours = Side(our_steps, options.threads, config, data, folder)
    plain = Side(plain_steps, options.threads, config, data, folder, False)
    steps, others = take_turns([(ours, "steps"), (plain, "steps")], options.repeats)
    ours.close()
    plain.close()
    rows: list[dict[str, object]] = []

    def row(measure: str, values: list[float]) -> None:
        low, middle, high = quartiles(values)
        rows.append({"measure": measure, "value": middle, "spread": f"[{low:.4g} {high:.4g}]"})

    row("ms of CPU a step, ours", [1e3 * turn.cpu_s / options.turn for turn in steps])
    row("ms of CPU a step, plain loop", [1e3 * turn.cpu_s / options.turn for turn in others])
    row("plain / ours, CPU time", [other.cpu_s / step.cpu_s for step, other in zip(steps, others, strict=True)])
    row("plain / ours, wall clock", [other.wall_s / step.wall_s for step, other in zip(steps, others, strict=True)])
    return rows


if __name__ == "__main__":
    main()
