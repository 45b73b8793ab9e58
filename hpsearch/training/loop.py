"""The training loop. It yields an event now and then, is answered, and knows neither Optuna nor SQL.

Order after each step: Progress at log_interval, then EvalPoint where an evaluation is due, then its answer, then the
checkpoint. So a run killed between an evaluation and its checkpoint goes on from the checkpoint before and yields the same
EvalPoint again, equal but for the clock's readings; one killed after the checkpoint does not repeat the evaluation.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import hpsearch
from hpsearch.config import TrialConfig
from hpsearch.data.batches import Batch, Prefetcher, held_out_batches, train_batch
from hpsearch.data.corpus import Corpus
from hpsearch.model.counting import count, step_flops
from hpsearch.model.losses import bits_per_byte, loss_counts, loss_terms
from hpsearch.model.transformer import ModelOutput, Transformer
from hpsearch.training import device as devices
from hpsearch.training.allocator import keeping_freed_memory
from hpsearch.training.branch import decay_branch
from hpsearch.training.checkpoints import CheckpointStore, run_digest
from hpsearch.training.events import Answer, Began, EvalPoint, Event, Outcome, Progress, TrainResult, Warned
from hpsearch.training.generation import evaluating
from hpsearch.training.heartbeat import beat
from hpsearch.training.kept import checkpoint_folder
from hpsearch.training.log import open_log
from hpsearch.training.memory import disk_stops, short_of_memory
from hpsearch.training.meter import Meter
from hpsearch.training.optimizers import build_optimizers, describe_groups, set_learning_rate
from hpsearch.training.sample import sample_divergence, write_sample
from hpsearch.training.schedules import branch_rates, evaluation_due, learning_rate_at, rung_at, save_due


@dataclass
class State:
    """What a run remembers beside weights and moments; all of it is in a checkpoint."""

    iteration: int = 0
    rung: int = 0
    """Evaluations that were answered."""
    seconds: float = 0.0
    """Spent in steps: evaluations, checkpoints and waiting for answers are left out."""
    iteration_at_rung: int = 0
    seconds_at_rung: float = 0.0
    best: float = math.inf
    """Least held-out measure so far."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation."""
    branch_steps: int = 0
    """Taken on decay branches."""
    micro_batches: int = 1
    """Parts of a batch. A resumed run keeps them, as the order of its sums depends on them, unless memory is shorter now."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """The evaluations so far."""


def train(
    config: TrialConfig,
    corpus: Corpus,
    folder: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = True,
    objectives: Sequence[str] = ("val_bpb",),
    micro_batches: int | None = None,
    branch_rungs: Sequence[int] = (),
    known_rungs: int | None = None,
    expected_iteration: int | None = None,
    checkpoints: Path | None = None,
    log_file: Path | None = None,
) -> Generator[Event, Answer | None, TrainResult]:
    """Train one model, yielding events and obeying the answers (None is CONTINUE); its return value is how it ended.

    folder: gets `log.jsonl`, `checkpoints/` and `sample.txt`. device: `cpu`, `cuda` or `cuda:i`. threads: of one operation on
    the CPU, for the whole process; None leaves them. resume: go on from the newest sound checkpoint in `folder`; otherwise
    those are removed. On a CPU a resumed run equals the undisturbed one bit for bit, with the same number of threads.
    objectives: what must be in the result's metrics; generation_divergence is measured only if it is among them.
    micro_batches: parts that a batch is computed in, to save memory; gradients are the whole batch's, but for the order of
    sums and for dropout, which draws other masks. None: by `device.micro_batches_for`, with a Warned when they are several.
    branch_rungs: rungs at which a WSD run is also measured after a short decay on the side (`schedules.branch_rates`): the
    point's metrics then have `branch_val_loss` and `branch_val_bpb` too. Its FLOPs and seconds count, its tokens do not; the
    run goes on as if nothing had been.
    known_rungs: evaluations that the caller has kept; those after them are yielded again from the checkpoint. None: all.
    expected_iteration: where the caller thinks that the run begins; it is told by Began where that is not so. None: not told.
    checkpoints, log_file: where checkpoints and log go, in place of what the config says; only a person's command names them.

    Torch's global generator, number of threads and matrix precision are this run's: one run at a time in a process.
    Between events it beats (`training.heartbeat`), and obeys there too.
    Raises StoppedForNow when the disk is full, and OutOfMemory, with the parts of a batch, when memory is.
    """
    with contextlib.ExitStack() as stack:
        state = State()
        stack.enter_context(disk_stops(folder, folder))
        stack.enter_context(short_of_memory(lambda: state.micro_batches))
        folder.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context(open_log(config, folder, log_file))
        place = devices.prepare(device, threads)
        if place.type == "cpu":
            stack.enter_context(keeping_freed_memory())
        torch.manual_seed(config.seed)
        counts = count(config)
        needed = micro_batches or devices.micro_batches_for(config, counts, place)
        state.micro_batches = needed
        model = Transformer(config).to(place).train()
        optimizers = build_optimizers(model, config)
        compiled = devices.compile_mode(config, counts, place)
        forward = torch.compile(model, mode=compiled) if compiled else model
        parameters = list(model.parameters())
        meter, answer = Meter(place), Answer.CONTINUE

        store = CheckpointStore(checkpoint_folder(config.save_dir, folder, checkpoints), config.max_save_num)
        digest = run_digest(config, corpus.fingerprint)
        written: tuple[int, int] | None = None
        if resume:
            saved, skipped = store.load(digest)
            for message in skipped:
                log.warning("checkpoint passed over", extra={"detail": message})
                answer = _stronger(answer, (yield Warned(message)))
            if saved is not None:
                state = _restore(saved, model, optimizers, meter)
                written = (state.iteration, state.rung)
                for lost in state.points[known_rungs:] if known_rungs is not None else []:
                    if answer is Answer.CONTINUE:
                        answer = (yield EvalPoint(**lost)) or Answer.CONTINUE
        else:
            store.clear()
        if expected_iteration is not None and state.iteration != expected_iteration:
            answer = _stronger(answer, (yield Began(state.iteration)))
        state.micro_batches = micro_batches or max(needed, state.micro_batches)
        if state.micro_batches > 1 and micro_batches is None:
            why = "memory is short" if needed > 1 else "they were before the interruption"
            message = f"batches of {config.batch_size} are computed in {state.micro_batches} parts: {why}"
            log.warning("micro-batches", extra={"detail": message})
            answer = _stronger(answer, (yield Warned(message)))

        tokens_per_step, flops_per_step = config.batch_size * config.context_length, step_flops(config)
        measure = "val_masked_bpb" if config.architecture == "encoder" else "val_bpb"
        held_out = [batch.to(place) for batch in held_out_batches(corpus, config)]
        logged_at, logged_seconds = state.iteration, state.seconds
        log.info(
            "start",
            extra={
                "iteration": state.iteration,
                "config": config.concrete(),
                "counts": asdict(counts),
                "groups": describe_groups(model, config),
                "device": devices.describe(place),
                "compiled": compiled,
                "micro_batches": state.micro_batches,
                "versions": {"hpsearch": hpsearch.__version__, "torch": torch.__version__, "python": platform.python_version()},
            },
        )

        def ended(outcome: Outcome, reason: str = "", more: Mapping[str, float] | None = None, sample: str = "") -> TrainResult:
            metrics = {**state.metrics, **(more or {})}
            log.info("end", extra={"outcome": str(outcome), "iteration": state.iteration, "reason": reason, "metrics": metrics})
            return TrainResult(outcome, state.iteration, reason, metrics, sample, devices.peak_memory(place))

        def step(batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
            """One optimizer step; the batch's loss and the gradients' norm."""
            beat()
            set_learning_rate(optimizers, rate)
            loss = backward(forward, batch, config, state.micro_batches, place)
            norm = clip(parameters, config.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
            for parameter in parameters:
                parameter.grad = None
            return loss, norm

        def branch() -> dict[str, float]:
            """What a short decay from here measures; nothing where there is none to make, or it diverged."""
            rates = branch_rates(state.iteration, config)
            found = decay_branch(
                model,
                optimizers,
                rates,
                # A batch is a function of its number, so the run's own, which are next, can be looked at ahead.
                lambda number, rate: step(train_batch(corpus, config, state.iteration + number).to(place), rate),
                lambda: evaluate(model, held_out, config, measure) if rates else {},
            )
            state.branch_steps += len(rates)
            return found if all(map(math.isfinite, found.values())) else {}

        batches = stack.enter_context(contextlib.closing(_batches(corpus, config, state.iteration, place)))
        while True:
            if (
                answer is Answer.CONTINUE
                and evaluation_due(state.iteration, config)
                and rung_at(state.iteration, config) > state.rung
            ):
                metrics = evaluate(model, held_out, config, measure)
                for name, value in metrics.items():
                    if not math.isfinite(value):
                        return ended(Outcome.DIVERGED, f"{name} was {value} at step {state.iteration}")
                loss, grad_norm = meter.take(0)
                step_seconds = state.seconds - state.seconds_at_rung
                if state.rung + 1 in branch_rungs:
                    began = time.perf_counter()
                    metrics |= branch()
                    state.seconds += time.perf_counter() - began
                    logged_seconds += time.perf_counter() - began
                point = EvalPoint(
                    rung=state.rung + 1,
                    iteration=state.iteration,
                    tokens=state.iteration * tokens_per_step,
                    flops=(state.iteration + state.branch_steps) * flops_per_step,
                    seconds=state.seconds,
                    train_loss=loss,
                    metrics=metrics,
                    learning_rate=learning_rate_at(state.iteration - 1, config),
                    grad_norm=grad_norm,
                    tokens_per_s=(state.iteration - state.iteration_at_rung) * tokens_per_step / step_seconds,
                )
                if metrics[measure] < state.best:
                    state.best = metrics[measure]
                    store.keep_best(model.state_dict(), state.iteration, measure, state.best)
                log.info("evaluation", extra=asdict(point))
                answer = (yield point) or Answer.CONTINUE
                state.rung, state.metrics = point.rung, metrics
                state.points.append(asdict(point))
                state.iteration_at_rung, state.seconds_at_rung = state.iteration, state.seconds
            if answer is Answer.STOP:
                return ended(Outcome.STOPPED)
            now = (state.iteration, state.rung)
            if (answer is Answer.PAUSE or save_due(state.iteration, config)) and written != now:
                event = store.save(_snapshot(state, model, optimizers, meter, digest, tokens_per_step))
                written = now
                log.debug("checkpoint", extra=asdict(event))
                answer = _stronger(answer, (yield event))
                if answer is Answer.STOP:
                    return ended(Outcome.STOPPED)
            if answer is Answer.PAUSE:
                return ended(Outcome.PAUSED)
            if state.iteration == config.max_iters:
                break

            began = time.perf_counter()
            rate = learning_rate_at(state.iteration, config)
            train_loss, norm = step(next(batches), rate)
            state.iteration += 1
            meter.add(train_loss, norm, state.iteration)
            # On a GPU the meter is read only where the run waits for the device anyway.
            log_due = state.iteration % config.log_interval == 0
            read_due = log_due or evaluation_due(state.iteration, config) or save_due(state.iteration, config)
            trouble = meter.divergence() if read_due or place.type == "cpu" else ""
            state.seconds += time.perf_counter() - began
            if trouble:
                return ended(Outcome.DIVERGED, trouble)
            answer = beat()
            if log_due:
                loss, grad_norm = meter.take(1)
                speed = (state.iteration - logged_at) * tokens_per_step / (state.seconds - logged_seconds)
                logged_at, logged_seconds = state.iteration, state.seconds
                progress = Progress(state.iteration, loss, rate, speed)
                log.info("step", extra=asdict(progress) | {"grad_norm": grad_norm})
                answer = _stronger(answer, (yield progress))

        more = {
            "train_seconds": state.seconds,
            "num_parameters": float(counts.num_parameters),
            "flops_per_token": float(counts.flops_per_token),
        }
        if "generation_divergence" in objectives:
            more["generation_divergence"] = sample_divergence(model, corpus, config)
        return ended(Outcome.COMPLETE, more=more, sample=write_sample(model, corpus, config, folder))


def evaluate(model: Transformer, batches: Sequence[Batch], config: TrialConfig, measure: str) -> dict[str, float]:
    """Cross-entropy over `batches` as `val_loss` (nats per counted token) and `measure` (bits per UTF-8 byte of them), each
    target with the weight of its batch."""
    sums_3 = torch.zeros(3, dtype=torch.float64, device=batches[0].inputs_BT.device)
    with evaluating(model), devices.autocast(sums_3.device):
        for batch in batches:
            beat()
            losses = loss_terms(model(batch), batch, config)
            sums = torch.stack((losses.ce_sum.double(), losses.count.double(), batch.bytes_BT.sum().double()))
            sums_3 += sums if batch.weight_B is None else batch.weight_B[0] * sums
    nats, tokens, size = sums_3.tolist()
    return {"val_loss": nats / tokens, measure: bits_per_byte(nats, size)}


def backward(
    model: Callable[[Batch], ModelOutput], batch: Batch, config: TrialConfig, micro_batches: int, device: torch.device
) -> Tensor:
    """Add the gradients of the whole batch's loss, computed in `micro_batches` parts; its cross-entropy in nats per token."""
    counts = loss_counts(batch, config)
    ce_sum = torch.zeros((), device=device)
    for part in batch.split(micro_batches) if micro_batches > 1 else [batch]:
        with devices.autocast(device):
            losses = loss_terms(model(part), part, config, counts)
        losses.total.backward()  # type: ignore[no-untyped-call]
        ce_sum += losses.ce_sum.detach()
    return ce_sum / counts.targets


