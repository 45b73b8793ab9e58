"""What differs between a GPU and the CPU: precision, compilation, memory."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from typing import Any

import psutil
import torch

from hpsearch import cgroups
from hpsearch.config import TrialConfig
from hpsearch.model.counting import Counts, activation_bytes, stack_depths

COMPILE_S = 40.0
"""What compiling forward, backward and the evaluation's forward costs."""
COMPILE_SAVING = 0.3
"""Share of a step's time that compiling saves, by fusing the pointwise kernels around the matrix products."""
LAUNCH_S_PER_LAYER = 0.5e-3
"""Least time of a layer in an eager step: some 60 kernel launches, forward and backward."""
GPU_FLOPS_PER_S = 100e12
"""A modest share of a current data-centre GPU's bf16 rate."""
MEMORY_SHARE = 0.5
"""Share of the free memory that a run plans to use: the estimate has no kernel's workspace, and others may want some too."""


def prepare(device: str, threads: int | None) -> torch.device:
    """Set the process up for training: threads, TF32 for what is not bf16 on a GPU. Results repeat bit for bit on a CPU."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if torch.device(device).type == "cuda" else "highest")
    found = torch.device(device)
    if found.type == "cuda":
        torch.cuda.reset_peak_memory_stats(found)
    return found


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 on a GPU (its range needs no loss scaling), fp32 on the CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def compile_mode(config: TrialConfig, counts: Counts, device: torch.device) -> str | None:
    """The mode in which `torch.compile` saves more than it costs within this run; None where it does not.

    On a GPU only. A step whose kernels take longer to launch than to run is captured as CUDA graphs (`reduce-overhead`), which
    saves the difference; another one is fused (`default`), which saves COMPILE_SAVING of it. Either must save more than
    COMPILE_S over all steps. On the CPU never: its runs are short, and compiled code may add in another order.
    """
    if device.type != "cuda":
        return None
    compute_s = counts.flops_per_token * config.batch_size * config.context_length / GPU_FLOPS_PER_S
    launch_s = sum(stack_depths(config)) * LAUNCH_S_PER_LAYER
    captured = launch_s > compute_s
    saved_s = launch_s - compute_s if captured else COMPILE_SAVING * compute_s
    if saved_s * config.max_iters <= COMPILE_S:
        return None
    return "reduce-overhead" if captured else "default"


def micro_batches_for(config: TrialConfig, counts: Counts, place: torch.device) -> int:
    """Parts that a batch is computed in: the fewest with which a step's estimated memory fits, at most batch_size.

    Weights, gradients and optimizer state are needed whole; of the activations (`model.counting`) there are those of the
    largest part, so a batch is cut only when all of it does not fit into MEMORY_SHARE of `free_memory`. Where not even single
    sequences fit, they are tried. Ask before the model is allocated.
    """
    activations = activation_bytes(config)
    room = MEMORY_SHARE * free_memory(place) - (counts.memory_bytes - activations)
    sequences = min(max(1, math.floor(room * config.batch_size / activations)), config.batch_size)
    return math.ceil(config.batch_size / sequences)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated: the device's, with what torch's cache holds unused, or the machine's, within the limit
    of a container or a job."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    free = int(psutil.virtual_memory().available)
    room = cgroups.free_memory()
    return free if room is None else min(free, room)


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak since `prepare`, or the process's since it started."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(device: torch.device) -> str:
    """`cuda:0 NVIDIA H100`, or `cpu, 2 threads`."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}"
