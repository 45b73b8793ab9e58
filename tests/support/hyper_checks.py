"""What each hyperparameter must do: one check for each row of the document, in its order.

A check gets sides that differ in its row alone, named after their values. It compares with the definition, written out once
more in plain torch, wherever the row is a formula. Shape suffixes: B batch, T time, D d_model, E embedding_dim.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hyper_rows import CPU, Side, decoder_batch, space_of
from torch import Tensor

from hpsearch.data.batches import IGNORED, held_out_batches
from hpsearch.data.held_out import LEAD_BYTES
from hpsearch.errors import ConfigError
from hpsearch.storage.records import BudgetRecord
from hpsearch.training.loop import backward
from hpsearch.training.optimizers import describe_groups
from hpsearch.training.sample import FILE, SEPARATOR
from hpsearch.workload.feasibility import concrete

close = torch.testing.assert_close


def refused_with(side: Side, **settings: object) -> None:
    with pytest.raises(ConfigError, match="does nothing"):
        _ = side.but(**settings).config


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def random_input(side: Side) -> Tensor:
    """(1, T, D)"""
    return torch.randn(1, side.config.context_length, side.config.d_model, generator=torch.Generator().manual_seed(0))


# Architecture


def stacks_sight_and_task_follow_the_architecture(decoder: Side, encoder: Side, both: Side) -> None:
    for side, stacks in ((decoder, {"decoder"}), (encoder, {"encoder"}), (both, {"encoder", "decoder"})):
        assert {name.split(".")[0] for name in side.shapes if ".blocks." in name} == stacks
        assert any("cross_attention" in name for name in side.shapes) == (side is both)
    # Only a causal stack's first position does not see the last token.
    assert not _first_sees_last(decoder, "inputs_BT")
    assert _first_sees_last(encoder, "inputs_BT")
    assert _first_sees_last(both, "inputs_BT")
    assert not _first_sees_last(both, "decoder_inputs_BT")
    # Causal: each next token. Masked: the hidden ones. Denoising: all of a text of which spans are cut out.
    assert torch.equal(decoder.batch.targets_BT[:, :-1], decoder.batch.inputs_BT[:, 1:])
    hidden = encoder.batch.targets_BT != IGNORED
    assert 0 < hidden.float().mean() < 0.4
    assert (encoder.batch.inputs_BT[hidden] == encoder.corpus.tokenizer.specials["[MASK]"]).any()
    assert both.batch.decoder_inputs_BT is not None
    assert torch.equal(both.batch.targets_BT[:, :-1], both.batch.decoder_inputs_BT[:, 1:])
    assert both.batch.inputs_BT.shape[1] < both.batch.targets_BT.shape[1]
    assert [set(side.points[0].metrics) - {"val_loss"} for side in (decoder, encoder, both)] == [
        {"val_bpb"},
        {"val_masked_bpb"},
        {"val_bpb"},
    ]


def _first_sees_last(side: Side, inputs: str) -> bool:
    changed = getattr(side.batch, inputs).clone()
    changed[:, -1] = (changed[:, -1] + 1) % 256
    before, after = side.output().logits_BTV, side.output(dataclasses.replace(side.batch, **{inputs: changed})).logits_BTV
    return not torch.allclose(before[:, 0], after[:, 0], atol=1e-6)


def blocks_of_the_stack_and_by_default_of_both(one: Side, three: Side) -> None:
    assert (one.depth("decoder"), three.depth("decoder")) == (1, 3)
    for side, depth in ((one, 1), (three, 3)):
        both = side.but(architecture="encoder_decoder")
        assert (both.depth("encoder"), both.depth("decoder")) == (depth, depth)


def blocks_of_the_encoder(one: Side, three: Side) -> None:
    assert [(side.depth("encoder"), side.depth("decoder")) for side in (one, three)] == [(1, 2), (3, 2)]
    refused_with(one, architecture="decoder")


def blocks_of_the_decoder(one: Side, three: Side) -> None:
    assert [(side.depth("encoder"), side.depth("decoder")) for side in (one, three)] == [(2, 1), (2, 3)]
    refused_with(one, architecture="decoder")


def width_of_the_residual(narrow: Side, wide: Side) -> None:
    for side, width in ((narrow, 16), (wide, 32)):
        assert side.output().hidden_BTD.shape == (4, 16, width)
        assert side.shapes["decoder.blocks.0.attention.output.weight"] == (width, width)


def width_of_the_feed_forward(narrow: Side, wide: Side) -> None:
    differing = {name for name in narrow.shapes if narrow.shapes[name] != wide.shapes[name]}
    assert {name.rsplit(".", 2)[0] for name in differing} == {"decoder.blocks.0.feed_forward"}
    for side, width in ((narrow, 32), (wide, 48)):
        assert side.shapes["decoder.blocks.0.feed_forward.up.weight"] == (width, 16)


def query_heads(two: Side, four: Side) -> None:
    x_BTD = random_input(two)
    for side, heads in ((two, 2), (four, 4)):
        close(_attention(side, x_BTD), _many_heads(side, x_BTD, heads, heads)[0])
    assert not torch.allclose(_attention(two, x_BTD), _attention(four, x_BTD), atol=1e-3)
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        _ = two.but(num_heads=3).config


def shared_key_value_heads(four: Side, two: Side, one: Side) -> None:
    for side, groups in ((four, 4), (two, 2), (one, 1)):
        x_BTD = random_input(side)
        assert side.shapes["decoder.blocks.0.attention.query_key_value.weight"] == (16 + 2 * groups * 4, 16)
        assert side.model.start(1, 8).layers[0].keys_BGSK.shape == (1, groups, 8, 4)
        close(_attention(side, x_BTD), _many_heads(side, x_BTD, 4, groups)[0])
    with pytest.raises(ConfigError, match="multiple of num_groups"):
        _ = four.but(num_groups=3).config


def _attention(side: Side, x_BTD: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = side.decoder.blocks[0].attention(x_BTD)
    return found


def _many_heads(side: Side, x_BTD: Tensor, heads: int, groups: int) -> tuple[Tensor, list[Tensor]]:
    """Causal attention of the first block, head by head, and each head's probabilities (B, T, T)."""
    weights = {name.partition("attention.")[2]: w for name, w in side.start.items() if "blocks.0.attention." in name}
    mixed = x_BTD @ weights["query_key_value.weight"].mT + weights["query_key_value.bias"]
    width = side.config.d_model // heads
    queries, keys, values = torch.split(mixed, [heads * width, groups * width, groups * width], -1)
    past = torch.ones(x_BTD.shape[1], x_BTD.shape[1]).tril().bool()
    outputs, looks = [], []
    for head in range(heads):
        group = head * groups // heads
        query, key, value = (
            part[..., index * width : (index + 1) * width] for part, index in ((queries, head), (keys, group), (values, group))
        )
        looks.append((query @ key.mT / math.sqrt(width)).masked_fill(~past, -math.inf).softmax(-1))
        outputs.append(looks[-1] @ value)
    return torch.cat(outputs, -1) @ weights["output.weight"].mT + weights["output.bias"], looks


