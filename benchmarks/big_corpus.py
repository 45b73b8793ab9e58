"""A corpus that is much larger than a person would load: time to open it, memory, and time per batch, beside a small one.

The text is generated in a temporary folder and removed at the end. Opening it for the first time reads and checks every byte;
later the text is known by its size and time of change. Each corpus is opened and read in a process of its own.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from side_by_side import Side, Work, show

from hpsearch.config import DataConfig, TrialConfig

BLOCK = 2**22


def write_text(path: Path, size: int) -> None:
    """About `size` bytes of English-like lines; every block begins with its number, so that no two are alike."""
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlucmfwyp", k=chance.randint(1, 9))) for _ in range(4096)]
    lines: list[str] = []
    while sum(map(len, lines)) < BLOCK:
        lines += (" ".join(chance.choices(words, k=12)) + ".\n" for _ in range(4096))
    block = "".join(lines).encode()
    with path.open("wb") as file:
        number = 0
        while file.tell() < size:
            head = f"Part {number}.\n".encode()
            file.write(head + block[: min(len(block), max(1, size - file.tell() - len(head)))])
            number += 1


def build(path: Path, cache_dir: Path, batches: int) -> dict[str, Work]:
    """Opening the corpus and reading its batches."""
    import numpy  # noqa: F401  # libraries are loaded before the clock starts
    import torch  # noqa: F401

    from hpsearch.data.batches import train_batch
    from hpsearch.data.corpus import open_corpus

    config = TrialConfig.build({"max_iters": batches, "batch_size": 12, "context_length": 256})
    process = psutil.Process()

    def work() -> dict[str, float]:
        before, began = process.memory_info().rss, time.perf_counter()
        corpus = open_corpus(
            DataConfig(text=str(path), tokenizer="bytes", validation=0.1),
            vocab_size=256,
            architecture="decoder",
            cache_dir=cache_dir,
        )
        opened = time.perf_counter() - began
        times = []
        for iteration in range(batches):
            began = time.perf_counter()
            train_batch(corpus, config, iteration)
            times.append(1e3 * (time.perf_counter() - began))
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        return {
            "open s": opened,
            "memory gained MB": (process.memory_info().rss - before) / 1e6,
            "batch median ms": cuts[49],
            "batch p99 ms": cuts[98],
            "batch max ms": max(times),
        }

    return {"all": work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the large text (default 10)")
    parser.add_argument("--batches", type=int, default=2000, help="batches of 12 sequences of 256 tokens")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes; needs room for the text")
    parser.add_argument("--out", type=Path, help="write JSON here too")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, size in (("small", 2**20), ("large", int(options.gigabytes * 1e9))):
            path = Path(folder) / f"{name}.txt"
            write_text(path, size)
            side = Side(build, 1, path, Path(folder) / "cache", options.batches)
            for opening in ("first", "second"):
                rows.append({"text": name, "GB": size / 1e9, "opened": opening, **side.turn("all").value})
            side.close()
        show(f"bytes as tokens, {options.batches} batches of 12 x 256 tokens", rows, options.out)


if __name__ == "__main__":
    main()
