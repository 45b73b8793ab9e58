"""Verbs that take a result elsewhere: export, report, train, generate."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli import app
from hpsearch.cli.look import load_view
from hpsearch.cli.options import (
    STUDIES_DIR,
    DeviceOption,
    JsonOption,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    cache_dir,
    print_json,
    require_folder,
    require_writable,
    storage_url,
)
from hpsearch.errors import INTERRUPTED, BadInput

if TYPE_CHECKING:
    from hpsearch.report.view import Scale
    from hpsearch.space.space import SearchSpace


@app.command()
def export(
    study: StudyOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Standard output when not given.")] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="This trial instead of the best.", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option("--format", help="yaml or json.")] = "yaml",
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Write the best config, every value concrete, with what produced it."""
    from hpsearch.report.export import best_config_yaml, to_json
    from hpsearch.storage.records import TrialState

    writers = {"yaml": best_config_yaml, "json": to_json}
    if format not in writers:
        raise BadInput(f"--format {format}: use {' or '.join(writers)}")
    view = load_view(storage, studies_dir, study)
    chosen = view.pick(trial)
    if chosen.state is not TrialState.COMPLETE:
        raise BadInput(f"trial {trial} of study '{view.study.name}' is {chosen.state}; only a complete one can be exported")
    text = writers[format](view, chosen)
    if out is None:
        sys.stdout.write(text)
        return
    require_writable(out)
    out.write_text(text, encoding="utf-8")
    print(f"trial {chosen.number} of '{view.study.name}' is in {out}", file=sys.stderr)


@app.command()
def report(
    study: StudyOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page.")] = Path("report.html"),
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
) -> None:
    """Write one self-contained HTML page with the study's figures."""
    from hpsearch.report.page import write_report
    from hpsearch.space.load import parse_space

    require_writable(out)
    view = load_view(storage, studies_dir, study)
    space = parse_space(view.study.space_text, f"study {view.study.name}")
    write_report(view, load_optuna(storage_url(storage, studies_dir), view.study.name), axes(space), out)
    print(f"the report of '{view.study.name}' is in {out}", file=sys.stderr)


def axes(space: SearchSpace) -> dict[str, Scale]:
    """How each searched parameter was searched, for the figures' axes."""
    from hpsearch.report.view import Scale
    from hpsearch.space.parameters import Choices

    return {
        parameter.name: Scale(choices=parameter.choices) if isinstance(parameter, Choices) else Scale(log=parameter.log)
        for parameter in space.searched
    }


def load_optuna(url: str, name: str) -> Any:
    """Optuna's own study, for its importances."""
    import optuna

    from hpsearch.storage.engine import optuna_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(study_name=name, storage=optuna_storage(url))


@app.command()
def train(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="An exported config, or one of your own.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where weights, tokenizer and log go.")] = Path("model"),
    data: Annotated[str | None, typer.Option("--data", metavar="PATH|NAME", help="Another text.")] = None,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; by default those of the config.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Train one config and keep its weights; an exported one reaches its exported score again on the same CPU."""
    from hpsearch.execution.devices import choose_device, cores
    from hpsearch.report.export import read_config

    if threads is not None and threads < 1:
        raise BadInput(f"--threads {threads}: give a whole number from 1")
    asked = read_config(config)
    where = choose_device(device)[0]
    require_folder("--out", out)
    from hpsearch.training.single import train_config  # The first import of torch: only when all else is known.

    try:
        result = train_config(
            asked.settings,
            asked.data.model_copy(update={"text": data}) if data else asked.data,
            out,
            cache_dir=cache_dir(),
            device=where,
            threads=threads or asked.run.threads or cores(),
            fingerprint="" if data else asked.data_fingerprint,
            objectives=(asked.study.objective,) if asked.study else (),
            say=say,
        )
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on from the last checkpoint in {out}")
        return INTERRUPTED
    with contextlib.suppress(shutil.SameFileError):
        shutil.copyfile(config, out / "config.yaml")
    found = result.metrics.get(asked.study.objective) if asked.study else None
    expected = asked.study.value if asked.study and not data else None
    if as_json:
        print_json({"metrics": result.metrics, "exported_value": expected, "sample": result.sample, "model": str(out)})
        return 0
    print(", ".join(f"{name} {value:.6g}" for name, value in result.metrics.items()))
    if asked.study and expected is not None and found is not None:
        verdict = "the exported score again" if found == expected else f"the exported score was {expected:.6f}"
        print(f"{asked.study.objective} {found:.6f}: {verdict}")
    print(f"next: hpsearch generate --model {out} --prompt 'The '")
    return 0


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
    from hpsearch.training.sample import printable

    blocks = [printable(text) for prompt, samples in texts for text in samples]
    with contextlib.suppress(BrokenPipeError):
        print("\n\n---\n\n".join(blocks))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