def width_of_the_token_table_and_its_projection(as_wide: Side, narrow: Side) -> None:
    assert as_wide.shapes["tokens.weight"] == (256, 16)
    assert "tokens_projection.weight" not in as_wide.shapes
    assert narrow.shapes["tokens.weight"] == (256, 8)
    assert narrow.shapes["tokens_projection.weight"] == (16, 8)
    # Nothing else changes.
    assert as_wide.output().hidden_BTD.shape == narrow.output().hidden_BTD.shape
    assert as_wide.shapes.keys() == narrow.shapes.keys() - {"tokens_projection.weight"}


def tokens_of_the_trained_tokenizer(small: Side, large: Side) -> None:
    sample = small.corpus.held_out(1)[0]
    for side, size in ((small, 270), (large, 300)):
        assert side.corpus.tokenizer.kind == "bpe"
        assert side.corpus.tokenizer.vocab_size == side.shapes["tokens.weight"][0] == size
        assert side.output().logits_BTV.shape[-1] == size
        assert side.corpus.tokenizer.decode(side.corpus.tokenizer.encode(sample)) == sample
    # The larger one says the same in fewer tokens.
    assert len(large.corpus.tokenizer.encode(sample)) < len(small.corpus.tokenizer.encode(sample))


def segments_that_are_told_apart(one: Side, two: Side) -> None:
    for side, rows in ((one, 1), (two, 2)):
        assert side.shapes["encoder.segments.weight"] == (rows, 16)
        assert side.batch.segments_BT is not None
        assert set(side.batch.segments_BT.flatten().tolist()) == set(range(rows))
        exchanged = dataclasses.replace(side.batch, segments_BT=1 - side.batch.segments_BT)
        told = not torch.allclose(side.output().logits_BTV, side.output(exchanged).logits_BTV, atol=1e-6)
        assert told == (rows == 2)


