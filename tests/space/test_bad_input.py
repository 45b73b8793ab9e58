"""Every space that must be refused: exactly where, and with a remedy that a person can follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpsearch.errors import BadInput, SpaceError
from hpsearch.space.load import load_space, parse_space

LR = "learning_rate: {low: 1e-7, high: 1e-3, log: true}"


def entries(*lines: str) -> str:
    """Parameters on lines 2, 3, …, each from column 3."""
    return "parameters:\n" + "".join(f"  {line}\n" for line in lines)


SYNTAX = [
    ("a: [1", "1:6", "this is not YAML", "expected ',' or ']'"),
    ("parameters:\n\td_model: 64\n", "2:1", "this is not YAML", "'\\t'"),
    ("parameters: {d_model: 64: 65}\n", "1:25", "this is not YAML", ""),
    ('name: "\\U99999999"\n', "1:1", "this is not YAML", ""),
    ("name: a\x00b\n", "1:8", "character '\\x00' is not allowed", "remove it"),
    ("parameters: !!python/object/apply:os.system [x]\n", "1:13", "tag '!!python/object/apply:os.system' is refused", "remove"),
    (entries("d_model: !!int 64", LR), "2:12", "tag '!!int' is refused", "remove the tag"),
    ("parameters: &p {dropout: 0.1}\n", "1:13", "anchors (&) and aliases (*) are not used", "write the value itself"),
    ("name: a\n---\nname: b\n", "2:1", "a second document starts here", "remove '---'"),
    ("[" * 100_000, "1:14", "nested deeper than 12 levels", ""),
    (entries(LR, "dropout: 0.1", "dropout: 0.2"), "4:3", "duplicate key 'dropout': it is also on line 3", "keep one"),
    ("name: a\n" + entries(LR) + "name: b\n", "4:1", "duplicate key 'name': it is also on line 1", "keep one"),
    ("parameters: {[a]: 1}\n", "1:14", "a key must be a word", ""),
]

DOCUMENT = [
    ("", "1:1", "this search space is empty", "it needs `parameters:`"),
    ("- d_model\n", "1:1", "this search space is no mapping", "it needs `parameters:`"),
    ("name: lm\n", "1:1", "`parameters:` is missing or empty", "give at least one"),
    ("parameters:\n", "1:1", "`parameters:` is missing or empty", "give at least one"),
    ("parameters: {}\n", "1:13", "`parameters:` is missing or empty", "give at least one"),
    (entries("d_model: 64"), "1:1", "nothing is searched", "give a parameter {low, high} or {choices}"),
    ("nam: x\n" + entries(LR), "1:1", "unknown key 'nam'", "did you mean 'name'?"),
    ("learning_rate: 1e-3\n" + entries(LR), "1:1", "unknown key 'learning_rate'", "it belongs under `parameters:`"),
    ("name: a b\n" + entries(LR), "1:7", "a name has 1 to 128 letters", ""),
    ("name: ''\n" + entries(LR), "1:7", "a name has 1 to 128 letters", ""),
    (f"name: {'a' * 129}\n" + entries(LR), "1:7", "a name has 1 to 128 letters", ""),
    ("name: 17\n" + entries(LR), "1:7", "a name has 1 to 128 letters", "in quotes if it is a number"),
]

PARAMETERS = [
    (["learning_rte: {low: 1, high: 2}"], "2:3", "unknown hyperparameter 'learning_rte'", "did you mean 'learning_rate'?"),
    (["xyzzy: 1"], "2:3", "unknown hyperparameter 'xyzzy'", "`hpsearch params` lists them"),
    (["did you mean: 1"], "2:3", "unknown hyperparameter 'did you mean'", "`hpsearch params` lists them"),
    ([LR, "hidden_size: 64", "d_model: 128"], "4:3", "'d_model' and 'hidden_size' (line 3) are two names", "keep one"),
    (["learning_rate: {low: 1e-3, high: 1e-7}"], "2:24", "low 0.001 is above high 1e-07", "swap them"),
    (["dropout: {low: 0, high: 0.5, log: true}"], "2:18", "a log scale needs low above 0, not 0.0", "raise low or remove log"),
    (["dropout: {low: 0, high: 0.3, log: maybe}"], "2:37", "log is true or false, not 'maybe'", ""),
    (["dropout: {low: 0, high: 0.3, step: 0.5}"], "2:38", "step 0.5 is larger than the range", "make it smaller or remove it"),
    (["dropout: {low: 0, high: 0.3, step: 0.04}"], "2:38", "step 0.04 does not reach high 0.3", "write high: 0.28 or 0.32"),
    (["dropout: {low: 0, high: 0.3, step: 1e-12}"], "2:38", "step 1e-12 is too fine", "remove it"),
    (["dropout: {low: 0, high: 0.3, step: 0}"], "2:38", "step is a number above 0, not 0", ""),
    (["d_model: {low: 64, high: 128, step: 1.5}"], "2:39", "step must be a whole number, not 1.5", "1 or 2?"),
    (["learning_rate: {low: 1e-7, high: 1e-3, log: true, step: 1e-4}"], "2:59", "step does not go with log", "remove one"),
    (["d_model: {choices: []}"], "2:22", "choices is empty", "list at least one value"),
    (["d_model: {choices: [64, 128, 64.0]}"], "2:32", "64.0 is among the choices twice", "keep one"),
    (["optimizer: {choices: [adamw, adamw]}"], "2:32", "'adamw' is among the choices twice", "keep one"),
    (["d_model: {choices: 64}"], "2:22", "choices is a list, as in {choices: [...]}, not 64", ""),
    (["d_model: [64, 128]"], "2:12", "a list of choices is written {choices: [...]}", ""),
    (["d_model: {choices: [64, 128], prior: 96}"], "2:40", "prior 96 is not one of 64, 128", ""),
    (["dropout: {low: 0.1, high: 0.3, prior: 0.4}"], "2:41", "prior 0.4 is outside the range from 0.1 to 0.3", ""),
    (["dropout: {low: 0.1, high: 0.3, prior: }"], "2:40", "prior has no value", ""),
    (["dropout: {low: 0.1, high: 0.3, confidence: high}"], "2:34", "confidence says how sure a prior is", "add `prior:` or"),
    (["d_model: {choices: [64, 128], confidence: low}"], "2:33", "confidence says how sure a prior is", "remove confidence"),
    (
        ["dropout: {low: 0.1, high: 0.3, prior: 0.2, confidence: hig}"],
        "2:58",
        "confidence is low, medium, high, not 'hig'",
        "did you mean 'high'?",
    ),
    (["dropout: {low: 0.1, high: 0.3, prior: 0.2, confidence: 0.9}"], "2:58", "confidence is low, medium, high, not 0.9", ""),
    (["d_model: {choices: [64], prior: 64, confidence: [low]}"], "2:51", "confidence is low, medium, high, not a list", ""),
    (["dropout: 0.1", "d_model: {value: 64, confidence: low}"], "3:24", "'confidence' does not go with 'value'", "remove one"),
    (
        ["dropout: {low: 0.1, high: 0.3, prior: auto}"],
        "2:41",
        "prior auto exists for num_layers, d_model, batch_size, learning_rate",
        "give a value",
    ),
    (["d_ff: {choices: [64, 128], prior: auto}"], "2:37", "prior auto exists for num_layers", "give a value"),
    (
        ["d_model: {choices: [64, 128], prior: auto}", "num_layers: d_model // 32"],
        "2:3",
        "values that need each other: d_model → num_layers → d_model",
        "give one of them a value of its own",
    ),
    (
        ["learning_rate: {low: 1e-4, high: 1e-2, prior: auto}", "d_model: {choices: [64, 128], when: learning_rate > 1e-3}"],
        "2:3",
        "values that need each other: learning_rate → d_model → learning_rate",
        "give one of them a value of its own",
    ),
    (["momentum: {low: 0.8, high: 0.9, when: optimizr == 'sgd'}"], "2:41", "unknown name 'optimizr'", "'optimizer'?"),
    (["dropout: {low: 0, high: 1}"], "2:27", "high 1.0 is out of bounds", "dropout is below 1"),
    (["d_model: {low: 0, high: 10}"], "2:18", "low 0 is out of bounds", "d_model is at least 1"),
    (["learning_rate: {low: 0, high: 1}"], "2:24", "low 0.0 is out of bounds", "learning_rate is above 0"),
    (["d_model: {low: 1.5, high: 10}"], "2:18", "low must be a whole number, not 1.5", "1 or 2?"),
    (["d_model: {low: 1, high: 1e30}"], "2:27", "is out of bounds", "d_model is at most 9007199254740992"),
    (["d_model: {low: 1, high: 10, stp: 2}"], "2:31", "unknown key 'stp'", "did you mean 'step'?"),
    (["d_model: {low: 1}"], "2:12", "d_model has low but no high", "give both"),
    (["d_model: {high: 1}"], "2:12", "d_model has high but no low", "give both"),
    (["d_model: {log: true}"], "2:12", "give a value, {low, high} or {choices}", ""),
    (["d_model: {choices: [1, 2], low: 1}"], "2:30", "'low' does not go with 'choices'", "remove one of them"),
    (["d_model: {value: [64]}"], "2:20", "one value is needed, not a list", ""),
    (["d_model:"], "2:3", "d_model has no value", "give a whole number"),
    (["d_model: {choices: [null, 64]}"], "2:23", "a choice has no value", "give a whole number"),
    (["d_model: true"], "2:12", "d_model is a whole number, not true", ""),
    (["num_layers: 2.5"], "2:15", "num_layers must be a whole number, not 2.5", "2 or 3?"),
    (["d_model: 2 ** 7 + 0.5"], "2:12", "d_model must be a whole number, not 128.5", "128 or 129?"),
    (["dropout: .nan"], "2:12", "dropout is a number, not nan", ""),
    (["dropout: 1e999"], "2:12", "dropout is a number, not inf", ""),
    (["dropout: -0.1"], "2:12", "dropout -0.1 is out of bounds", "dropout is at least 0"),
    (["optimizer: adamv"], "2:14", "'adamv' is not one of optimizer's values", "did you mean 'adam'?"),
    (["optimizer: {choices: [adamw, sdg]}"], "2:32", "'sdg' is not one of optimizer's values", "did you mean 'sgd'?"),
    (["optimizer: {low: 1, high: 2}"], "2:3", "so it has no low and high", "write {choices: [...]}"),
    (["tie_embeddings: yes"], "2:19", "write true or false, not yes", ""),
    (["tie_embeddings: {choices: [true, 1]}"], "2:36", "a choice is true or false, not 1", ""),
    (["save_dir: 3"], "2:13", "save_dir is a path, not 3", ""),
]

EXPRESSIONS = [
    (["d_ff: 4 * d_modl"], "2:13", "unknown name 'd_modl'", "did you mean 'd_model'?"),
    (["d_ff: '4 * d_modl'"], "2:14", "unknown name 'd_modl'", "did you mean 'd_model'?"),
    (["d_ff: xyzzy + 1"], "2:9", "unknown name 'xyzzy'", "`hpsearch params` lists the names"),
    (["d_ff: d_model == 3"], "2:9", "d_ff must come to a number", "comes to a boolean"),
    (["d_ff: 4 * d_ff", LR], "2:3", "values that need each other: d_ff → d_ff", "give one of them a value of its own"),
    (["d_ff: d_model", "d_model: d_ff // 2", LR], "2:3", "values that need each other: d_ff → d_model → d_ff", "give one"),
    (["num_groups: num_heads", "num_heads: num_groups", LR], "2:3", "num_groups → num_heads → num_groups", "give one"),
    (
        ["dropout: {low: 0, high: 0.3, when: d_model > 64}", "d_model: {value: 64, when: dropout > 0}"],
        "2:3",
        "dropout → d_model → dropout",
        "give one",
    ),
    (
        ["optimizer: {choices: [adamw, sgd]}", "momentum: {low: 0.1, high: 0.9, when: optimizer == sgd}"],
        "3:54",
        "unknown name 'sgd'",
        "stands in quotes: 'sgd'",
    ),
    (
        ["optimizer: {choices: [adamw, sgd]}", "momentum: {low: 0.1, high: 0.9, when: optimizer == 'sdg'}"],
        "3:54",
        "'sdg' is not one of optimizer's values",
        "did you mean 'sgd'?",
    ),
    (
        ["optimizer: {choices: [adamw, sgd]}", "momentum: {low: 0.1, high: 0.9, when: optimizer}"],
        "3:41",
        "when must come to true or false",
        "comes to a string",
    ),
    (
        ["optimizer: {choices: [adamw, adam]}", "momentum: {low: 0.1, high: 0.9, when: optimizer == 'sgd'}"],
        "3:41",
        "momentum does nothing: no configuration satisfies its `when: optimizer == 'sgd'`",
        "remove momentum or change the condition",
    ),
    ([LR, "dropout: {low: 0, high: 0.3, when: max_iters > 9}"], "3:38", "depends on max_iters", "use another condition"),
    ([LR, "d_ff: 64 / (num_heads - 8)"], "3:3", "d_ff cannot be computed with num_heads 8: division by zero", "change"),
    (
        ["num_heads: {choices: [1, 2, 4]}", "d_ff: {value: 64 / (num_heads - 4), when: d_model > 1}"],
        "3:3",
        "num_heads 4: division by zero",
        "change the expression or the ranges",
    ),
]

IDLE = [
    (["momentum: 0.9", LR], "2:3", "momentum does nothing here: optimizer adamw has no such setting", "remove it or change"),
    (
        ["optimizer: adamw", "momentum: {low: 0.1, high: 0.9}"],
        "3:3",
        "momentum does nothing here: optimizer adamw",
        "remove it",
    ),
    (
        ["optimizer: {choices: [adamw, sgd, muon]}", "momentum: {low: 0.1, high: 0.9}"],
        "3:3",
        "momentum does nothing where optimizer is adamw",
        "add `when: optimizer in ['sgd', 'muon']`",
    ),
    (
        ["optimizer: {choices: [adamw, sgd]}", "momentum: 0.95"],
        "3:3",
        "momentum does nothing where optimizer is adamw",
        "add `when: optimizer == 'sgd'`",
    ),
    (
        ["optimizer: {choices: [adamw, sgd]}", "momentum: {low: 0.1, high: 0.9, when: d_model > 3}"],
        "3:3",
        "momentum does nothing where optimizer is adamw",
        "add `when: (d_model > 3) and optimizer == 'sgd'`",
    ),
    (
        [LR, "num_encoder_layers: 2"],
        "3:3",
        "architecture decoder has no such setting; it belongs to encoder_decoder",
        "remove it",
    ),
    ([LR, "vocab_size: 300"], "3:3", "vocab_size does nothing here: with tokenizer bytes", "data: {tokenizer: bpe}"),
]

ONE_VALUE = [
    (["eval_interval: {low: 1, high: 5}"], "2:3", "a range on eval_interval is refused: the rungs of all trials", "one value"),
    (["seed: {choices: [1, 2]}"], "2:3", "a range on seed is refused: a lucky seed", "give it one value"),
    (["seed: d_model", "d_model: {choices: [1, 2]}"], "2:3", "seed may not differ between trials: a lucky seed", "one value"),
    (["temperature: {low: 0.1, high: 1}"], "2:3", "temperature cannot change val_bpb", "objective generation_divergence"),
    (["top_k: {choices: [null, 5]}"], "2:3", "top_k cannot change val_bpb", "objective generation_divergence"),
]

RULES = [
    ("require: d_model % num_heads\n", "4:10", "comes to a number", "did you mean `d_model % num_heads == 0`?"),
    (
        "require:\n  - d_model > 8\n  - d_model > 4096\n",
        "6:5",
        "no configuration satisfies `d_model > 4096`",
        "change the values",
    ),
    ("require: learning_rate > 2e-3\n", "4:10", "no configuration satisfies `learning_rate > 0.002` (none of 2000", "change"),
    (
        "require:\n  - d_model > 64\n  - d_model < 64\n",
        "5:5",
        "no configuration satisfies `d_model > 64` and `d_model < 64`",
        "change the values",
    ),
    (
        "require: d_model > 64\n",
        "4:10",
        "the baseline (the priors) breaks a rule: d_model > 64 does not hold",
        "change a prior",
    ),
    ("require: __import__('os').system('x')\n", "4:10", "only functions by name can be called", "min, max"),
    ("require: d_model.x == 1\n", "4:10", "an attribute is not part of this language", "use names, numbers"),
    ("require: '[x for x in y]'\n", "4:11", "a comprehension is not part of this language", "use names, numbers"),
    ("require: num_parameters < 5\n", "4:10", "unknown name 'num_parameters'", "stand under `constraints:`"),
    ("require: 1 == 1\n", "4:10", "names no hyperparameter", "remove it"),
    ("require: d_model = 4\n", "4:18", "'d_model = 4' is not an expression", ""),
    ("require: true\n", "4:10", "a rule is an expression such as", "not true"),
    ("require: {a: b}\n", "4:10", "a rule is an expression such as", "not a mapping"),
    ("require: 2 ** 9999 > d_model\n", "4:10", "an exponent is at most 64", "change it"),
    ("require: 8 / (d_model - 64) > 2\n", "4:10", "cannot be computed with d_model 64: division by zero", "change it"),
]

SHAPES = [
    (
        ["d_model: {choices: [100, 50]}", "num_heads: {choices: [3, 7]}"],
        "3:3",
        "no configuration can be built: d_model (100) must be a multiple of num_heads (3)",
        "change one of them",
    ),
    (
        ["d_model: {choices: [128]}", "num_heads: {choices: [8, 3], prior: 3}"],
        "3:3",
        "the baseline (the priors) cannot be trained: d_model (128) must be a multiple of num_heads (3)",
        "change a prior",
    ),
    (
        ["context_length: {choices: [1024, 2048]}"],
        "2:3",
        "max_position_embeddings (512) must be at least context_length (1024)",
        "change one of them",
    ),
]

SECTIONS = [
    ("objective: val_los\n", [LR], "1:12", "unknown objective 'val_los'", "did you mean 'val_loss'?"),
    ("objective: []\n", [LR], "1:12", "objective is empty", "give one of val_bpb"),
    ("objective: [val_bpb, val_bpb]\n", [LR], "1:22", "objective val_bpb is given twice", "keep one"),
    ("objective: val_masked_bpb\n", [LR], "1:12", "does not exist for architecture decoder", "use one of val_bpb"),
    (
        "objective: val_bpb\n",
        [LR, "architecture: encoder"],
        "1:12",
        "does not exist for architecture encoder",
        "val_masked_bpb",
    ),
    (
        "",
        ["architecture: {choices: [encoder, decoder]}"],
        "2:3",
        "architecture cannot be searched over encoder, decoder",
        "leave",
    ),
    (
        "",
        [LR, "architecture: {choices: [decoder, encoder_decoder]}"],
        "3:3",
        "architecture cannot be searched under val_bpb: it is of each byte given the text before it for decoder, of the",
        "do not compare; fix architecture",
    ),
    (
        "objective: [num_parameters, val_loss]\n",
        ["architecture: {choices: [encoder, encoder_decoder]}"],
        "3:3",
        "architecture cannot be searched under val_loss: it is of masked tokens given those around them for encoder, of",
        "search it under another objective",
    ),
    (
        "objective: val_loss\ndata: {tokenizer: bpe}\n",
        ["vocab_size: {low: 300, high: 500}"],
        "1:12",
        "val_loss is refused while vocab_size is searched",
        "use val_bpb, or fix vocab_size",
    ),
    ("budget: 5\n", [LR], "1:9", "budget is written {device_seconds: 15, evaluations: 10}", ""),
    ("budget: {device_second: 5}\n", [LR], "1:10", "unknown key 'device_second'", "did you mean 'device_seconds'?"),
    ("budget: {tokens: 5, flops: 3}\n", [LR], "1:21", "tokens and flops are two budgets", "keep one"),
    ("budget: {tokens: 5.5}\n", [LR], "1:18", "tokens is a whole number", "not 5.5"),
    ("budget: {flops: -1}\n", [LR], "1:17", "flops is a number above 0, not -1", ""),
    ("budget: {evaluations: 0}\n", [LR], "1:23", "evaluations is a number above 0, not 0", ""),
    ("budget: {max_iters: 5, evaluations: 9}\n", [LR], "1:9", "9 evaluations need as many steps, and max_iters is 5", "lower"),
    (
        "budget: {tokens: 500}\n",
        [LR, "max_iters: 9"],
        "4:3",
        "max_iters and budget.tokens both say how long to train",
        "keep one",
    ),
    ("", [LR, "max_iters: 9", "num_epochs: 2"], "4:3", "num_epochs and max_iters both say how long to train", "keep one"),
    ("", [LR, "max_iters: 10 * num_layers"], "3:3", "max_iters is the budget here", "give it a value, a range or choices"),
    ("", ["max_iters: 9", "batch_size: {low: 1, high: 8}"], "3:3", "different amounts of text", "budget: {tokens: …}"),
    (
        "budget: {max_iters: 9}\n",
        ["context_length: {choices: [32, 64]}"],
        "3:3",
        "different amounts of text",
        "fix context_length",
    ),
    ("", [LR, "eval_interval: 10"], "3:3", "eval_interval is refused under a budget of device_seconds", "{evaluations: 10}"),
    ("", [LR, "max_iters: 9", "eval_interval: 10"], "4:3", "eval_interval 10 is longer than the run of 9 steps", "shorten it"),
    (
        "budget: {max_iters: 99, evaluations: 5}\n",
        [LR, "eval_interval: 10"],
        "4:3",
        "eval_interval and budget.evaluations both say how often",
        "keep one",
    ),
    ("data: pydoc\n", [LR], "1:7", "data is written {text: pydoc", ""),
    ("data: {txt: a}\n", [LR], "1:8", "data: unknown key 'txt'", "did you mean 'text'?"),
    ("data: {tokenizer: byte}\n", [LR], "1:19", "data: tokenizer is bytes, chars, or bpe", "did you mean 'bytes'?"),
    (
        "data: {validation: 1.5}\n",
        [LR],
        "1:20",
        "validation 1.5 is neither a share above 0 and below 1 nor a file",
        "0.1 is usual",
    ),
    ("data: {text: []}\n", [LR], "1:14", "text needs at least one text", ""),
    ("data: {text: {a: -1}}\n", [LR], "1:14", "weights above 0", ""),
    ("data: {text: 3}\n", [LR], "1:14", "data: text is `pydoc` or `stdlib`", "a file, a folder"),
    ("constraints: {num_param: {max: 5}}\n", [LR], "1:15", "unknown constraint 'num_param'", "did you mean 'num_parameters'?"),
    ("constraints: {num_parameters: 5}\n", [LR], "1:31", "num_parameters is limited as in {max: 5e6}", ""),
    ("constraints: {num_parameters: {maximum: 5}}\n", [LR], "1:32", "unknown key 'maximum'", "known: min, max"),
    ("constraints: {num_parameters: {max: abc}}\n", [LR], "1:37", "max is a number from 0, not abc", ""),
    ("constraints: {num_parameters: {max: 5, min: 6}}\n", [LR], "1:45", "min 6 is above max 5", "swap them"),
]

TWO = ["learning_rate: {low: 1e-7, high: 1e-3, log: true}", "d_model: {choices: [64, 128], prior: 64}"]
CASES = [
    *((text, *rest) for text, *rest in (*SYNTAX, *DOCUMENT)),
    *((entries(*lines), *rest) for lines, *rest in (*PARAMETERS, *EXPRESSIONS, *IDLE, *ONE_VALUE, *SHAPES)),
    *((entries(*TWO) + rule, *rest) for rule, *rest in RULES),
    *((head + entries(*lines), *rest) for head, lines, *rest in SECTIONS),
]


@pytest.mark.parametrize(("text", "place", "what", "remedy"), CASES)
def test_bad_space_is_refused_in_one_line_with_place_and_remedy(text: str, place: str, what: str, remedy: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(text, "spaces/my.yaml")
    line = str(caught.value)
    assert line.startswith(f"spaces/my.yaml:{place}: ")
    assert what in line
    assert remedy in line
    assert "\n" not in line
    assert caught.value.exit_code == 2


def test_equal_values_under_two_names_are_one_value() -> None:
    space = parse_space(entries(LR, "hidden_size: 64", "d_model: 64.0"))
    assert space.settings(space.prior())["d_model"] == 64


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none.yaml: cannot be read \(No such file or directory\)"):
        load_space(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf_8_is_refused_with_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: lm\nparameters:\n  # caf\xe9\n")
    with pytest.raises(SpaceError, match=r"latin.yaml:3:8: byte 28 is not UTF-8; save the file as UTF-8"):
        load_space(file)


def test_a_file_name_that_is_no_study_name_needs_a_name(tmp_path: Path) -> None:
    file = tmp_path / "my space.yaml"
    file.write_text(entries(LR))
    with pytest.raises(SpaceError, match="'my space' cannot be a study's name; add `name:`"):
        load_space(file)
