import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hpsearch.config import TrialConfig
from hpsearch.data.batches import Batch
from hpsearch.model.losses import EmptyEvaluation, bits_per_byte, loss_counts, loss_terms
from hpsearch.model.transformer import ModelOutput, Transformer

Tiny = Callable[..., TrialConfig]
MakeBatch = Callable[..., Batch]

EVERY_TERM: dict[str, dict[str, Any]] = {
    "decoder": {"num_groups": 2},
    "encoder": {"sentence_loss_weight": 0.5},
    "encoder_decoder": {"num_encoder_layers": 1},
}


@pytest.mark.parametrize("architecture", EVERY_TERM)
def test_micro_batches_give_the_gradient_of_the_whole_batch(architecture: str, tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(
        architecture=architecture,
        ce_loss_weight=0.7,
        z_loss_weight=0.2,
        attention_loss_weight=0.3,
        batch_size=5,
        **EVERY_TERM[architecture],
    )
    model, batch = Transformer(config).eval(), make_batch(config, padded=True)
    whole = loss_terms(model(batch), batch, config)
    whole.total.backward()  # type: ignore[no-untyped-call]
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    counts = loss_counts(batch, config)
    parts = [loss_terms(model(part), part, config, counts) for part in batch.split(3)]
    for part in parts:
        part.total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(sum(part.total for part in parts), whole.total)
    assert sum(part.count for part in parts) == whole.count == counts.targets
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_each_term_is_its_formula(tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(architecture="encoder", ce_loss_weight=2.0, z_loss_weight=0.5, sentence_loss_weight=3.0)
    model, batch = Transformer(config).eval(), make_batch(config)
    output = model(batch)
    assert batch.order_B is not None
    assert output.order_logits_B2 is not None
    counted = batch.targets_BT != -100
    logits = output.logits_BTV[counted].double()
    ce = -logits.log_softmax(-1).gather(1, batch.targets_BT[counted][:, None]).mean()
    z = logits.exp().sum(-1).log().square().mean()
    order = -output.order_logits_B2.log_softmax(-1)[torch.arange(3), batch.order_B].mean()
    losses = loss_terms(output, batch, config)
    assert losses.total.item() == pytest.approx((2 * ce + 0.5 * z + 3 * order).item(), rel=1e-5)
    assert losses.ce_sum.item() == pytest.approx(ce.item() * losses.count.item(), rel=1e-5)


@pytest.mark.parametrize("architecture", EVERY_TERM)
@pytest.mark.parametrize("padded", [False, True])
def test_the_attention_penalty_is_0_for_even_heads_and_1_for_collapsed_ones(
    architecture: str, padded: bool, tiny: Tiny, make_batch: MakeBatch
) -> None:
    config = tiny(architecture=architecture, attention_loss_weight=1.0, ce_loss_weight=0.0, position="sinusoidal")
    batch = make_batch(config, padded=padded)
    model = Transformer(config).eval()

    def penalty(scale: float) -> float:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("query_key_value.weight", "cross_attention.query.weight")):
                    rows = slice(config.d_model)
                    parameter[rows] = scale * torch.randn(config.d_model, config.d_model)
        return loss_terms(model(batch), batch, config).total.item()

    torch.manual_seed(0)
    assert penalty(0.0) == pytest.approx(0.0, abs=1e-5)
    assert penalty(1e4) == pytest.approx(1.0, abs=0.03)
    assert 0.0 < penalty(1.0) < 1.0


def test_the_attention_penalty_spreads_attention(tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(attention_loss_weight=1.0, ce_loss_weight=0.0)
    model, batch = Transformer(config).train(), make_batch(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    values = []
    for _ in range(20):
        loss = loss_terms(model(batch), batch, config).total
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("architecture", EVERY_TERM)
def test_watching_attention_does_not_change_the_logits(architecture: str, tiny: Tiny, make_batch: MakeBatch) -> None:
    plain = tiny(architecture=architecture, **EVERY_TERM[architecture])
    watched = tiny(architecture=architecture, **EVERY_TERM[architecture], attention_loss_weight=0.1)
    batch = make_batch(plain, padded=True)
    with torch.inference_mode():
        found, expected = Transformer(watched).eval()(batch), Transformer(plain).eval()(batch)
    real = slice(None) if architecture != "encoder" else batch.padding_BT
    torch.testing.assert_close(found.logits_BTV[real], expected.logits_BTV[real], atol=1e-5, rtol=1e-4)
    assert found.concentration_sum is not None
    assert expected.concentration_sum is None


def test_a_batch_without_targets_costs_nothing(tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(z_loss_weight=0.1, attention_loss_weight=0.1)
    batch = make_batch(config)
    batch = replace(batch, targets_BT=torch.full_like(batch.targets_BT, -100))
    losses = loss_terms(Transformer(config)(batch), batch, config)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert losses.total.item() == 0.0
    assert losses.count.item() == 0


def test_bits_per_byte_counts_bytes_and_not_tokens() -> None:
    assert bits_per_byte(80 * math.log(2), 40) == pytest.approx(2.0)
    with pytest.raises(EmptyEvaluation, match="no byte"):
        bits_per_byte(0.0, 0)


def test_uniform_logits_cost_the_entropy_of_the_vocabulary(tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny()
    batch = make_batch(config)
    hidden = torch.zeros(*batch.targets_BT.shape, 1)
    losses = loss_terms(ModelOutput(torch.zeros(*batch.targets_BT.shape, config.vocab_size), hidden), batch, config)
    assert losses.total.item() == pytest.approx(math.log(config.vocab_size))