def tokens_of_a_sequence(short: Side, long: Side) -> None:
    assert (short.batch.inputs_BT.shape, long.batch.inputs_BT.shape) == ((4, 8), (4, 16))
    assert [point.tokens for point in short.points] == [4 * 8 * step for step in (4, 8, 12)]
    assert [point.tokens for point in long.points] == [4 * 16 * step for step in (4, 8, 12)]
    # Longer sequences are not more text to be judged on: each held-out byte after a span's lead-in is a target once.
    for side in (short, long):
        batches = held_out_batches(side.corpus, side.config)
        assert max(batch.inputs_BT.shape[1] for batch in batches) == side.config.context_length
        assert sum(int(batch.bytes_BT.sum()) for batch in batches) == 2048 - LEAD_BYTES


def rows_of_the_position_table(few: Side, many: Side) -> None:
    for side, rows in ((few, 16), (many, 40)):
        assert side.shapes["decoder.positions.weight"] == (rows, 16)
        both = side.but(architecture="encoder_decoder")
        assert both.shapes["encoder.positions.weight"] == both.shapes["decoder.positions.weight"] == (rows, 16)
        side.model.start(1, rows)
        with pytest.raises(ConfigError, match="positions of the model"):
            side.model.start(1, rows + 1)
    with pytest.raises(ConfigError, match="must be at least context_length"):
        _ = few.but(max_position_embeddings=15).config


def how_places_are_told(learned: Side, rotary: Side, sinusoidal: Side) -> None:
    assert [sorted(name for name in side.shapes if "positions" in name) for side in (learned, rotary, sinusoidal)] == [
        ["decoder.positions.weight"],
        [],
        [],
    ]
    # Added to the input: places of one repeated token look different. Rotary turns queries and keys, which see no difference
    # between equal tokens, and tells two orders of the past apart.
    assert not _same_at_all_places(learned)
    assert not _same_at_all_places(sinusoidal)
    assert _same_at_all_places(rotary)
    assert all(_order_matters(side) for side in (learned, rotary, sinusoidal))
    with torch.no_grad():
        learned.decoder.positions.weight.zero_()
    assert _same_at_all_places(learned)
    assert not _order_matters(learned)
    # Rotary attention knows distances only: shifted by two places, the same text is the same.
    x_BTD, table = random_input(rotary), rotary.decoder.rotary_2TK
    attention = rotary.decoder.blocks[0].attention
    close(attention(x_BTD[:, :8], rotary_2TK=table[:, :8]), attention(x_BTD[:, :8], rotary_2TK=table[:, 2:10]))
    # The sinusoids of the paper, at the scale of the table that they are added to.
    table_TD = sinusoidal.decoder.sinusoids_TD / sinusoidal.config.initializer_range
    close(
        table_TD[3, :4],
        torch.tensor([math.sin(3), math.cos(3), math.sin(3 * 10_000 ** (-2 / 16)), math.cos(3 * 10_000 ** (-1 / 8))]),
    )


def _same_at_all_places(side: Side) -> bool:
    logits_TV = side.output(decoder_batch(torch.full((1, 16), 65))).logits_BTV[0]
    return torch.allclose(logits_TV, logits_TV[:1].expand_as(logits_TV), atol=1e-5)


def _order_matters(side: Side) -> bool:
    forward, exchanged = torch.arange(65, 81)[None], torch.arange(65, 81)[None].clone()
    exchanged[0, [2, 9]] = forward[0, [9, 2]]
    before, after = (side.output(decoder_batch(each)).logits_BTV[0, -1] for each in (forward, exchanged))
    return not torch.allclose(before, after, atol=1e-5)


def the_activations_formula(gelu: Side, relu: Side, silu: Side, relu2: Side, swiglu: Side, geglu: Side) -> None:
    def gauss(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    def swish(x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-x))

    formulas = (
        (gelu, gauss),
        (relu, lambda x: x * (x > 0)),
        (silu, swish),
        (relu2, lambda x: x**2 * (x > 0)),
        (swiglu, swish),
        (geglu, gauss),
    )
    x_BTD = random_input(gelu)
    for side, act in formulas:
        weights = {name.partition("feed_forward.")[2]: w for name, w in side.start.items() if "blocks.0.feed_forward." in name}
        up = x_BTD @ weights["up.weight"].mT + weights["up.bias"]
        if side in (swiglu, geglu):
            inner = act(x_BTD @ weights["gate.weight"].mT + weights["gate.bias"]) * up
        else:
            assert "gate.weight" not in weights
            inner = act(up)
        close(side.decoder.blocks[0].feed_forward(x_BTD), inner @ weights["down.weight"].mT + weights["down.bias"])


