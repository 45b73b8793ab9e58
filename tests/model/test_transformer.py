import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hpsearch.config import TrialConfig
from hpsearch.data.batches import Batch
from hpsearch.errors import ConfigError
from hpsearch.model.layers import RMSNorm, attend, dropout, rotary_table, rotate
from hpsearch.model.losses import loss_terms
from hpsearch.model.transformer import Transformer, sinusoid_table

Tiny = Callable[..., TrialConfig]
MakeBatch = Callable[..., Batch]

MODERN = {"position": "rotary", "norm": "rmsnorm", "hidden_act": "swiglu", "num_groups": 2}
ARCHITECTURES = ["decoder", "encoder", "encoder_decoder"]
VARIANTS: list[dict[str, Any]] = [
    {},
    MODERN,
    {"position": "sinusoidal", "hidden_act": "relu2", "embedding_dim": 10, "dropout": 0.2},
    {"hidden_act": "geglu", "tie_embeddings": False, "num_groups": 1, "attention_loss_weight": 0.1},
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
@torch.inference_mode()
def test_generation_with_the_cache_equals_the_run_without_it(
    architecture: str, variant: dict[str, Any], tiny: Tiny, make_batch: MakeBatch
) -> None:
    config = tiny(architecture=architecture, **variant)
    model = Transformer(config).eval()
    batch = make_batch(config, padded=True)
    expected_BTV = model(batch).logits_BTV
    seq2seq = batch.decoder_inputs_BT is not None
    tokens_BT = batch.inputs_BT if batch.decoder_inputs_BT is None else batch.decoder_inputs_BT
    cache = model.start(
        len(tokens_BT), config.context_length, batch.inputs_BT if seq2seq else None, batch.padding_BT if seq2seq else None
    )
    # A prompt, more of it at once, then token by token.
    found = {4: model.prefill(tokens_BT[:, :5], cache), 7: model.prefill(tokens_BT[:, 5:8], cache)}
    for t in range(8, config.context_length):
        found[t] = model.decode_step(tokens_BT[:, t], cache)
    assert cache.length == config.context_length
    for t, logits_BV in found.items():
        torch.testing.assert_close(logits_BV, expected_BTV[:, t], atol=2e-5, rtol=1e-4)


def test_the_cache_says_what_does_not_fit(tiny: Tiny) -> None:
    model = Transformer(tiny())
    with pytest.raises(ConfigError, match="17 tokens are more than the 16 positions"):
        model.start(1, 17)
    with pytest.raises(ConfigError, match="longer than the 16 positions"):
        model.prefill(torch.zeros(1, 17, dtype=torch.long), model.start(1, 16))
    with pytest.raises(ConfigError, match="cannot generate"):
        Transformer(tiny(architecture="encoder")).start(1, 4)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_a_decoder_never_looks_ahead(variant: dict[str, Any], tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(**variant)
    model = Transformer(config).eval()
    batch = make_batch(config)
    changed_BT = batch.inputs_BT.clone()
    changed_BT[:, 6:] = 0
    before, after = model(batch).logits_BTV, model(replace(batch, inputs_BT=changed_BT)).logits_BTV
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
@torch.inference_mode()
def test_padding_changes_nothing(architecture: str, variant: dict[str, Any], tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(architecture=architecture, **variant)
    model = Transformer(config).eval()
    batch = make_batch(config, padded=True)
    assert batch.padding_BT is not None
    other = replace(batch, inputs_BT=batch.inputs_BT.where(batch.padding_BT, 5))
    seen = batch.padding_BT if architecture == "encoder" else slice(None)
    torch.testing.assert_close(model(batch).logits_BTV[seen], model(other).logits_BTV[seen])
    unpadded = model(replace(batch, padding_BT=None)).logits_BTV
    assert not torch.allclose(unpadded[seen], model(batch).logits_BTV[seen], atol=1e-3)


@torch.inference_mode()
def test_segments_and_their_number_change_the_encoder(tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(architecture="encoder")
    model, batch = Transformer(config).eval(), make_batch(config)
    assert not torch.allclose(model(batch).logits_BTV, model(replace(batch, segments_BT=None)).logits_BTV)
    single = tiny(architecture="encoder", type_vocab_size=1)
    model = Transformer(single).eval()
    torch.testing.assert_close(model(batch).logits_BTV, model(replace(batch, segments_BT=None)).logits_BTV)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_start_with_the_documented_variance(architecture: str, tiny: Tiny) -> None:
    config = tiny(architecture=architecture, d_model=64, d_ff=256, num_layers=3, initializer_range=0.05, initializer_factor=2.0)
    for name, parameter in Transformer(config).named_parameters():
        if parameter.ndim == 2:
            into_residual = architecture == "decoder" and name.endswith(("attention.output.weight", "down.weight"))
            expected = 0.1 / math.sqrt(6) if into_residual else 0.1
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
        else:
            assert bool((parameter == (1 if name.endswith("norm.weight") else 0)).all()), name


def test_the_seed_alone_decides_the_weights(tiny: Tiny) -> None:
    torch.manual_seed(1)
    first = Transformer(tiny(seed=3)).state_dict()
    torch.manual_seed(2)
    second, other = Transformer(tiny(seed=3)).state_dict(), Transformer(tiny(seed=4)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])


@pytest.mark.parametrize("name", ["dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_acts_in_training_only(name: str, tiny: Tiny, make_batch: MakeBatch) -> None:
    others = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, name: 0.5}
    config = tiny(**({"dropout": 0.0} | others))
    model, batch = Transformer(config), make_batch(config)
    plain = Transformer(tiny())
    with torch.inference_mode():
        assert not torch.equal(model.train()(batch).logits_BTV, model(batch).logits_BTV)
        torch.testing.assert_close(model.eval()(batch).logits_BTV, plain.eval()(batch).logits_BTV)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_its_gradient(probability: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 101, requires_grad=True)
    y = dropout(x, probability, True)
    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [4, 2])
def test_explicit_attention_equals_sdpa(causal: bool, masked: bool, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, groups, 6, 8), torch.randn(2, groups, 6, 8)
    mask = (torch.arange(6) < torch.tensor([[4], [6]]))[:, None, None, :] if masked and not causal else None
    expected = attend(query, key, value, causal=causal, mask=mask, dropout_p=0.0, concentration=None)
    # The explicit form is what a CPU takes with dropout; take the dropping out of it.
    monkeypatch.setattr("hpsearch.model.layers.dropout", lambda x, probability, training: x)
    found = attend(query, key, value, causal=causal, mask=mask, dropout_p=0.5, concentration=None)
    torch.testing.assert_close(found, expected)


def test_rms_norm_equals_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True)
    norm = RMSNorm(16, eps=1e-3, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.normal_()
    torch.testing.assert_close(norm(x), torch.nn.functional.rms_norm(x, (16,), norm.weight, 1e-3))
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradcheck(lambda weight: torch.func.functional_call(norm, {"weight": weight}, (x,)), (norm.weight,))


def test_rotary_products_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    table = rotary_table(20, 8)
    query, key = torch.randn(1, 1, 1, 8).expand(1, 20, 1, 8), torch.randn(1, 1, 1, 8).expand(1, 20, 1, 8)
    scores = rotate(query, table)[0, :, 0] @ rotate(key, table)[0, :, 0].T
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(scores[0, 0], scores[0, 3], atol=1e-3)


def test_sinusoids_are_the_papers() -> None:
    table = sinusoid_table(9, 7)
    assert table.shape == (9, 7)
    assert table[5, 2].item() == pytest.approx(math.sin(5 / 10_000 ** (2 / 7)), abs=1e-6)
    assert table[8, 5].item() == pytest.approx(math.cos(8 / 10_000 ** (4 / 7)), abs=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", [MODERN, VARIANTS[3]])
def test_the_whole_step_is_one_graph(architecture: str, variant: dict[str, Any], tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(architecture=architecture, num_layers=1, **variant)
    model = Transformer(config).eval()
    torch._dynamo.reset()
    # The eager backend traces all the same; fullgraph raises at the first break.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    batch = make_batch(config, padded=True)
    torch.testing.assert_close(compiled(batch).logits_BTV, model(batch).logits_BTV)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_trains_under_bf16_autocast(architecture: str, variant: dict[str, Any], tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(architecture=architecture, **variant, initializer_range=0.1)
    model, batch = Transformer(config).train(), make_batch(config)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
        loss = loss_terms(output, batch, config).total
    assert output.logits_BTV.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_few_steps_learn_a_batch_by_heart(architecture: str, tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(architecture=architecture, initializer_range=0.05)
    model, batch = Transformer(config).train(), make_batch(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = loss_terms(model(batch), batch, config).total
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(config.vocab_size), rel=0.1)
    assert losses[-1] < 0.2 * losses[0]
