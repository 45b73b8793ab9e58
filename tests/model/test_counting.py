import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hpsearch.config import TrialConfig
from hpsearch.data.batches import Batch
from hpsearch.data.corruption import infilled_length
from hpsearch.model.counting import (
    FLOAT,
    activation_bytes,
    count,
    counted_shapes,
    parameter_shapes,
    source_length,
    update_flops,
    weight_bytes,
)
from hpsearch.model.losses import loss_terms
from hpsearch.model.transformer import Transformer
from hpsearch.training.optimizers import build_optimizers

Tiny = Callable[..., TrialConfig]
MakeBatch = Callable[..., Batch]

ARCHITECTURES = ["decoder", "encoder", "encoder_decoder"]


def random_settings(generator: random.Random, architecture: str) -> dict[str, Any]:
    """Anything that changes shapes."""
    choose = generator.choice
    heads = choose([1, 2, 4])
    width = choose([8, 12])
    settings = {
        "architecture": architecture,
        "num_layers": choose([1, 2, 3]),
        "d_model": heads * width,
        "num_heads": heads,
        "num_groups": choose([groups for groups in (1, 2, 4) if heads % groups == 0]),
        "d_ff": choose([19, 48]),
        "embedding_dim": choose([5, heads * width]),
        "vocab_size": choose([13, 50]),
        "context_length": choose([9, 14]),
        "max_position_embeddings": choose([16, 40]),
        "position": choose(["learned", "rotary", "sinusoidal"]),
        "hidden_act": choose(["gelu", "relu", "silu", "relu2", "swiglu", "geglu"]),
        "norm": choose(["layernorm", "rmsnorm"]),
        "tie_embeddings": choose([True, False]),
        "attention_loss_weight": choose([0.0, 0.1]),
        "z_loss_weight": choose([0.0, 0.1]),
        "dropout": choose([0.0, 0.1]),
        "hidden_dropout_prob": choose([0.0, 0.1]),
        "attention_probs_dropout_prob": choose([0.0, 0.1]),
        "batch_size": choose([2, 3]),
    }
    if architecture == "encoder":
        settings |= {"sentence_loss_weight": choose([0.0, 0.1]), "type_vocab_size": choose([1, 3])}
    if architecture == "encoder_decoder":
        settings |= {"num_encoder_layers": choose([1, 3]), "num_decoder_layers": choose([1, 2])}
    return settings


@pytest.fixture(params=[(architecture, seed) for architecture in ARCHITECTURES for seed in range(12)], ids=str)
def config(request: pytest.FixtureRequest, tiny: Tiny) -> TrialConfig:
    architecture, seed = request.param
    return tiny(**random_settings(random.Random(seed), architecture))