def mean_and_deviation_or_root_mean_square(layernorm: Side, rmsnorm: Side) -> None:
    x_BTD = 3 + 2 * random_input(layernorm)
    for _, norm in _norms(layernorm):
        y_BTD = norm(x_BTD)
        close(y_BTD.mean(-1), torch.zeros(1, 16), atol=1e-5, rtol=0)
        close(y_BTD.square().mean(-1), torch.ones(1, 16))
    for _, norm in _norms(rmsnorm):
        close(norm(x_BTD), x_BTD / x_BTD.square().mean(-1, keepdim=True).sqrt())
    assert len(_norms(layernorm)) == len(_norms(rmsnorm)) == 3
    assert not any(name.endswith("norm.bias") for name in rmsnorm.shapes)


def _norms(side: Side) -> list[tuple[str, torch.nn.Module]]:
    return [(name, module) for name, module in side.model.named_modules() if name.endswith("norm")]


def added_to_the_variance(none: Side, one: Side) -> None:
    x_BTD = random_input(none)
    for side, epsilon in ((none, 1e-12), (one, 1.0)):
        for _, norm in _norms(side):
            variance = x_BTD.var(-1, keepdim=True, correction=0)
            close(norm(x_BTD), (x_BTD - x_BTD.mean(-1, keepdim=True)) / (variance + epsilon).sqrt())
        for _, norm in _norms(side.but(norm="rmsnorm")):
            close(norm(x_BTD), x_BTD / (x_BTD.square().mean(-1, keepdim=True) + epsilon).sqrt())


def deviation_of_the_initial_weights(narrow: Side, wide: Side) -> None:
    for side, deviation in ((narrow, 0.02), (wide, 0.08)):
        for name, weights in side.start.items():
            if weights.ndim == 2:
                residual = name.endswith(("attention.output.weight", "down.weight"))
                expected = deviation / math.sqrt(2) if residual else deviation  # 1 / sqrt(2 · num_layers), as GPT-2
                assert weights.std().item() == pytest.approx(expected, rel=0.15), name
                assert abs(weights.mean().item()) < deviation / 5, name


def scale_of_every_drawn_weight(plain: Side, tripled: Side) -> None:
    matrices = [name for name, weights in plain.start.items() if weights.ndim == 2]
    assert len(matrices) == 6
    for name in matrices:
        close(tripled.start[name], 3 * plain.start[name])
    # What is not drawn is not scaled: a norm starts as a norm, and biases at 0.
    for name in plain.start.keys() - set(matrices):
        assert torch.equal(tripled.start[name], plain.start[name])


def one_matrix_or_two(tied: Side, free: Side) -> None:
    assert free.shapes.keys() - tied.shapes.keys() == {"output.weight"}
    for side, matrix in ((tied, "tokens.weight"), (free, "output.weight")):
        close(side.output().logits_BTV, side.output().hidden_BTD @ side.start[matrix].mT)


# Training


def size_of_the_step(small: Side, large: Side) -> None:
    assert [point.learning_rate for point in (*small.points, *large.points)] == [0.01, 0.03]
    close(flat(large.moved), 3 * flat(small.moved), atol=1e-6, rtol=1e-3)
    close(flat(small.moved), -0.01 * flat(small.gradient), atol=1e-6, rtol=1e-3)


def sequences_of_a_step(four: Side, eight: Side) -> None:
    assert (four.batch.inputs_BT.shape, eight.batch.inputs_BT.shape) == ((4, 16), (8, 16))
    assert [point.tokens for point in four.points] == [step * 4 * 16 for step in (4, 8, 12)]
    assert [point.tokens for point in eight.points] == [step * 8 * 16 for step in (4, 8, 12)]
    for parts in (3, 8):
        model = eight.model
        model.zero_grad()
        backward(model, eight.batch, eight.config, parts, CPU)
        for name, weights in model.named_parameters():
            close(weights.grad, eight.gradient[name], atol=1e-7, rtol=1e-4)


def steps_of_the_run(six: Side, twelve: Side) -> None:
    for side, steps in ((six, 6), (twelve, 12)):
        assert side.result.iteration == side.checkpoint["iteration"] == steps
        assert len(side.progress) == steps
        assert side.points[-1].tokens == steps * 4 * 16


def passes_over_the_text(one: Side, two: Side) -> None:
    for side, passes in ((one, 1), (two, 2)):
        space = space_of(side.lab, side.settings, objective="val_bpb")
        budget = BudgetRecord(space.budget.kind, space.budget.amount or 0, 3)
        config = concrete(space, space.prior(), budget, side.lab.cache, {})
        assert budget.kind == "num_epochs"
        assert config.max_iters == math.ceil(passes * side.corpus.windows_per_pass(16) / 4)
        assert config.max_iters * 4 * 16 == pytest.approx(passes * side.corpus.train_tokens, rel=0.01)


