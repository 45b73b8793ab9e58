from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from hpsearch.config import TrialConfig
from hpsearch.data.batches import Batch
from hpsearch.errors import BadInput, ConfigError
from hpsearch.model.convert import from_hf, hf_config, target_of, to_hf
from hpsearch.model.transformer import Transformer

Tiny = Callable[..., TrialConfig]
MakeBatch = Callable[..., Batch]

LLAMA = {"position": "rotary", "norm": "rmsnorm", "hidden_act": "swiglu", "num_groups": 2}
BERT = {"architecture": "encoder"}
BART = {"architecture": "encoder_decoder"}

EXPRESSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("GPT2LMHeadModel", {}),
    ("GPT2LMHeadModel", {"hidden_act": "relu2", "tie_embeddings": False, "layer_norm_epsilon": 1e-12}),
    ("LlamaForCausalLM", LLAMA),
    ("LlamaForCausalLM", {**LLAMA, "hidden_act": "geglu", "num_groups": 1, "tie_embeddings": False}),
    ("BertForMaskedLM", BERT),
    ("BertForMaskedLM", {**BERT, "tie_embeddings": False, "hidden_act": "silu", "type_vocab_size": 3}),
    ("BertForPreTraining", {**BERT, "sentence_loss_weight": 0.5}),
    ("BartForConditionalGeneration", {**BART, "num_encoder_layers": 1}),
    ("BartForConditionalGeneration", {**BART, "tie_embeddings": False, "hidden_act": "relu"}),
]


def randomised(model: Any) -> Any:
    """Every parameter random, so that no bias of 0 or norm of 1 hides a mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


@torch.inference_mode()
def assert_same_logits(ours: Transformer, theirs: Any, batch: Batch) -> None:
    output = ours(batch)
    arguments: dict[str, Any] = {"input_ids": batch.inputs_BT}
    if batch.padding_BT is not None:
        arguments["attention_mask"] = batch.padding_BT.long()
    if batch.segments_BT is not None:
        arguments["token_type_ids"] = batch.segments_BT
    if batch.decoder_inputs_BT is not None:
        arguments["decoder_input_ids"] = batch.decoder_inputs_BT
    result = theirs(**arguments)
    expected = result.prediction_logits if "prediction_logits" in result else result.logits
    real = slice(None) if batch.padding_BT is None or batch.decoder_inputs_BT is not None else batch.padding_BT
    torch.testing.assert_close(output.logits_BTV[real], expected[real], atol=1e-4, rtol=0)
    assert (output.order_logits_B2 is not None) == ("seq_relationship_logits" in result)
    if output.order_logits_B2 is not None:
        torch.testing.assert_close(output.order_logits_B2, result.seq_relationship_logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("kind", "changes"), EXPRESSIBLE)
def test_our_weights_give_the_same_logits_in_transformers(
    kind: str, changes: dict[str, Any], padded: bool, tiny: Tiny, make_batch: MakeBatch
) -> None:
    config = tiny(**changes)
    ours = randomised(Transformer(config))
    theirs = to_hf(ours)
    assert type(theirs).__name__ == kind
    assert_same_logits(ours, theirs, make_batch(config, padded=padded))


@pytest.mark.parametrize(("kind", "changes"), EXPRESSIBLE)
def test_their_weights_give_the_same_logits_here(kind: str, changes: dict[str, Any], tiny: Tiny, make_batch: MakeBatch) -> None:
    config = tiny(**changes)
    torch.manual_seed(2)
    theirs = randomised(getattr(transformers, kind)(hf_config(config)))
    if config.architecture == "encoder_decoder":
        # Untied, they have three token tables where we have one.
        for stack in (theirs.model.encoder, theirs.model.decoder):
            stack.embed_tokens.weight = theirs.model.shared.weight
    ours = from_hf(theirs, {"context_length": config.context_length, "batch_size": config.batch_size})
    assert ours.config.num_layers == config.num_layers or config.architecture == "encoder_decoder"
    assert ours.config.tie_embeddings == config.tie_embeddings
    assert_same_logits(ours, theirs, make_batch(config, padded=True))


@pytest.mark.parametrize(("kind", "changes"), EXPRESSIBLE)
def test_weights_survive_the_way_there_and_back(kind: str, changes: dict[str, Any], tiny: Tiny) -> None:
    ours = randomised(Transformer(tiny(**changes)))
    back = from_hf(to_hf(ours))
    state = back.state_dict()
    assert state.keys() == ours.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())


def test_an_exported_folder_loads_again(tiny: Tiny, make_batch: MakeBatch, tmp_path: Any) -> None:
    config = tiny(**BART)
    ours = randomised(Transformer(config))
    to_hf(ours, {"[PAD]": 27, "[MASK]": 28, "[BOS]": 29, "[EOS]": 30}).save_pretrained(tmp_path)
    theirs: Any = transformers.BartForConditionalGeneration.from_pretrained(tmp_path)
    theirs.eval()
    assert (theirs.config.pad_token_id, theirs.config.decoder_start_token_id, theirs.config.eos_token_id) == (27, 29, 30)
    assert_same_logits(ours, theirs, make_batch(config))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("position", {"position": "sinusoidal"}),
        ("norm", {"norm": "rmsnorm"}),
        ("norm", {**LLAMA, "norm": "layernorm"}),
        ("hidden_act", {"hidden_act": "swiglu"}),
        ("hidden_act", {**LLAMA, "hidden_act": "gelu"}),
        ("num_groups", {"num_groups": 2}),
        ("embedding_dim", {"embedding_dim": 8}),
        ("position", {**BERT, "position": "rotary"}),
        ("layer_norm_epsilon", {**BART, "layer_norm_epsilon": 1e-12}),
    ],
)
def test_what_transformers_has_no_place_for_is_refused_by_name(name: str, changes: dict[str, Any], tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        target_of(tiny(**changes))
    assert caught.value.name == name


def test_models_that_we_have_no_place_for_are_refused(tiny: Tiny) -> None:
    gpt2 = hf_config(tiny())
    gpt2.activation_function = "gelu_new"
    with pytest.raises(ConfigError, match="gelu_new"):
        from_hf(transformers.GPT2LMHeadModel(gpt2))
    llama = hf_config(tiny(**LLAMA))
    llama.rope_parameters = {"rope_type": "default", "rope_theta": 500_000.0}
    with pytest.raises(ConfigError, match="500000"):
        from_hf(transformers.LlamaForCausalLM(llama))
    bart = transformers.BartForConditionalGeneration(hf_config(tiny(**BART)))
    bart.final_logits_bias.add_(1)
    with pytest.raises(BadInput, match="final_logits_bias"):
        from_hf(bart)
    free = transformers.BartForConditionalGeneration(hf_config(tiny(**BART, tie_embeddings=False)))
    with pytest.raises(BadInput, match=r"shared.* differ"):
        from_hf(free)
    with pytest.raises(BadInput, match="GPT2Model"):
        from_hf(transformers.GPT2Model(hf_config(tiny())))