def test_parameters_are_exactly_those_of_the_module(config: TrialConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    assert parameter_shapes(config) == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    counts = count(config)
    assert counts.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    stacks = [stack for stack in (model.encoder, model.decoder) if stack is not None]
    tables: list[torch.nn.Module | None] = [model.tokens, model.output]
    tables += [table for stack in stacks for table in (getattr(stack, "positions", None), stack.segments)]
    embeddings = sum(weight.numel() for table in tables if table is not None for weight in table.parameters())
    assert counts.non_embedding_parameters == counts.num_parameters - embeddings


def test_flops_equal_those_that_torch_counts(config: TrialConfig, make_batch: MakeBatch) -> None:
    model, batch = Transformer(config).train(), make_batch(config)
    counts = count(config)
    # Torch's counter knows no formula for the CPU's fused attention; the MATH backend is plain matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(batch)
        forward = counter.get_total_flops()
        loss_terms(output, batch, config).total.backward()  # type: ignore[no-untyped-call]
    tokens = config.batch_size * config.context_length
    assert counts.forward_flops_per_token * tokens == pytest.approx(forward, rel=1e-12)
    assert counts.flops_per_token * tokens == pytest.approx(counter.get_total_flops(), rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_flops_of_an_update_equal_those_that_torch_counts(optimizer: str, config: TrialConfig) -> None:
    config = config.model_copy(update={"optimizer": optimizer})
    model = Transformer(config).train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with FlopCounterMode(display=False) as counter:
        for each in build_optimizers(model, config):
            each.step()
    assert update_flops(config) == counter.get_total_flops()


def test_memory_is_what_autograd_keeps(config: TrialConfig, make_batch: MakeBatch) -> None:
    """Within 3 %: masks of a byte per score and other small things are left out of the formula."""
    model, batch = Transformer(config).train(), make_batch(config)
    inputs = [tensor for tensor in vars(batch).values() if tensor is not None]
    ours = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), *inputs)}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_terms(model(batch), batch, config)
    del loss
    # The formula has the logits and their gradient as well, of which autograd keeps none.
    logits = FLOAT * 2 * batch.targets_BT.numel() * config.vocab_size
    z_loss = FLOAT * batch.targets_BT.numel() * config.vocab_size if config.z_loss_weight else 0
    saved = sum(storage.nbytes() for storage in kept.values())
    assert activation_bytes(config) - logits == pytest.approx(saved - z_loss, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"optimizer": "adamw"}, torch.optim.AdamW),
        ({"optimizer": "sgd", "momentum": 0.9}, lambda parameters: torch.optim.SGD(parameters, momentum=0.9)),
        ({"optimizer": "sgd", "momentum": 0.0}, torch.optim.SGD),
        ({"optimizer": "adafactor"}, torch.optim.Adafactor),
    ],
)
def test_the_optimizers_state_is_what_torch_keeps(
    settings: dict[str, Any], make: Callable[..., torch.optim.Optimizer], tiny: Tiny, make_batch: MakeBatch
) -> None:
    config = tiny(**settings)
    model, batch = Transformer(config), make_batch(config)
    optimizer = make(model.parameters())
    loss_terms(model(batch), batch, config).total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    state = sum(
        value.nbytes
        for moments in optimizer.state.values()
        for value in moments.values()
        if torch.is_tensor(value) and value.ndim
    )
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert weight_bytes(config, counted_shapes(config)) == 2 * weights + state


def test_a_known_size_is_counted_right(tiny: Tiny) -> None:
    """GPT-2 small, by hand: 124,439,808 parameters."""
    config = tiny(
        num_layers=12, d_model=768, d_ff=3072, num_heads=12, vocab_size=50257, context_length=1024, max_position_embeddings=1024
    )
    counts = count(config)
    assert counts.num_parameters == 124_439_808
    assert counts.non_embedding_parameters == 124_439_808 - 768 * (50257 + 1024)
    assert counts.forward_flops_per_token == 2 * (12 * 12 * 768**2 + 768 * 50257) + 12 * 4 * 1024 * 768


def test_an_encoder_decoder_reads_what_infilling_leaves(tiny: Tiny) -> None:
    config = tiny(architecture="encoder_decoder", context_length=16)
    assert source_length(config) == infilled_length(15) < 15


def test_counting_imports_no_torch() -> None:
    code = "import sys, hpsearch.model.counting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_grows_with_the_batch_and_not_with_depth_alone(tiny: Tiny) -> None:
    one, two = count(tiny(batch_size=1)), count(tiny(batch_size=2))
    assert two.memory_bytes - one.memory_bytes == activation_bytes(tiny(batch_size=1))
    assert math.isclose(one.flops_per_token, two.flops_per_token)


@pytest.mark.parametrize("architecture", ["decoder", "encoder", "encoder_decoder"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
def test_many_blocks_are_counted_by_formula_as_few_are(architecture: str, optimizer: str) -> None:
    def counted(layers: int) -> list[int]:
        config = TrialConfig.build({"max_iters": 1, "architecture": architecture, "optimizer": optimizer, "num_layers": layers})
        found = count(config)
        forward = round(found.forward_flops_per_token * config.context_length)
        return [found.num_parameters, found.non_embedding_parameters, found.memory_bytes, update_flops(config), forward]

    two, three, many = counted(2), counted(3), counted(10_000_000)
    # Each block weighs the same, and the sums are whole numbers; a float holds the FLOPs to sixteen digits.
    expected = [a + (b - a) * (10_000_000 - 2) for a, b in zip(two, three, strict=True)]
    assert many[:4] == expected[:4]
    assert many[4] == pytest.approx(expected[4], rel=1e-9)
