"""`hpsearch export`: a trial's config for this program or another one, or its model for transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.cli import streams
from hpsearch.cli.app import app
from hpsearch.cli.options import (
    STUDIES_DIR,
    CheckpointsDirOption,
    PreferOption,
    StorageOption,
    StudiesDirOption,
    StudyOption,
    cache_dir,
    load_view,
    require_folder,
    require_writable,
)
from hpsearch.errors import BadInput, did_you_mean
from hpsearch.files import write_atomically

if TYPE_CHECKING:
    from hpsearch.results.view import StudyView
    from hpsearch.storage.records import TrialRecord

FORMATS = ("yaml", "json", "toml", "env", "cli", "hf")


@app.command()
def export(
    study: StudyOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="A file (of hf a folder); standard output when not given.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="This trial instead of the best.", show_default=False)
    ] = None,
    prefer: PreferOption = None,
    format: Annotated[
        str | None, typer.Option("--format", help="yaml (default), json, toml, env, cli or hf.", show_default=False)
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="PROGRAM", help="Under the names of nanogpt, litgpt or transformers.", show_default=False
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="With hf: a folder of `hpsearch train`, not a trial.", show_default=False),
    ] = None,
    storage: StorageOption = None,
    studies_dir: StudiesDirOption = STUDIES_DIR,
    checkpoints_dir: CheckpointsDirOption = None,
) -> None:
    """Write the best config, every value concrete, with what produced it; or its model for transformers."""
    if format is not None and format not in FORMATS:
        raise BadInput(f"--format {format}: use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}{did_you_mean(format, FORMATS)}")
    if program is not None and format not in (None, "json"):
        raise BadInput(f"--for {program}: it has a form of its own; leave --format {format} out, or use --format json")
    if trial is not None and prefer is not None:
        raise BadInput(f"--prefer chooses among the good trials and --trial {trial} names one; keep one of them")
    if checkpoints_dir is not None and (format != "hf" or model is not None):
        raise BadInput(f"--checkpoints-dir {checkpoints_dir}: it goes with --format hf of a trial")
    if model is not None and (format != "hf" or trial is not None or prefer is not None):
        raise BadInput(f"--model {model}: it goes with --format hf, and stands for the trial")
    if format == "hf" and out is None:
        raise BadInput("--format hf writes a folder: name it with --out DIR")
    if out is not None and format != "hf":
        require_writable(out)
    if model is not None:
        assert out is not None
        export_folder(model, out)
        return
    view = load_view(storage, studies_dir, study)
    chosen = choose(view, trial, prefer)
    if view.study.own and (format == "hf" or program is not None):
        asked = "--format hf" if format == "hf" else f"--for {program}"
        raise BadInput(
            f"{asked}: study '{view.study.name}' has a trainer of your own; use --format yaml, json, toml, env or cli"
        )
    if format == "hf":
        assert out is not None
        trial_folder = Path(view.study.folder, "trials", f"{chosen.number:04d}")
        kept = None if checkpoints_dir is None else checkpoints_dir / trial_folder
        export_trial(view, chosen, studies_dir / trial_folder, out, kept)
        print(f"trial {chosen.number} of '{view.study.name}' is in {out}, for transformers", file=sys.stderr)
        return
    text = written(view, chosen, format, program)
    if out is None:
        streams.document(text)
        return
    write_atomically(out, text)
    print(f"trial {chosen.number} of '{view.study.name}' is in {out}", file=sys.stderr)


def choose(view: StudyView, number: int | None, prefer: str | None) -> TrialRecord:
    """The trial to export: by its number, else the preferred one. Raises BadInput where none such is complete."""
    from hpsearch.results.preference import parse_preference, pick
    from hpsearch.storage.records import TrialState

    if number is None:
        return pick(view, parse_preference(prefer or "first"))
    chosen = view.pick(number)
    if chosen.state is not TrialState.COMPLETE:
        raise BadInput(f"trial {number} of study '{view.study.name}' is {chosen.state}; only a complete one can be exported")
    return chosen


def written(view: StudyView, trial: TrialRecord, format: str | None, program: str | None) -> str:
    """The trial's config as one text."""
    from hpsearch.config import TrialConfig
    from hpsearch.export.config_file import confirmation, provenance
    from hpsearch.export.formats import WRITERS
    from hpsearch.export.frameworks import as_json, as_text, translate

    if program is None:
        return WRITERS[format or "yaml"](view, trial)
    told = translate(program, TrialConfig.build(trial.config), view.study.device)
    return as_json(told, confirmation(view, trial)) if format == "json" else as_text(told, provenance(view, trial))


def export_trial(view: StudyView, trial: TrialRecord, folder: Path, out: Path, checkpoints: Path | None = None) -> None:
    """The trial's trained weights as a folder of transformers. checkpoints: where they are, if not in the trial's `folder`."""
    from hpsearch.config import DataConfig, TrialConfig
    from hpsearch.export.model_card import model_card, of_trial
    from hpsearch.model.huggingface import auto_class, write_folder
    from hpsearch.training.weights import trial_model

    loads = auto_class(TrialConfig.build(trial.config))  # Refuses what transformers has no place for.
    require_empty(out)
    _, trained, tokenizer = trial_model(
        trial.config,
        DataConfig.model_validate(view.study.data),
        view.study.data_fingerprint,
        folder,
        iteration=trial.iteration,
        cache_dir=cache_dir(),
        checkpoints=checkpoints,
    )
    write_folder(trained, tokenizer, out, model_card(of_trial(view, trial, loads)))


def export_folder(source: Path, out: Path) -> None:
    """What `hpsearch train` left in `source` as a folder of transformers."""
    from hpsearch.export.config_file import read_config
    from hpsearch.export.model_card import model_card, of_config
    from hpsearch.model.huggingface import auto_class, write_folder
    from hpsearch.training.weights import load_model

    require_empty(out)
    config, trained, tokenizer = load_model(source)
    beside = source / "config.yaml"
    asked = read_config(beside) if beside.exists() else None
    write_folder(trained, tokenizer, out, model_card(of_config(config, asked, auto_class(config), tokenizer.kind)))
    print(f"the model of {source} is in {out}, for transformers", file=sys.stderr)


def require_empty(out: Path) -> None:
    """A folder that is new or empty, so that nothing of an older export stays among the new files. Raises BadInput."""
    require_folder("--out", out)
    if out.is_dir() and any(out.iterdir()):
        raise BadInput(f"--out {out}: the folder is not empty; name a new one")