def the_update_of_each_optimizer(adamw: Side, adam: Side, sgd: Side, muon: Side, adafactor: Side, lion: Side) -> None:
    """One step from the same weights with the same gradient, learning rate 0.01 and weight decay 0.5."""
    rate, decay = 0.01, 0.5
    for name, g in sgd.gradient.items():
        w = sgd.start[name]
        wd = decay * w if w.ndim == 2 else torch.zeros_like(w)

        def moved(side: Side, update: Tensor, name: str = name) -> None:
            close(side.moved[name], -rate * update, atol=2e-6, rtol=2e-3)

        moved(sgd, g + wd)
        moved(adamw, g / (g.abs() + 1e-8) + wd)
        moved(adam, (g + wd) / ((g + wd).abs() + 1e-8))
        moved(lion, g.sign() + wd)
        if "blocks." in name and w.ndim == 2:
            # Nearly orthogonal, which no gradient is, and as large as AdamW's updates: a root mean square of 0.2.
            spread = torch.linalg.svdvals(muon.moved[name] / -rate - wd) / (0.2 * math.sqrt(max(w.shape)))
            assert spread.max() < 1.4, name
            assert spread.quantile(0.25) > 0.5, name
            spread = torch.linalg.svdvals(g)
            assert spread.quantile(0.25) < 0.3 * spread.max(), name
        else:
            moved(muon, g / (g.abs() + 1e-8) + wd)
        moved(adafactor, _adafactor(g, w) + wd)


def _adafactor(g: Tensor, w: Tensor) -> Tensor:
    """The first step over its rate (arXiv:1804.04235): second moments as rows times columns, clipped, relative to w."""
    squares = g.square()
    if g.ndim == 2:
        rows, columns = squares.mean(1, keepdim=True), squares.mean(0, keepdim=True)
        squares = rows * columns / rows.mean()
    update = g / squares.sqrt().clamp(min=torch.finfo(torch.float32).eps)
    return max(1e-3, w.square().mean().sqrt().item()) * update / max(1.0, update.square().mean().sqrt().item())


def decay_of_the_first_moment(quick: Side, slow: Side) -> None:
    close(slow.moment("exp_avg") * 5, quick.moment("exp_avg"))  # (1 - 0.5) / (1 - 0.9)
    for optimizer in ("sgd", "adafactor"):
        refused_with(quick, optimizer=optimizer)


def decay_of_the_second_moment(quick: Side, slow: Side) -> None:
    close(slow.moment("exp_avg_sq") * 10, quick.moment("exp_avg_sq"))  # (1 - 0.9) / (1 - 0.99)
    for optimizer in ("sgd", "adafactor"):
        refused_with(quick, optimizer=optimizer)


def added_to_adams_denominator(tiny: Side, large: Side) -> None:
    for side, epsilon in ((tiny, 1e-8), (large, 1e-2)):
        g = flat(side.gradient)
        close(flat(side.moved), -3e-3 * g / (g.abs() + epsilon), atol=1e-6, rtol=2e-3)
    for optimizer in ("sgd", "lion", "adafactor"):
        refused_with(tiny, optimizer=optimizer)


def share_of_the_last_update_that_is_kept(half: Side, most: Side) -> None:
    first_gradient = torch.cat([half.gradient[name].flatten() for name in _in_optimizers_order(half)])
    close(most.moment("momentum_buffer") - half.moment("momentum_buffer"), (0.9 - 0.5) * first_gradient, atol=1e-6, rtol=1e-3)
    for optimizer in ("adamw", "adam", "lion", "adafactor"):
        refused_with(half, optimizer=optimizer)
    assert half.but(optimizer="muon").config.momentum == 0.5


def _in_optimizers_order(side: Side) -> list[str]:
    names = [name for name, _ in side.model.named_parameters()]
    return [name for name in names if side.start[name].ndim == 2] + [name for name in names if side.start[name].ndim < 2]


def weight_of_the_cross_entropy(one: Side, three: Side) -> None:
    losses = three.losses()
    close(losses.total, 3 * losses.ce_sum / losses.count)
    close(flat(three.gradient), 3 * flat(one.gradient))
    # What is measured stays the cross-entropy itself.
    assert three.points[0].train_loss < 2 * one.points[0].train_loss


def weight_of_the_attention_entropy(none: Side, some: Side) -> None:
    close(none.losses().total, none.losses().ce_sum / none.losses().count)
    x_BTD = some.start["tokens.weight"][some.batch.inputs_BT] + some.start["decoder.positions.weight"][:16]
    _, looks = _many_heads(some, some.decoder.blocks[0].attention_norm(x_BTD), 2, 2)
    p_HBTS = torch.stack(looks)[:, :, 1:]  # The first place has no choice.
    entropy_HBT = -(p_HBTS * p_HBTS.clamp(min=1e-30).log()).sum(-1)
    collapse = (1 - entropy_HBT / torch.arange(2, 17).log()).mean()
    assert collapse > 0.01
    close(some.losses().total - none.losses().total, 0.5 * collapse)


