"""What a short context loses to the way it is scored: disjoint blocks, windows that overlap by half, a window for each token.

    python benchmarks/context_scores.py --steps 1500

Decoders that differ in their context alone are trained on the same number of tokens and scored on the same held-out bytes in
three ways. The last is what a model of that context can do, and what a fair way of scoring comes near.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # Before torch loads.

import torch
from torch.nn.functional import cross_entropy

from hpsearch.cli.options import cache_dir
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.batches import IGNORED, Batch, held_out_batches
from hpsearch.data.corpus import Corpus, open_corpus
from hpsearch.data.held_out import Window, windows_of
from hpsearch.model.transformer import Transformer
from hpsearch.training.loop import evaluate, train

CONTEXTS = (32, 64, 128)
TOKENS_A_STEP = 1024


def config_of(context: int, steps: int, seed: int) -> TrialConfig:
    return TrialConfig.build(
        {
            **{"d_model": 64, "num_layers": 2, "d_ff": 256, "num_heads": 4, "vocab_size": 256, "position": "rotary"},
            **{"context_length": context, "batch_size": TOKENS_A_STEP // context, "eval_iters": 20, "dropout": 0.0},
            **{"learning_rate": 3e-3, "warmup_steps": steps // 50, "layer_norm_epsilon": 1e-5, "seed": seed},
            **{"max_iters": steps, "eval_interval": steps, "save_interval": steps, "max_new_tokens": 1},
        }
    )


def disjoint(length: int, lead: int, context: int) -> Iterator[Window]:
    """Blocks that share the token that is only a target, as they were scored before; the lead-in is read all the same."""
    for start in range(0, length - 1, context):
        stop = min(length, start + context + 1)
        if stop > lead:
            yield Window(start, stop, max(lead, start + 1), stop)


def each(length: int, lead: int, context: int) -> Iterator[Window]:
    """As much of the context before each token as the model takes."""
    return (Window(max(0, token - context), token + 1, token, token + 1) for token in range(lead, length))


def score(model: Transformer, corpus: Corpus, config: TrialConfig, way: str) -> tuple[float, int]:
    """Bits per byte of the bytes after each span's lead-in, and the tokens that were read for it."""
    nats = counted = read = 0.0
    for span in corpus.split.spans(config.eval_iters):
        ids = torch.from_numpy(corpus.tokenizer.encode(span.text)).long()
        lead, context = len(span.text[: span.lead].encode()), config.context_length
        if way == "disjoint":
            cuts = list(disjoint(len(ids), lead, context))
        elif way == "half":
            cuts = list(windows_of("decoder", len(ids), lead, stride=context, width=context + 1))
        else:
            cuts = list(each(len(ids), lead, context))
        for width in {cut.stop - cut.start for cut in cuts}:
            rows = torch.stack([ids[cut.start : cut.stop] for cut in cuts if cut.stop - cut.start == width])
            firsts = torch.tensor([cut.first - cut.start for cut in cuts if cut.stop - cut.start == width])
            targets = torch.where(torch.arange(width) >= firsts[:, None], rows, IGNORED)[:, 1:]
            for some, wanted in zip(rows[:, :-1].split(256), targets.split(256), strict=True):
                logits = model(Batch(some, wanted, wanted)).logits_BTV.flatten(0, 1)
                nats += float(cross_entropy(logits, wanted.flatten(), ignore_index=IGNORED, reduction="sum"))
            counted, read = counted + int((targets != IGNORED).sum()), read + rows[:, :-1].numel()
    return nats / math.log(2) / counted, int(read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    corpus = open_corpus(DataConfig(), vocab_size=256, architecture="decoder", cache_dir=cache_dir())
    print("context  disjoint   half    each   | lost by disjoint, by half | tokens read: disjoint, half")
    for context in CONTEXTS:
        config = config_of(context, asked.steps, asked.seed)
        with tempfile.TemporaryDirectory() as folder:
            for _ in train(config, corpus, Path(folder), threads=1, resume=False):
                pass
            saved = torch.load(next(Path(folder, "checkpoints").glob("step-*.pt")), weights_only=True)
        model = Transformer(config).eval()
        model.load_state_dict(saved["model"])
        with torch.inference_mode():
            (blocks, few), (half, more), (best, _) = (score(model, corpus, config, way) for way in ("disjoint", "half", "each"))
            ours = evaluate(model, held_out_batches(corpus, config), config, "val_bpb")["val_bpb"]
        assert abs(ours - half) < 1e-4, (ours, half)
        lost = f"{blocks - best:+.4f} {half - best:+.4f}"
        print(f"{context:7d}  {blocks:.4f}  {half:.4f}  {best:.4f}  | {lost} | {few:,} {more:,}", flush=True)


if __name__ == "__main__":
    main()
