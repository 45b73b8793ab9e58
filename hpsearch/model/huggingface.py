"""A trained model as a folder that `transformers` loads with its Auto classes: weights, config, tokenizer, model card.

The tokenizer gives the ids of ours. It differs in one thing: a special token that is spelled out in a text (`[MASK]`) is that
token, where ours reads the letters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpsearch.config import TrialConfig
from hpsearch.data.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer, byte_alphabet
from hpsearch.errors import BadInput
from hpsearch.files import write_atomically, writing_folder
from hpsearch.model.convert import class_of, require_transformers, to_hf
from hpsearch.model.transformer import Transformer
from hpsearch.text import storable

CARD = "README.md"
UNKNOWN = "[UNK]"
"""How the tokenizer of characters spells what it does not know; longer than any of its tokens."""

AUTO_CLASS = {
    "GPT2LMHeadModel": "AutoModelForCausalLM",
    "LlamaForCausalLM": "AutoModelForCausalLM",
    "BertForMaskedLM": "AutoModelForMaskedLM",
    "BertForPreTraining": "AutoModelForPreTraining",
    "BartForConditionalGeneration": "BartForConditionalGeneration",
}
"""What loads each class of `transformers` with all of its heads."""

_ROLES = {
    "[PAD]": "pad_token",
    "[MASK]": "mask_token",
    "[CLS]": "cls_token",
    "[SEP]": "sep_token",
    "[BOS]": "bos_token",
    "[EOS]": "eos_token",
}


def write_folder(model: Transformer, tokenizer: Tokenizer, folder: Path, card: str) -> None:
    """Write `model` and `tokenizer` into a new or empty `folder`, weights as safetensors, with `card` as its README.md.

    Raises ConfigError naming the hyperparameter that transformers has no place for, and BadInput without that library.
    """
    theirs = to_hf(model, tokenizer.specials)
    wrapped = hf_tokenizer(tokenizer, model.config)
    with writing_folder(folder) as whole:
        theirs.save_pretrained(whole)
        wrapped.save_pretrained(whole)
        write_atomically(whole / CARD, storable(card))


def auto_class(config: TrialConfig) -> str:
    """The class of `transformers` that loads the folder. Raises ConfigError as `target_of`."""
    return AUTO_CLASS[class_of(config)]


def hf_tokenizer(tokenizer: Tokenizer, config: TrialConfig) -> Any:
    """`tokenizer` as a fast tokenizer of `transformers` with the same ids. Raises BadInput for a kind without a form there."""
    from tokenizers import Tokenizer as Model

    library = require_transformers()
    model: Any = Model.from_str(_text_json(tokenizer))
    model.add_special_tokens(_specials(tokenizer))
    if config.architecture == "encoder":
        model.post_processor = _pair_template(tokenizer.specials)
    roles = {_ROLES[name]: name for name in tokenizer.specials}
    return library.PreTrainedTokenizerFast(
        tokenizer_object=model,
        model_max_length=config.context_length,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", *(["token_type_ids"] if config.architecture == "encoder" else []), "attention_mask"],
        **roles,
    )


def _text_json(tokenizer: Tokenizer) -> str:
    """The tokenizer of ordinary text, in the JSON of the `tokenizers` library."""
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Model

    model: Any
    match tokenizer:
        case BpeTokenizer():
            return json.dumps(tokenizer.document()["bpe"])
        case ByteTokenizer():
            # A BPE that merges nothing: each byte is the token of its own letter.
            model = Model(models.BPE(vocab=byte_alphabet(), merges=[]))
            model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            model.decoder = decoders.ByteLevel()
        case CharTokenizer():
            vocabulary = {character: place for place, character in enumerate(tokenizer.characters)} | {
                UNKNOWN: len(tokenizer.characters)
            }
            model = Model(models.WordLevel(vocabulary, unk_token=UNKNOWN))
            model.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
            model.decoder = decoders.Sequence([decoders.Replace(UNKNOWN, tokenizer.unknown), decoders.Fuse()])
        case _:
            raise BadInput(f"tokenizer: {tokenizer.kind} cannot be expressed as a tokenizer of transformers")
    return str(model.to_str())


def _specials(tokenizer: Tokenizer) -> list[Any]:
    from tokenizers import AddedToken

    return [AddedToken(name, special=True, normalized=False) for name in tokenizer.specials]


def _pair_template(specials: Mapping[str, int]) -> Any:
    """How an encoder was trained: [CLS] one half [SEP] other half [SEP]."""
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, specials[name]) for name in ("[CLS]", "[SEP]")],
    )