def weight_of_the_squared_log_partition(none: Side, some: Side) -> None:
    close(none.losses().total, none.losses().ce_sum / none.losses().count)
    close(some.losses().total - none.losses().total, 0.01 * some.output().logits_BTV.logsumexp(-1).square().mean())


def weight_of_the_sentence_order(none: Side, some: Side) -> None:
    assert none.output().order_logits_B2 is None
    assert none.batch.order_B is None
    assert some.shapes.keys() - none.shapes.keys() == {
        f"order_head.{layer}.{kind}" for layer in ("pooler", "classifier") for kind in ("weight", "bias")
    }
    assert some.batch.order_B is not None
    assert set(some.batch.order_B.tolist()) == {0, 1}
    logits_B2 = some.output().order_logits_B2
    assert logits_B2 is not None
    order = torch.nn.functional.cross_entropy(logits_B2, some.batch.order_B)
    close(some.losses().total, some.losses().ce_sum / some.losses().count + 0.5 * order)
    refused_with(some, architecture="decoder")


def ramp_of_the_learning_rate(none: Side, four: Side) -> None:
    assert none.rates == [3e-3] * 12
    assert four.rates == pytest.approx([3e-3 * part / 5 for part in (1, 2, 3, 4)] + [3e-3] * 8)


def shape_of_the_decay(cosine: Side, linear: Side, constant: Side, wsd: Side) -> None:
    last = 3e-4
    assert constant.rates == [3e-3] * 12
    assert linear.rates == pytest.approx([3e-3 - (3e-3 - last) * step / 12 for step in range(12)])
    assert cosine.rates == pytest.approx([last + (3e-3 - last) * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)])
    assert wsd.rates[:10] == [3e-3] * 10
    assert wsd.rates[10:] == pytest.approx([3e-3 - (3e-3 - last) * (step - 9.6) / 2.4 for step in (10, 11)])


def end_of_the_decay(early: Side, late: Side) -> None:
    assert early.rates[6:] == pytest.approx([3e-4] * 6)
    assert early.rates[5] > 3e-4
    assert min(late.rates) > 3e-4


def what_is_left_of_the_peak(tenth: Side, half: Side) -> None:
    for side, ratio in ((tenth, 0.1), (half, 0.5)):
        assert side.rates[0] == 3e-3
        assert side.rates[-1] / max(side.rates) == pytest.approx(ratio)


def steps_between_evaluations(four: Side, five: Side) -> None:
    assert [point.iteration for point in four.points] == [4, 8, 12]
    assert [point.iteration for point in five.points] == [5, 12]
    assert [point.rung for point in five.points] == [1, 2]


def held_out_text_of_an_evaluation(one: Side, two: Side) -> None:
    for side, spans in ((one, 1), (two, 2)):
        for other in (side, side.but(batch_size=7, context_length=8, seed=5)):
            batches = held_out_batches(other.corpus, other.config)
            assert sum(int((batch.targets_BT != IGNORED).sum()) for batch in batches) == spans * (2048 - LEAD_BYTES)
    assert one.points[-1].train_loss == two.points[-1].train_loss
    assert one.points[-1].metrics != two.points[-1].metrics


def steps_between_checkpoints(four: Side, three: Side) -> None:
    assert [event.iteration for event in four.saved] == [4, 8, 12]
    assert [event.iteration for event in three.saved] == [3, 6, 9, 12]


def checkpoints_that_are_kept(one: Side, two: Side) -> None:
    for side, steps in ((one, [12]), (two, [8, 12])):
        assert len(side.saved) == 3
        kept = sorted(path.name for path in (side.folder / "checkpoints").glob("*.[ps]*") if path.suffix != ".sha256")
        assert kept == ["best.safetensors", *(f"step-{step:08d}.pt" for step in steps)]


def place_of_the_checkpoints(own: Side, elsewhere: Side) -> None:
    assert Path(own.saved[-1].path).parent == own.folder / "checkpoints"
    assert Path(elsewhere.saved[-1].path).parent == elsewhere.folder / "elsewhere"
    assert not (elsewhere.folder / "checkpoints").exists()
    assert Path(elsewhere.saved[-1].path).exists()


