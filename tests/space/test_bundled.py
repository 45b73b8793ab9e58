from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from hpsearch.config import HYPERPARAMETERS, TrialConfig
from hpsearch.errors import BadInput
from hpsearch.space.bundled import bundled_spaces, find_space
from hpsearch.space.load import load_space
from hpsearch.space.parameters import Choices, Range

SPACES = ["encoder", "encoder_decoder", "lm", "modern", "quick"]


def test_the_bundled_spaces_are_these() -> None:
    assert sorted(bundled_spaces()) == SPACES


@pytest.mark.parametrize("name", SPACES)
def test_a_bundled_space_has_the_name_of_its_file(name: str) -> None:
    assert load_space(bundled_spaces()[name]).name == name


@pytest.mark.parametrize("name", SPACES)
def test_every_configuration_of_a_bundled_space_can_be_built(name: str) -> None:
    space, random = load_space(bundled_spaces()[name]), Random(0)
    proposals = [space.prior(), *(space.propose(lambda parameter, _: parameter.draw(random)) for _ in range(500))]
    for proposal in proposals:
        settings = space.settings(proposal, {"max_iters": 500, "eval_interval": 50})
        assert space.violation(settings) is None
        config = TrialConfig.build(settings)
        assert all(getattr(config, key) == value for key, value in settings.items() if value is not None)


def test_lm_searches_every_hyperparameter_or_says_why_not() -> None:
    path = bundled_spaces()["lm"]
    searched = {parameter.name for parameter in load_space(path).searched}
    listed = path.read_text().split("# Not searched here, and why:")[1]
    excused = {
        name.strip(): reason
        for names, reason in re.findall(r"^ +#   ([a-z_, ]+): (.+)$", listed, re.MULTILINE)
        for name in names.split(",")
    }
    searchable = {name for name, info in HYPERPARAMETERS.items() if not info.fixed}
    assert searched | set(excused) == searchable
    assert searched & set(excused) == set()
    assert all(len(reason) > 10 for reason in excused.values())


def test_lm_has_the_documented_ranges() -> None:
    space = load_space(bundled_spaces()["lm"])
    for name, info in HYPERPARAMETERS.items():
        if info.documented:
            parameter = space.parameters[name]
            assert isinstance(parameter, Range)
            assert (parameter.low, parameter.high) == info.documented


def test_the_baseline_of_lm_is_a_plain_pre_norm_transformer() -> None:
    space = load_space(bundled_spaces()["lm"])
    config = TrialConfig.build(space.settings(space.prior(), {"max_iters": 100}))
    expected = {
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "d_model": 128,
        "num_layers": 4,
        "num_heads": 4,
        "num_groups": 4,
        "embedding_dim": 128,
        "d_ff": 512,
        "context_length": 64,
        "batch_size": 16,
        "dropout": 0.1,
        "warmup_steps": 20,
        "lr_schedule": "cosine",
        "lr_decay_iters": 100,
        "position": "learned",
        "hidden_act": "gelu",
        "layer_norm_epsilon": 1e-5,
        "attention_loss_weight": 0.0,
        "z_loss_weight": 0.0,
        "eval_iters": 4,
        "max_save_num": 1,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_lm_draws_a_loss_weight_of_zero_often() -> None:
    parameters = load_space(bundled_spaces()["lm"]).parameters
    for name in ("attention_loss_weight", "z_loss_weight"):
        parameter = parameters[name]
        assert isinstance(parameter, Choices)
        assert 0.0 in parameter.choices
        assert len(parameter.choices) <= 4


@pytest.mark.parametrize("word", ["lm", "lm.yaml", "spaces/lm", "spaces/lm.yaml", "search_spaces/lm.yaml"])
def test_a_bundled_space_is_found_by_name(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, bundled = find_space(word)
    assert bundled
    assert path == bundled_spaces()["lm"]


def test_a_file_of_that_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "lm.yaml").write_text("parameters: {dropout: {low: 0, high: 0.5}}\n")
    assert find_space("spaces/lm.yaml") == (Path("spaces/lm.yaml"), False)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("modren", r"--space modren: no such file, and no such bundled space; did you mean 'modern'\?"),
        ("xyzzy.yaml", r"no such bundled space; bundled: encoder, encoder_decoder, lm, modern, quick"),
        ("elsewhere/lm.yaml", r"no such bundled space; did you mean 'lm'\?"),
        (".", r"is a folder, not a search space"),
        ("", r"no such bundled space"),
    ],
)
def test_an_unknown_space_is_refused_with_the_nearest(word: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        find_space(word)


def test_reading_a_space_imports_neither_torch_nor_optuna() -> None:
    code = (
        "import sys\nfrom hpsearch.space.bundled import find_space\nfrom hpsearch.space.load import load_space\n"
        "from hpsearch.space.schema import space_schema\n"
        "load_space(find_space('lm')[0]).prior(); space_schema()\n"
        "print([name for name in ('torch', 'optuna', 'sqlalchemy', 'numpy') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert answer.stdout.strip() == "[]"
