"""What the loop yields, measures, logs and keeps."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch

from hpsearch.data.batches import held_out_batches, train_batch
from hpsearch.errors import BadInput, StoppedForNow
from hpsearch.model.counting import count, update_flops
from hpsearch.model.transformer import Transformer
from hpsearch.training import device as devices
from hpsearch.training.checkpoints import load_checkpoint
from hpsearch.training.events import Answer, CheckpointSaved, EvalPoint, Outcome, Progress
from hpsearch.training.loop import Meter, backward, clip, evaluate
from hpsearch.training.optimizers import build_optimizers, set_learning_rate
from hpsearch.training.schedules import learning_rate_at

GOLDEN = 2.8333
"""val_loss of the golden run, in nats per byte."""


def log_lines(folder: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_events_come_in_order(runs: Any, tmp_path: Path) -> None:
    events, _ = runs.finish(runs.config(), tmp_path)
    letters = {Progress: "P", EvalPoint: "E", CheckpointSaved: "C"}
    assert [(letters[type(event)], event.iteration) for event in events] == [
        *[("P", 3), ("E", 4), ("C", 4), ("P", 6), ("E", 8), ("C", 8), ("P", 9), ("P", 12), ("E", 12), ("C", 12)]
    ]


def test_evaluations_and_checkpoints_of_a_fraction_of_a_step_apart(runs: Any, tmp_path: Path) -> None:
    config = runs.config(max_iters=19, eval_interval=1.9, max_save_num=99, log_interval=100)
    points = runs.points(runs.finish(config, tmp_path / "whole")[0])
    due = [2, 4, 6, 8, 10, 11, 13, 15, 17, 19]
    assert [(point["rung"], point["iteration"]) for point in points] == list(enumerate(due, start=1))
    saved = [int(path.stem.partition("-")[2]) for path in (tmp_path / "whole" / "checkpoints").glob("step-*.pt")]
    assert sorted(saved) == due
    # Where it evaluates changes nothing of what is learned, and a killed run goes on to the same end.
    other = runs.points(runs.finish(runs.config(max_iters=19, eval_interval=19), tmp_path / "other")[0])
    assert other[-1]["metrics"] == points[-1]["metrics"]
    runs.leave(config, tmp_path / "killed", 9)
    assert runs.points(runs.finish(config, tmp_path / "killed")[0])[-1] == points[-1]


def test_what_muon_multiplies_counts_in_the_flops_of_a_run(runs: Any, tmp_path: Path) -> None:
    config = runs.config(optimizer="muon")
    points = runs.points(runs.finish(config, tmp_path)[0])
    step = 4 * 16 * count(config).flops_per_token + update_flops(config)
    assert [point["flops"] for point in points] == pytest.approx([4 * step, 8 * step, 12 * step], rel=1e-12)


def test_an_evaluation_says_where_the_run_is(runs: Any, tmp_path: Path) -> None:
    config = runs.config(warmup_steps=2)
    events, result = runs.finish(config, tmp_path)
    found = [event for event in events if isinstance(event, EvalPoint)]
    flops = count(config).flops_per_token
    assert [point.rung for point in found] == [1, 2, 3]
    assert [point.tokens for point in found] == [4 * 4 * 16, 8 * 4 * 16, 12 * 4 * 16]
    assert [point.flops for point in found] == [tokens * 64 * flops for tokens in (4, 8, 12)]
    assert [point.learning_rate for point in found] == [learning_rate_at(step, config) for step in (3, 7, 11)]
    assert [point.seconds for point in found] == sorted(point.seconds for point in found)
    assert all(point.tokens_per_s > 0 and point.grad_norm > 0 for point in found)
    assert found[0].metrics["val_loss"] == pytest.approx(found[0].metrics["val_bpb"] * math.log(2))  # a byte is a token
    assert result.metrics["val_bpb"] == found[-1].metrics["val_bpb"]


def test_training_learns_the_text(runs: Any, tmp_path: Path) -> None:
    events, _ = runs.finish(runs.config(max_iters=80, eval_interval=20, batch_size=16, learning_rate=1e-2), tmp_path)
    losses = [point["metrics"]["val_bpb"] for point in runs.points(events)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 4.0 < 8.0 * 0.9


def test_the_golden_loss(runs: Any, tmp_path: Path) -> None:
    config = runs.config(
        d_model=32,
        d_ff=64,
        num_layers=2,
        max_iters=60,
        eval_interval=60,
        batch_size=8,
        learning_rate=5e-3,
        warmup_steps=5,
        dropout=0.0,
    )
    _, result = runs.finish(config, tmp_path)
    # Scalar, AVX2 and AVX-512 kernels and two threads agree to eight digits here; other libraries may add in other orders.
    assert result.metrics["val_loss"] == pytest.approx(GOLDEN, abs=5e-4)


def test_the_same_run_twice_is_the_same_and_another_seed_is_not(runs: Any, tmp_path: Path) -> None:
    curves = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        events, _ = runs.finish(runs.config(seed=seed, dropout=0.1), tmp_path / name)
        curves.append((runs.points(events), runs.weights(tmp_path / name)))
    assert curves[0] == curves[1] != curves[2]


@pytest.mark.parametrize(
    ("architecture", "measure"), [("decoder", "val_bpb"), ("encoder", "val_masked_bpb"), ("encoder_decoder", "val_bpb")]
)
def test_every_architecture_trains_and_leaves_a_sample(runs: Any, tmp_path: Path, architecture: str, measure: str) -> None:
    config = runs.config(architecture, max_iters=40, eval_interval=20, learning_rate=1e-2)
    events, result = runs.finish(config, tmp_path)
    first, last = runs.points(events)
    assert set(last["metrics"]) == {"val_loss", measure}
    assert last["metrics"][measure] < first["metrics"][measure]
    assert result.sample
    assert (tmp_path / "sample.txt").read_text() == result.sample + "\n"


def test_the_end_knows_every_objective(runs: Any, tmp_path: Path) -> None:
    config = runs.config(max_new_tokens=50)
    events, result = runs.finish(config, tmp_path / "one", objectives=("val_bpb", "generation_divergence"))
    counts = count(config)
    assert set(result.metrics) == {
        *("val_loss", "val_bpb", "train_seconds", "num_parameters", "flops_per_token", "generation_divergence")
    }
    assert result.metrics["num_parameters"] == counts.num_parameters
    assert result.metrics["flops_per_token"] == counts.flops_per_token
    assert result.metrics["train_seconds"] == [event for event in events if isinstance(event, EvalPoint)][-1].seconds
    assert 0 < result.metrics["generation_divergence"] <= 1
    assert result.peak_memory > 2**20
    _, again = runs.finish(config, tmp_path / "two", objectives=("val_bpb", "generation_divergence"))
    assert again.metrics["generation_divergence"] == result.metrics["generation_divergence"]


def test_greedy_text_diverges_more_than_drawn_text(runs: Any, tmp_path: Path) -> None:
    def divergence(temperature: float) -> float:
        config = runs.config(
            max_iters=60, eval_interval=60, learning_rate=1e-2, batch_size=16, max_new_tokens=200, temperature=temperature
        )
        _, result = runs.finish(config, tmp_path / str(temperature), objectives=("generation_divergence",))
        return float(result.metrics["generation_divergence"])

    assert divergence(0.0) > divergence(1.0)


def test_a_huge_learning_rate_is_told_as_divergence_with_its_step(runs: Any, tmp_path: Path) -> None:
    config = runs.config(optimizer="sgd", learning_rate=1e30, grad_clip=0, max_iters=50, eval_interval=40)
    events, result = runs.finish(config, tmp_path)
    assert result.outcome is Outcome.DIVERGED
    assert result.reason == f"the loss was nan at step {result.iteration}"
    assert 1 < result.iteration < 10
    assert runs.points(events) == []
    assert list((tmp_path / "checkpoints").glob("*.pt")) == []
    assert log_lines(tmp_path)[-1]["outcome"] == "diverged"


def test_a_run_that_breaks_in_its_last_step_is_found_by_the_evaluation(runs: Any, tmp_path: Path) -> None:
    config = runs.config(optimizer="sgd", learning_rate=1e30, grad_clip=0, max_iters=1, eval_interval=1)
    events, result = runs.finish(config, tmp_path)
    assert result.outcome is Outcome.DIVERGED
    assert result.reason.startswith("val_loss was ")
    assert result.reason.endswith(" at step 1")
    assert events == []


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
@pytest.mark.parametrize("parts", [2, 3, 5, 64])
def test_micro_batches_give_the_whole_batchs_gradient(runs: Any, architecture: str, parts: int) -> None:
    extra = {"sentence_loss_weight": 0.5} if architecture == "encoder" else {}
    config = runs.config(
        architecture, dropout=0.0, batch_size=7, z_loss_weight=0.01, attention_loss_weight=0.1, context_length=24, **extra
    )
    batch = train_batch(runs.corpora(architecture), config, 0)
    gradients, losses = [], []
    for micro_batches in (1, parts):
        model = Transformer(config)
        losses.append(backward(model, batch, config, micro_batches, torch.device("cpu")))
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=1e-4, atol=1e-7)


def test_a_run_in_micro_batches_ends_near_the_whole_one(runs: Any, tmp_path: Path) -> None:
    config = runs.config(dropout=0.0)
    _, whole = runs.finish(config, tmp_path / "whole")
    _, split = runs.finish(config, tmp_path / "split", micro_batches=2)
    assert split.metrics["val_loss"] == pytest.approx(whole.metrics["val_loss"], abs=1e-4)


@pytest.mark.parametrize("largest", [0.0, 0.5, 1e9])
def test_clipping_equals_torchs(largest: float) -> None:
    parameters = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(7)), torch.nn.Parameter(torch.randn(2))]
    for parameter in parameters[:2]:
        parameter.grad = torch.randn_like(parameter)
    expected = [None if p.grad is None else p.grad.clone() for p in parameters]
    clones = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for clone, grad in zip(clones, expected, strict=True):
        clone.grad = None if grad is None else grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(clones, largest or math.inf)
    assert clip(parameters, largest) == norm
    for parameter, clone in zip(parameters, clones, strict=True):
        assert (parameter.grad is None) == (clone.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, clone.grad)


def test_evaluation_is_the_mean_over_all_held_out_targets(runs: Any) -> None:
    config = runs.config()
    model = Transformer(config)
    batches = held_out_batches(runs.corpora("decoder"), config)
    nats = tokens = size = 0.0
    with torch.no_grad():
        for batch in batches:
            logits = model.eval()(batch).logits_BTV.double()
            nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="sum").item()
            tokens += (batch.targets_BT != -100).sum().item()
            size += batch.bytes_BT.sum().item()
    model.train()
    metrics = evaluate(model, batches, config, "val_bpb")
    assert metrics["val_loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert metrics["val_bpb"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert model.training


def test_checkpoints_kept_follow_max_save_num_and_save_interval(runs: Any, tmp_path: Path) -> None:
    config = runs.config(save_interval=2, max_save_num=3)
    events, _ = runs.finish(config, tmp_path)
    assert [event.iteration for event in events if isinstance(event, CheckpointSaved)] == [2, 4, 6, 8, 10, 12]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert kept == ["step-00000008.pt", "step-00000010.pt", "step-00000012.pt"]


def test_save_dir_moves_the_checkpoints(runs: Any, tmp_path: Path) -> None:
    events, _ = runs.finish(runs.config(save_dir="kept/here"), tmp_path)
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert Path(saved[-1].path).parent == tmp_path / "kept" / "here"
    assert not (tmp_path / "checkpoints").exists()


def test_a_command_puts_checkpoints_and_log_elsewhere(runs: Any, tmp_path: Path) -> None:
    config = runs.config(save_dir="kept", log_file="words.jsonl")
    more = {"checkpoints": tmp_path / "scratch", "log_file": tmp_path / "logs" / "all.jsonl"}
    events, _ = runs.finish(config, tmp_path / "trial", **more)
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    assert Path(saved[-1].path).parent == tmp_path / "scratch"
    assert [path.name for path in (tmp_path / "trial").iterdir()] == ["sample.txt"]
    assert {line["run"] for line in log_lines(tmp_path / "logs", "all.jsonl")} == {"trial"}


def test_a_log_is_not_written_through_a_link(runs: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "log.jsonl").symlink_to(tmp_path / "notes")
    with pytest.raises(BadInput, match=r"log_file: 'log.jsonl' in .* leads out of the folder through a symbolic link"):
        runs.finish(runs.config(), tmp_path / "trial")
    assert (tmp_path / "notes").read_text() == "mine"


def test_seconds_are_those_of_the_steps(runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    # Every look at this clock moves it by a second: a step looks twice, evaluations and checkpoints must not count.
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    events, result = runs.finish(runs.config(), tmp_path)
    assert [event.seconds for event in events if isinstance(event, EvalPoint)] == [4.0, 8.0, 12.0]
    assert {event.tokens_per_s for event in events if isinstance(event, EvalPoint | Progress)} == {64.0}
    assert result.metrics["train_seconds"] == 12.0


def test_the_best_weights_are_those_of_the_least_measure(runs: Any, tmp_path: Path) -> None:
    # Rises to a rate that undoes what was learned: the best evaluation is not the last.
    config = runs.config(max_iters=60, eval_interval=10, learning_rate=1.0, warmup_steps=59, grad_clip=0, max_save_num=9)
    events, _ = runs.finish(config, tmp_path)
    measured = {point["iteration"]: point["metrics"]["val_bpb"] for point in runs.points(events)}
    best = min(measured, key=measured.__getitem__)
    assert best < 60
    with safetensors.safe_open(tmp_path / "checkpoints" / "best.safetensors", framework="pt") as file:
        assert file.metadata() == {"iteration": str(best), "val_bpb": repr(measured[best])}
    kept = safetensors.torch.load_file(tmp_path / "checkpoints" / "best.safetensors")
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / f"step-{best:08d}.pt")["model"]
    assert all(torch.equal(kept[name], checkpoint[name]) for name in checkpoint)


def test_the_log_tells_the_run(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    events, _ = runs.finish(config, tmp_path)
    lines = log_lines(tmp_path)
    assert [line["event"] for line in lines] == [
        *("start", "step", "evaluation", "step", "evaluation", "step", "step", "evaluation", "end")
    ]
    start, end = lines[0], lines[-1]
    assert start["config"] == config.concrete()
    assert start["counts"]["num_parameters"] == count(config).num_parameters
    assert [group["weight_decay"] for group in start["groups"]] == [0.01, 0.0]
    assert sum(group["parameters"] for group in start["groups"]) == count(config).num_parameters
    assert start["versions"]["torch"] == torch.__version__
    assert start["device"] == "cpu, 1 thread"
    assert [line["iteration"] for line in lines if line["event"] == "step"] == [3, 6, 9, 12]
    assert {"train_loss", "learning_rate", "grad_norm", "tokens_per_s"} <= set(lines[1])
    assert [line["metrics"] for line in lines if line["event"] == "evaluation"] == [
        point["metrics"] for point in runs.points(events)
    ]
    assert end["outcome"] == "complete"


@pytest.mark.parametrize(
    ("level", "kept"),
    [("debug", {"debug", "info"}), ("info", {"info"}), ("warning", set()), ("error", set())],
)
def test_the_log_level_leaves_lower_lines_out(runs: Any, tmp_path: Path, level: str, kept: set[str]) -> None:
    runs.finish(runs.config(log_file_level=level), tmp_path)
    lines = log_lines(tmp_path)
    assert {line["level"] for line in lines} == kept
    assert sum(line["event"] == "checkpoint" for line in lines) == (3 if level == "debug" else 0)


def test_log_file_and_log_interval_are_honoured(runs: Any, tmp_path: Path) -> None:
    runs.finish(runs.config(log_file="logs/mine.jsonl", log_interval=5), tmp_path)
    assert [line["iteration"] for line in log_lines(tmp_path, "logs/mine.jsonl") if line["event"] == "step"] == [5, 10]
    assert not (tmp_path / "log.jsonl").exists()


def test_a_resumed_run_appends_to_its_log(runs: Any, tmp_path: Path) -> None:
    config = runs.config()
    runs.leave(config, tmp_path, 3)
    runs.finish(config, tmp_path)
    lines = log_lines(tmp_path)
    assert [line["iteration"] for line in lines if line["event"] == "start"] == [0, 4]
    assert [line["iteration"] for line in lines if line["event"] == "step"] == [3, 6, 9, 12]


def test_the_log_is_closed_when_the_run_is_left(runs: Any, tmp_path: Path) -> None:
    run = runs.start(runs.config(), tmp_path)
    next(run)
    path = str(tmp_path / "log.jsonl")
    assert path in [file.path for file in psutil.Process().open_files()]
    run.close()
    assert path not in [file.path for file in psutil.Process().open_files()]


def test_a_log_on_a_full_disk_stops_for_now(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(StoppedForNow, match="no space left"):
        runs.finish(runs.config(), tmp_path, log_file=Path("/dev/full"))


def test_none_is_an_answer_and_means_go_on(runs: Any, tmp_path: Path) -> None:
    assert sum(1 for _ in runs.start(runs.config(), tmp_path)) == 10


def test_stop_wins_over_pause(runs: Any, tmp_path: Path) -> None:
    events, result = runs.finish(runs.config(), tmp_path, {1: Answer.PAUSE, 2: Answer.STOP})
    assert isinstance(events[-1], CheckpointSaved)
    assert result.outcome is Outcome.STOPPED


def test_compilation_is_for_long_runs_on_a_gpu_only(runs: Any) -> None:
    short = runs.config()
    long = runs.config(num_layers=12, d_model=768, d_ff=3072, num_heads=12, max_iters=100_000)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert devices.compile_mode(long, count(long), gpu) == "reduce-overhead"
    wide = long.model_copy(update={"batch_size": 256, "context_length": 1024})
    assert devices.compile_mode(wide, count(wide), gpu) == "default"
    assert devices.compile_mode(short, count(short), gpu) is None
    assert devices.compile_mode(long, count(long), cpu) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon", "lion"])
def test_a_step_on_a_gpu_never_waits_for_it(runs: Any, optimizer: str) -> None:
    config, device = runs.config(optimizer=optimizer, dropout=0.1), torch.device("cuda")
    model = Transformer(config).to(device).train()
    optimizers, meter = build_optimizers(model, config), Meter(device)
    batch = train_batch(runs.corpora("decoder"), config, 0).to(device)

    def step(number: int) -> None:
        set_learning_rate(optimizers, 1e-3)
        loss = backward(model, batch, config, 2, device)
        norm = clip(list(model.parameters()), 1.0)
        for one in optimizers:
            one.step()
            one.zero_grad(set_to_none=True)
        meter.add(loss, norm, number)

    step(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.divergence() == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_run_on_a_gpu_learns_and_resumes(runs: Any, tmp_path: Path) -> None:
    config = runs.config(max_iters=80, eval_interval=20, batch_size=16, learning_rate=1e-2)
    runs.leave(config, tmp_path, 9, device="cuda")
    _, result = runs.finish(config, tmp_path, device="cuda")
    assert result.outcome is Outcome.COMPLETE
    assert result.metrics["val_bpb"] < 4.2