def clip(parameters: Sequence[Tensor], largest: float) -> Tensor:
    """Scale all gradients so that their global norm is at most `largest` (0: leave them); the norm before that."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # As torch.nn.utils.clip_grad_norm_ computes it, in half of its time: all gradients are of one type, on one device.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    # On the CPU the norm is at hand, and a pass over the gradients can be saved; on a GPU looking would wait.
    if largest and not (norm.device.type == "cpu" and norm <= largest):
        torch._foreach_mul_(grads, (largest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _batches(corpus: Corpus, config: TrialConfig, start: int, device: torch.device) -> Generator[Batch, None, None]:
    if device.type == "cpu":
        for iteration in range(start, config.max_iters):
            yield train_batch(corpus, config, iteration)
    else:
        with Prefetcher(corpus, config, first=start, stop=config.max_iters, device=device) as prefetched:
            yield from prefetched


def _snapshot(
    state: State, model: Transformer, optimizers: Sequence[Optimizer], meter: Meter, digest: str, tokens_per_step: int
) -> dict[str, Any]:
    return {
        **asdict(state),
        "tokens": state.iteration * tokens_per_step,
        "digest": digest,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "meter": meter.sums_23,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(meter.one.device) if meter.one.is_cuda else None,
    }


def _restore(saved: dict[str, Any], model: Transformer, optimizers: Sequence[Optimizer], meter: Meter) -> State:
    model.load_state_dict(saved["model"])
    for optimizer, moments in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(moments)
    meter.sums_23.copy_(saved["meter"])
    torch.set_rng_state(saved["rng"])
    if saved["cuda_rng"] is not None and meter.one.is_cuda:
        torch.cuda.set_rng_state(saved["cuda_rng"], meter.one.device)
    return State(**{name: saved[name] for name in State.__dataclass_fields__ if name in saved})


def _stronger(answer: Answer, other: Answer | None) -> Answer:
    """The one of two answers that ends more."""
    order = [Answer.CONTINUE, Answer.PAUSE, Answer.STOP]
    return max(answer, other or Answer.CONTINUE, key=order.index)
