"""What the benchmarks share: our training loop and plain PyTorch loops, each in a process of its own, run in turns.

A process is what a user starts: its threads and its memory allocator are set by the loop that runs in it. Turns (A B A B …)
let other work on the machine slow both sides alike, so ratios within a round mean more than times.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hpsearch.config import DataConfig, TrialConfig

Work = Callable[[], Any]


@dataclass(frozen=True)
class Turn:
    wall_s: float
    cpu_s: float
    """Processor time of the whole process: what other work on the machine disturbs least."""
    value: Any


class Side:
    """One process that does a named piece of work when it is its turn."""

    def __init__(self, build: Callable[..., dict[str, Work]], threads: int, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, threads, args), daemon=True)
        self._process.start()
        theirs.close()

    def turn(self, work: str = "steps") -> Turn:
        self._connection.send(work)
        found: Turn = self._connection.recv()
        return found

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, build: Callable[..., dict[str, Work]], threads: int, args: tuple[Any, ...]) -> None:
    # Read once, when torch loads: hence before anything imports it.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    works = build(*args)
    with contextlib.suppress(EOFError):
        while True:
            work = works[connection.recv()]
            wall, cpu = time.perf_counter(), time.process_time()
            value = work()
            connection.send(Turn(time.perf_counter() - wall, time.process_time() - cpu, value))


def take_turns(sides: Sequence[tuple[Side, str]], repeats: int, warmup: int = 1) -> list[list[Turn]]:
    """`repeats` turns of each side, in rounds; each round starts with the next side, so that none is always first."""
    turns: list[list[Turn]] = [[] for _ in sides]
    for round_ in range(warmup + repeats):
        for place in range(len(sides)):
            number = (place + round_) % len(sides)
            side, work = sides[number]
            turn = side.turn(work)
            if round_ >= warmup:
                turns[number].append(turn)
    return turns


def our_steps(config: TrialConfig, data: DataConfig, cache_dir: Path) -> dict[str, Work]:
    """`steps`: log_interval steps of `hpsearch.training.loop.train` itself; their mean loss."""
    from hpsearch.data.corpus import open_corpus
    from hpsearch.training.events import Progress
    from hpsearch.training.loop import train

    corpus = open_corpus(data, vocab_size=config.vocab_size, architecture=config.architecture, cache_dir=cache_dir)
    run = train(config, corpus, Path(tempfile.mkdtemp(dir=cache_dir)), resume=False)

    def steps() -> float:
        event = next(run)
        assert isinstance(event, Progress), "the run is shorter than the benchmark"
        return event.train_loss

    return {"steps": steps}


def plain_steps(config: TrialConfig, data: DataConfig, cache_dir: Path, transformers: bool) -> dict[str, Work]:
    """`steps`: log_interval steps of a plain PyTorch loop over the same model, or over GPT-2 of `transformers`."""
    from hpsearch.data.corpus import open_corpus

    corpus = open_corpus(data, vocab_size=config.vocab_size, architecture=config.architecture, cache_dir=cache_dir)
    losses = plain_loop(config, corpus, transformers=transformers)

    def steps() -> float:
        return statistics.fmean(next(losses) for _ in range(config.log_interval))

    return {"steps": steps}


def plain_loop(config: TrialConfig, corpus: Any, *, transformers: bool) -> Iterator[float]:
    """The loop that a person writes, with our batches, weights, fused AdamW, schedule and clipping; each step's loss."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from hpsearch.data.batches import train_batch
    from hpsearch.model.convert import to_hf
    from hpsearch.model.transformer import Transformer
    from hpsearch.training.schedules import learning_rate_at

    torch.manual_seed(config.seed)
    ours = Transformer(config)
    model = to_hf(ours).train() if transformers else ours.train()
    parameters = list(model.parameters())
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.adam_epsilon, fused=True)
    for iteration in range(config.max_iters):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(iteration, config)
        batch = train_batch(corpus, config, iteration)
        logits_BTV = model(batch.inputs_BT, use_cache=False).logits if transformers else model(batch).logits_BTV
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip)
        optimizer.step()
        yield loss.item()


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def show(title: str, rows: Sequence[dict[str, Any]], out: Path | None) -> None:
    """Print rows as a table; write them as JSON too where `out` is given."""
    print(title)
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if out is not None:
        out.write_text(json.dumps({"title": title, "rows": list(rows)}, indent=2) + "\n", "utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value}"