def steps_between_log_lines(three: Side, five: Side) -> None:
    for side, steps in ((three, [3, 6, 9, 12]), (five, [5, 10])):
        assert [line["iteration"] for line in side.log() if line["event"] == "step"] == steps
        assert [event.iteration for event in side.progress] == steps


def place_of_the_log(own: Side, elsewhere: Side) -> None:
    def events(lines: Sequence[dict[str, object]]) -> list[object]:
        return [line["event"] for line in lines]

    assert events(own.log()) == events(elsewhere.log("logs/words.jsonl"))
    assert not (elsewhere.folder / "log.jsonl").exists()


def least_level_in_the_log(debug: Side, info: Side, warning: Side, error: Side) -> None:
    expected: tuple[tuple[Side, set[str]], ...] = (
        (debug, {"debug", "info", "warning"}),
        (info, {"info", "warning"}),
        (warning, {"warning"}),
        (error, set()),
    )
    for side, levels in expected:
        torn = side.folder / "checkpoints" / "step-00000004.pt"
        torn.parent.mkdir(parents=True)
        torn.write_bytes(b"torn")
        assert {line["level"] for line in side.log()} == levels


def everything_random(zero: Side, one: Side) -> None:
    assert not torch.equal(zero.start["tokens.weight"], one.start["tokens.weight"])
    assert not torch.equal(zero.batch.inputs_BT, one.batch.inputs_BT)
    again = zero.but()
    assert torch.equal(flat(zero.moved), flat(again.moved))
    assert (zero.result.sample, zero.result.metrics["val_bpb"]) == (again.result.sample, again.result.metrics["val_bpb"])
    assert zero.result.metrics["val_bpb"] != one.result.metrics["val_bpb"]
    # Dropout too: from the same weights and batches.
    other = one.but()
    other.model.load_state_dict(zero.start)
    masks = []
    for side in (zero, other):
        torch.manual_seed(side.config.seed)
        masks.append(side.model.train()(zero.batch).logits_BTV)
        side.model.eval()
    assert not torch.equal(*masks)


# Regularisation


def dropout_of_the_embedding_and_default_of_the_others(none: Side, half: Side) -> None:
    config = half.config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.0, 0.0)  # Given beside it.
    freed = half.lab.side({"dropout": 0.5}).config
    assert (freed.hidden_dropout_prob, freed.attention_probs_dropout_prob) == (0.5, 0.5)
    for side, share in ((none, 0.0), (half, 0.5)):
        embedded_BTD = side.start["tokens.weight"][side.batch.inputs_BT] + side.start["decoder.positions.weight"][:16]
        assert _dropped(embedded_BTD, _both_ends(side, "decoder.blocks.0", train=True)[0]) == pytest.approx(share, abs=0.1)
        close(_both_ends(side, "decoder.blocks.0", train=False)[0], embedded_BTD)


def dropout_of_each_sub_layers_output(none: Side, half: Side) -> None:
    for side, share in ((none, 0.0), (half, 0.5)):
        for train in (True, False):
            (attention_in, attention_out), (_, block_out) = (
                _both_ends(side, "decoder.blocks.0.attention", train),
                _both_ends(side, "decoder.blocks.0", train),
            )
            residual, feed_forward_out = (
                _both_ends(side, "decoder.blocks.0", train)[0],
                _both_ends(side, "decoder.blocks.0.feed_forward", train)[1],
            )
            between = _both_ends(side, "decoder.blocks.0.feed_forward_norm", train)[0]
            close(attention_in, side.decoder.blocks[0].attention_norm(residual))
            for out, added in ((attention_out, between - residual), (feed_forward_out, block_out - between)):
                assert _dropped(out, added) == pytest.approx(share if train else 0.0, abs=0.1)


def _both_ends(side: Side, module: str, train: bool) -> tuple[Tensor, Tensor]:
    """The first input and the output of a module, in a forward pass over the first batch; the same masks every time."""
    found: list[Tensor] = []
    hook = side.model.get_submodule(module).register_forward_hook(
        lambda _, inputs, output: found.extend((inputs[0].detach(), output.detach()))
    )
    torch.manual_seed(0)
    side.model.train(train)(side.batch)
    side.model.eval()
    hook.remove()
    return found[0], found[1]


def _dropped(whole: Tensor, rest: Tensor) -> float:
    """The share of `whole` that is 0 in `rest`; what is left must be scaled up by as much."""
    gone = (rest.abs() <= 1e-6 * whole.abs().max()) & (whole.abs() > 1e-4 * whole.abs().max())
    share = gone.float().mean().item()
    kept = rest.abs() > 1e-3 * whole.abs().max()
    scale = (rest[kept] / whole[kept]).median().item()
    assert scale == pytest.approx(1.0 if share == 0.0 else 2.0, rel=1e-3)
    return share


