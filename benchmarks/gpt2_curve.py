"""Our trainer's loss curve against GPT-2 of `transformers`, trained by a plain loop.

The same initial weights (through hpsearch.model.convert), batches, AdamW, schedule and clipping; one thread of arithmetic
differs from the other in the order of its sums only, so the curves lie on top of each other until rounding has grown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from side_by_side import plain_loop, show

from hpsearch.config import DataConfig, TrialConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pydoc", help="a text file, or a text that hpsearch knows (default pydoc)")
    parser.add_argument("--tokenizer", default="chars", choices=["chars", "bytes"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak, after 100 warm-up steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write JSON here too: every step")
    options = parser.parse_args()

    import torch

    from hpsearch.data.corpus import open_corpus
    from hpsearch.training.events import Progress
    from hpsearch.training.loop import train

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(text=options.data, tokenizer=options.tokenizer, validation=0.1)
        corpus = open_corpus(data, vocab_size=256, architecture="decoder", cache_dir=Path(folder) / "cache")
        config = TrialConfig.build(
            {
                "num_layers": options.layers,
                "d_model": options.width,
                "d_ff": 4 * options.width,
                "num_heads": options.heads,
                "vocab_size": corpus.tokenizer.vocab_size,
                "context_length": options.context,
                "max_position_embeddings": options.context,
                "layer_norm_epsilon": 1e-5,
                "dropout": 0.0,
                "batch_size": options.batch,
                "learning_rate": options.learning_rate,
                "beta2": 0.99,
                "weight_decay": 0.1,
                "warmup_steps": 100,
                "lr_decay_iters": 5000,
                "max_iters": options.steps,
                "eval_interval": options.steps,
                "eval_iters": 1,
                "log_interval": 1,
                "max_new_tokens": 1,
            }
        )
        run = train(config, corpus, Path(folder) / "run", threads=options.threads)
        ours = [event.train_loss for event in run if isinstance(event, Progress)]
        theirs = list(plain_loop(config, corpus, transformers=True))
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    rows = [
        {"step": step + 1, "ours": ours[step], "transformers": theirs[step], "difference": apart[step]}
        for step in range(options.steps)
    ]
    every = max(1, options.steps // 10)
    title = (
        f"loss of {options.layers} layers, d_model {options.width}, context {options.context}, batch {options.batch}: "
        f"largest difference in {options.steps} steps {max(apart):.2g} nats (step {apart.index(max(apart)) + 1})"
    )
    show(title, [row for row in rows if row["step"] == 1 or row["step"] % every == 0], None)
    if options.out:
        import json

        options.out.write_text(json.dumps({"title": title, "rows": rows}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
