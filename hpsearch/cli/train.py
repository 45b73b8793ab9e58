"""`hpsearch train` and `hpsearch generate`: train one config, and sample text from its weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from hpsearch.cli.app import app
from hpsearch.cli.options import (
    DeviceOption,
    JsonOption,
    cache_dir,
    claim_folder,
    print_json,
    require_own_folder,
    require_writable,
)
from hpsearch.cli.terminal import say
from hpsearch.errors import INTERRUPTED, BadInput
from hpsearch.files import write_atomically
from hpsearch.training.events import Answer, Outcome

if TYPE_CHECKING:
    from hpsearch.export.config_file import ExportedConfig


@app.command()
def train(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="An exported config, or one of your own.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter, or data.text, data.tokenizer; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where weights, tokenizer and log go.")] = Path("model"),
    save_dir: Annotated[
        Path | None,
        typer.Option("--save-dir", metavar="DIR", help="Where checkpoints go, instead of below --out.", show_default=False),
    ] = None,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", metavar="FILE", help="Where the log goes, likewise.", show_default=False)
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="PATH|NAME", help="Another text.")] = None,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; by default those of the config.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Train one config and keep its weights; an exported one reaches its exported score again on the same CPU."""
    from hpsearch.cli.options import parse_setting
    from hpsearch.execution.devices import choose_device
    from hpsearch.execution.resources import slot_threads
    from hpsearch.export.config_file import config_yaml, parse_value, read_config
    from hpsearch.paths import MOST_THREADS

    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise BadInput(f"--threads {threads}: give a whole number from 1 to {MOST_THREADS}")
    changes = {name: parse_value(text) for name, text in map(parse_setting, settings or [])}
    if config is None and not changes:
        raise BadInput("what is to be trained? Name a file with --config FILE, or hyperparameters with --set NAME=VALUE")
    asked = _on_text(read_config(config, changes), data, changes)
    where = choose_device(device)[0]
    if log_file is not None:
        require_writable(log_file)
    require_own_folder("--out", out)
    if save_dir is not None:
        require_own_folder("--save-dir", save_dir)

    def claim() -> None:
        for folder in (out, save_dir):
            if folder is not None:
                claim_folder(folder)

    try:
        with Pausing() as pausing:
            from hpsearch.training.single import train_config  # The first import of torch: only when all else is known.

            result = train_config(
                asked.settings,
                asked.data,
                out,
                cache_dir=cache_dir(),
                device=where,
                threads=threads or asked.run.threads or slot_threads(1, (where,)),
                fingerprint=asked.data_fingerprint,
                objectives=(asked.study.objective,) if asked.study else (),
                say=say,
                asked=pausing.asked,
                checkpoints=save_dir,
                log_file=log_file,
                begin=claim,
            )
    except KeyboardInterrupt:
        say("interrupted before the first step; the same command begins anew")
        return INTERRUPTED
    except MemoryError as error:
        smaller = "make batch_size, context_length or the model (d_model, num_layers) smaller"
        raise BadInput(f"memory is short: {error}; {smaller}") from None
    if result.outcome is Outcome.PAUSED:
        say(f"interrupted after step {result.iteration}; the same command goes on from the checkpoint in {out}")
        return pausing.exit_code
    # As it was then, and not after hours of training; a pipe is read only once.
    as_it_was = config is not None and not changes and data is None and config.suffix.lower() != ".toml"
    write_atomically(out / "config.yaml", asked.text if as_it_was else config_yaml(asked))
    found = result.metrics.get(asked.study.objective) if asked.study else None
    expected = asked.study.value if asked.study and data is None and not changes else None
    if as_json:
        print_json({"metrics": result.metrics, "exported_value": expected, "sample": result.sample, "model": str(out)})
        return 0
    print(", ".join(f"{name} {value:.6g}" for name, value in result.metrics.items()))
    if asked.study and expected is not None and found is not None:
        verdict = "the exported score again" if found == expected else f"the exported score was {expected:.6f}"
        print(f"{asked.study.objective} {found:.6f}: {verdict}")
    print(f"next: hpsearch generate --model {out} --prompt 'The '")
    return 0


def _on_text(asked: ExportedConfig, text: str | None, changes: Mapping[str, Any]) -> ExportedConfig:
    """A config on the text of `--data`, if any. Where its own vocabulary was another text's, it is left out, and said."""
    from hpsearch.config import DataConfig, TrialConfig

    if text is not None:
        data = DataConfig.model_validate(asked.data.model_dump() | {"text": text})
        asked = replace(asked, data=data, data_fingerprint="")
    changed = {"architecture", "data.tokenizer"} & changes.keys()
    if asked.data.tokenizer == "chars":  # Of bytes it is the same whatever the text.
        changed |= {"data.text", "data.validation"} & changes.keys() | ({"--data"} if text is not None else set())
    if not changed or "vocab_size" in changes or "vocab_size" not in asked.settings or asked.data.tokenizer == "bpe":
        return asked
    own = asked.settings["vocab_size"]
    say(f"the config's vocab_size, {own}, is left out: it was that of the text before {' and '.join(sorted(changed))}")
    settings = {name: value for name, value in asked.settings.items() if name != "vocab_size"}
    config = TrialConfig.build({"max_iters": 1} | settings)
    return replace(asked, settings=settings, config=config)


class Pausing:
    """SIGINT and SIGTERM pause a run after its step; before the first step, and when they come again, they end the process."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._begun = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> Answer:
        """What the run is to do after the step that it has just made."""
        self._begun = True
        return Answer.CONTINUE if self.caught is None else Answer.PAUSE

    @property
    def exit_code(self) -> int:
        return INTERRUPTED if self.caught == signal.SIGINT else 0

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        again, self.caught = self.caught is not None, number
        if again:
            os._exit(self.exit_code)
        if not self._begun:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(0)


@app.command()
def generate(
    model: Annotated[Path, typer.Option("--model", metavar="DIR", help="A folder that `hpsearch train` wrote.")] = Path(
        "model"
    ),
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Text to go on from; may be repeated.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", metavar="FILE", help="One prompt a line.", show_default=False)
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.", show_default=False)] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", show_default=False)] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", show_default=False)] = None,
    num_samples: Annotated[int | None, typer.Option("--num-samples", show_default=False)] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", show_default=False)] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Sample text from trained weights; settings that are not given are those of the config."""
    from hpsearch.config import TrialConfig
    from hpsearch.execution.devices import choose_device

    prompts = list(prompt or [])
    if prompt_file is not None:
        try:
            prompts += prompt_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--prompt-file {prompt_file}: cannot be read ({error})") from None
    if not (model / "model.safetensors").exists():
        raise BadInput(f"--model {model}: no model.safetensors there; `hpsearch train --out {model}` writes one")
    given = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_samples": num_samples,
        "max_new_tokens": max_new_tokens,
    }
    TrialConfig.build({"max_iters": 1} | given)  # The bounds of the hyperparameters are those of the options.
    where = choose_device(device)[0]
    from hpsearch.training.single import generate_from

    texts = generate_from(model, prompts or [""], given, seed=seed, device=where)
    if as_json:
        print_json([{"prompt": prompt, "samples": samples} for prompt, samples in texts])
        return
    print("\n\n---\n\n".join(text for _, samples in texts for text in samples))