def dropout_of_the_attention_probabilities(none: Side, half: Side) -> None:
    x_BTD = random_input(none)
    for side in (none, half):
        attention = side.decoder.blocks[0].attention
        with torch.no_grad():
            # Values of 1 and a projection that changes nothing: the output is the sum of a query's probabilities.
            attention.query_key_value.weight[32:] = 0.0
            attention.query_key_value.bias[32:] = 1.0
            attention.output.weight.copy_(torch.eye(16))
        close(attention.eval()(x_BTD), torch.ones(1, 16, 16))
        torch.manual_seed(0)
        sums_BTHK = attention.train()(x_BTD).unflatten(-1, (2, 8))
        # Whole probabilities go, so a head's numbers stay equal.
        close(sums_BTHK, sums_BTHK[..., :1].expand_as(sums_BTHK))
        if side is none:
            close(sums_BTHK, torch.ones_like(sums_BTHK))
        else:
            assert sums_BTHK.std() > 0.1
            assert sums_BTHK.mean().item() == pytest.approx(1.0, abs=0.3)
            assert sums_BTHK[0, 0].unique().tolist() in ([0.0], [2.0], [0.0, 2.0])  # One key to see: gone, or scaled up.


def decay_of_matrices_only(none: Side, half: Side) -> None:
    for optimizer in ("adamw", "sgd"):
        plain, decayed = none.but(optimizer=optimizer), half.but(optimizer=optimizer)
        for name, weights in plain.start.items():
            pulled = -3e-3 * 0.5 * weights if weights.ndim == 2 else torch.zeros_like(weights)
            close(decayed.moved[name] - plain.moved[name], pulled, atol=1e-6, rtol=1e-3)
    # L2 in adam: the decay is in the gradient, and its size is lost.
    plain, decayed = none.but(optimizer="adam"), half.but(optimizer="adam")
    name = "decoder.blocks.0.feed_forward.up.weight"
    g = plain.gradient[name] + 0.5 * plain.start[name]
    close(decayed.moved[name], -3e-3 * g / (g.abs() + 1e-8), atol=1e-6, rtol=1e-3)
    groups = describe_groups(half.model, half.config)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("matrices", 0.5), ("biases and norms", 0.0)]


def longest_gradient(off: Side, short: Side, long: Side) -> None:
    norm = flat(off.gradient).norm().item()
    assert 0.01 < norm < 100.0
    for side, length in ((off, norm), (short, 0.01), (long, norm)):
        assert flat(side.moved).norm().item() == pytest.approx(0.1 * length, rel=1e-3)
        assert side.points[0].grad_norm == pytest.approx(norm, rel=1e-4)  # What it was before.


# Generation


def how_far_the_text_strays(greedy: Side, usual: Side, hot: Side) -> None:
    texts = [side.write() for side in (greedy, usual, hot)]
    assert all(rank == 0 for rank, _ in greedy.likeliest_ranks(texts[0][0])[3:])
    assert greedy.write(seed=1) == texts[0]
    assert usual.write(seed=1) != texts[1]
    ranks = [
        sum(rank for rank, _ in side.likeliest_ranks(text[0])[3:]) for side, text in zip((usual, hot), texts[1:], strict=True)
    ]
    assert 0 < ranks[0] < ranks[1]
    assert len({texts[0][0], texts[1][0], texts[2][0]}) == 3


def only_the_k_likeliest(off: Side, three: Side) -> None:
    assert max(rank for rank, _ in off.likeliest_ranks(off.write()[0])[3:]) > 3
    assert {rank for rank, _ in three.likeliest_ranks(three.write()[0])[3:]} == {0, 1, 2}


def only_the_likeliest_that_hold_p(off: Side, half: Side) -> None:
    assert max(likelier for _, likelier in off.likeliest_ranks(off.write()[0])[3:]) > 0.5
    drawn = half.likeliest_ranks(half.write()[0])[3:]
    assert max(likelier for _, likelier in drawn) < 0.5
    assert max(rank for rank, _ in drawn) > 0


def texts_for_a_prompt(one: Side, three: Side) -> None:
    for side, count in ((one, 1), (three, 3)):
        texts = side.write()
        assert len(texts) == len(set(texts)) == count
        assert side.result.sample
        assert len((side.folder / FILE).read_text("utf-8").split(SEPARATOR)) == count


def length_of_the_text(short: Side, long: Side) -> None:
    for side, count in ((short, 5), (long, 40)):
        written = side.write("The ")[0]
        assert written.isascii()
        assert len(side.corpus.tokenizer.encode(written)) == len("The ") + count
