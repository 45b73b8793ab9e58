"""The end of memory, as torch, numpy and the system say it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpsearch.config import DataConfig
from hpsearch.training.memory import OutOfMemory, short_of_memory, shortfall

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 5.50 GiB is free. "
    "Process 4021 has 73.60 GiB memory in use. Of the allocated memory 70.00 GiB is allocated by PyTorch, and 1.00 GiB is "
    "reserved by PyTorch but unallocated."
)
TOO_MUCH = 2**50
"""Bytes that no machine has."""


@pytest.mark.parametrize(
    ("error", "missing"),
    [
        (torch.OutOfMemoryError(CUDA), round(14.5 * 2**30)),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 … of which 3.00 MiB is free."), 1),
        (RuntimeError("CUDA error: out of memory"), 1),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 1),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 96 bytes."), 96),
        (RuntimeError("std::bad_alloc"), 1),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1),
        (MemoryError(), 1),
        (OutOfMemory("CUDA out of memory", 77, 4), 77),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_an_error_tells_what_was_missing(error: Exception, missing: int | None) -> None:
    assert shortfall(error) == missing


@pytest.mark.parametrize("allocate", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_what_is_really_raised_is_recognised(allocate: Any) -> None:
    kind = torch.uint8 if allocate is torch.empty else np.uint8
    with pytest.raises(OutOfMemory) as raised, short_of_memory(lambda: 3):
        allocate(TOO_MUCH, dtype=kind)
    assert raised.value.shortfall_bytes == TOO_MUCH
    assert raised.value.micro_batches == 3
    assert "\n" not in str(raised.value)


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="another"), short_of_memory(lambda: 1):
        raise RuntimeError("another thing")


LITTLE = """
import resource, sys
from pathlib import Path
import psutil, torch._dynamo
from hpsearch.config import DataConfig, TrialConfig
from hpsearch.data.corpus import open_corpus
from hpsearch.training.loop import train
from hpsearch.training.memory import OutOfMemory
data, config = DataConfig.model_validate_json(sys.argv[1]), TrialConfig.model_validate_json(sys.argv[2])
corpus = open_corpus(data, vocab_size=256, architecture="decoder", cache_dir=Path(sys.argv[3]))
room = psutil.Process().memory_info().vms + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    for event in train(config, corpus, Path(sys.argv[4]), threads=1, micro_batches=int(sys.argv[5])):
        pass
except OutOfMemory as error:
    print(error.shortfall_bytes, error.micro_batches)
    sys.exit(3)
"""


@pytest.mark.parametrize(("parts", "fits"), [(1, False), (4, True)])
def test_a_real_limit_is_met_by_smaller_parts_and_leaves_no_torn_checkpoint(
    runs: Any, data: tuple[DataConfig, Path], tmp_path: Path, parts: int, fits: bool
) -> None:
    # Nearly all of the memory are the logits of a batch: 1024 * 64 * 256 * 4 bytes, some times over.
    config = runs.config(batch_size=1024, context_length=64, max_iters=2, eval_interval=1, num_heads=1)
    command = [sys.executable, "-c", LITTLE, data[0].model_dump_json(), config.model_dump_json(), str(data[1])]
    done = subprocess.run(
        [*command, str(tmp_path), str(parts)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    if fits:
        assert done.returncode == 0, done.stderr
        assert "step-00000002.pt" in kept
        return
    assert done.returncode == 3, done.stderr
    missing, told = map(int, done.stdout.split())
    assert missing >= 2**20
    assert told == 1
    assert [name for name in kept if name != "best.safetensors"] == []
