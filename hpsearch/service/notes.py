"""What optuna-dashboard shows of ours: notes, figures and files, written into Optuna's study by the dashboard's own functions.

All of it is in attributes of the study, which can be written while trials run and after they have ended, and which every poll
of the dashboard reads: so there are few notes, small figures, and nothing is written that has not changed. What a person wrote
over a note of ours stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import get_note, save_note, save_plotly_graph_object

from hpsearch.report import figures
from hpsearch.report.compute import quality
from hpsearch.report.effects import rate_against_size
from hpsearch.report.importance import importance_of, importances
from hpsearch.report.page import counted
from hpsearch.results.formatting import amount, duration, short
from hpsearch.results.sparkline import sparkline
from hpsearch.results.view import Scale, StudyView
from hpsearch.storage.records import TrialRecord, TrialState

NOTES = 40
"""Trials with a note: the best, the baseline, the newest, those that failed and those at work."""
CURVES = 40
"""Trials in the dashboard's figure of learning curves; it has one of its own with all of them."""
POINTS = 1_500
TALL = 440
"""Pixels of a figure; the dashboard cuts off what is much higher."""
SAMPLE = 400
"""Characters of a sample in a note."""
SHOWN = "hpsearch:shown"
"""Attribute of Optuna's study that holds what was written, by digest."""
FOLDER = "artifacts"
"""Below the studies folder: where the dashboard's files are."""


class ArtifactFiles(FileSystemArtifactStore):
    """The files of the dashboard; one that is gone already does not keep a study from being deleted."""

    def remove(self, artifact_id: str) -> None:
        with contextlib.suppress(ArtifactNotFound):
            super().remove(artifact_id)


def artifact_files(studies_dir: Path, *, create: bool = True) -> ArtifactFiles:
    if create:
        (studies_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    return ArtifactFiles(studies_dir / FOLDER)


def forget_files(study: optuna.Study, studies_dir: Path) -> None:
    """Remove the files that the dashboard shows of a study."""
    files = artifact_files(studies_dir, create=False)
    for meta in get_all_artifact_meta(study):
        files.remove(meta.artifact_id)


def show_study(
    view: StudyView,
    study: optuna.Study,
    searched: Mapping[str, Scale],
    studies_dir: Path,
    *,
    edges: Iterable[str] = (),
) -> int:
    """Bring the dashboard's notes, figures and files of a study up to date. Returns how many things were written.

    May be called at any time and by several processes: it writes attributes of the study only, and what it has written before
    is left as it is.
    """
    shown = _Shown(study)
    if study.metric_names != list(view.study.objectives):
        study.set_metric_names(list(view.study.objectives))
    shown.note(None, study_note(view, edges))
    for trial in _noted(view):
        shown.note(trial.number, trial_note(view, trial))
    for name, figure in _figures(view, study, searched).items():
        shown.figure(name, figure)
    folder = studies_dir / view.study.folder
    best = folder / "trials" / f"{view.best.number:04d}" / "sample.txt" if view.best else folder / "sample.txt"
    for path in (folder / "best.yaml", folder / "report.html", best):
        if path.is_file():
            shown.file(path, studies_dir)
    shown.close()
    return shown.written


def study_note(view: StudyView, edges: Iterable[str] = ()) -> str:
    """Markdown: how the study stands, the best beside the baseline, and what to beware of."""
    study, best, baseline = view.study, view.best, view.baseline
    counts = ", ".join(f"{count} {state}" for state, count in view.counts.items() if count)
    budget = f"{counted(study.budget.amount)} {study.budget.kind.replace('_', ' ')} per trial"
    lines = [f"{_safe(study.name)}: {study.trials_target} trials asked, {counts or 'none yet'}; {budget}.", ""]
    lines += [f"{_safe(study.finished_reason.capitalize())}." if study.finished_reason else "Not finished.", ""]
    if best is None:
        return "\n".join([*lines, "No trial is complete yet."])
    lines += [f"### Best: trial {best.number}, {view.objective} {short(best.value)}", ""]
    if baseline is not None and baseline.value is not None and baseline.number != best.number:
        lower = f"; the best is {100 * view.gain:.1f} % lower" if view.gain else ""
        lines += [f"The baseline, trial 0, has {short(baseline.value)}{lower}.", ""]
    lines += _table(best, baseline)
    if view.verdict is not None:
        lines += ["", *(f"- {_safe(sentence)}" for sentence in view.verdict.sentences)]
    told = [f"- {_safe(edge)}" for edge in edges]
    if told:
        lines += ["", "### Beware", "", *told]
    spent = duration(sum(trial.seconds for trial in view.trials))
    compute = amount(sum(trial.flops for trial in view.trials), "FLOP")
    return "\n".join([*lines, "", f"Spent: {spent} in all slots{'' if view.study.own else f', {compute}'}."])


def trial_note(view: StudyView, trial: TrialRecord) -> str:
    """Markdown: what became of a trial and why, its configuration, its curve and its sample."""
    value = f", {view.objective} {short(trial.value)}" if trial.value is not None else ""
    lines = [f"**{trial.state.value}**{value}; proposed by {_safe(trial.proposed_by)}.", ""]
    if trial.reason:
        lines += [f"{_safe(trial.reason)}.", ""]
    curve = [point.metrics.get(view.curve_metric, float("nan")) for point in view.curve(trial.number)]
    if curve:
        of = f"{trial.rung} of {view.study.budget.evaluations} evaluations"
        lines += [f"`{sparkline(curve, 20)}` {view.curve_metric} over {of}.", ""]
    size = f"{trial.num_parameters:,} parameters, {trial.tokens:,} tokens, {amount(trial.flops, 'FLOP')}, "
    if view.study.own:
        size = f"{trial.iteration} steps, "
    lines += [f"{size}{duration(trial.seconds)}.", "", *_table(trial, view.baseline)]
    if trial.sample:
        # Indented, so that no text can end the block.
        text = trial.sample if len(trial.sample) <= SAMPLE else f"{trial.sample[:SAMPLE]} …"
        lines += ["", "Sample:", "", *(f"    {line}" for line in text.splitlines())]
    return "\n".join(lines)


def _table(trial: TrialRecord, baseline: TrialRecord | None) -> list[str]:
    usual = baseline.params if baseline is not None and baseline.number != trial.number else None
    if usual is None:
        return [
            "| | value |",
            "|---|---|",
            *(f"| {_safe(name)} | {_safe(short(each))} |" for name, each in trial.params.items()),
        ]
    rows = [
        f"| {_safe(name)}{' ≠' if usual.get(name) != each else ''} | {_safe(short(each))} | {_safe(short(usual.get(name)))} |"
        for name, each in trial.params.items()
    ]
    return ["| | this | baseline |", "|---|---|---|", *rows]


def _noted(view: StudyView) -> list[TrialRecord]:
    """The trials with a note, at most NOTES."""
    baseline = [view.baseline] if view.baseline is not None else []
    newest = sorted((trial for trial in view.trials if trial.state.ended), key=lambda trial: -(trial.ended_at or 0))
    failed = [trial for trial in newest if trial.state is TrialState.FAILED or not trial.feasible]
    at_work = [trial for trial in view.trials if not trial.state.ended]
    wanted = [*baseline, *view.ranked[: NOTES // 3], *failed[: NOTES // 6], *at_work[: NOTES // 6], *newest]
    return list({trial.number: trial for trial in wanted}.values())[:NOTES]


def _figures(view: StudyView, study: optuna.Study, searched: Mapping[str, Scale]) -> dict[str, go.Figure]:
    """Those that the dashboard does not have, or has less of; small however large the study."""
    at_work = [trial for trial in view.trials if not trial.state.ended]
    kept = {trial.number for trial in [*view.ranked[: CURVES // 2], *at_work, *view.trials[-CURVES // 2 :]][: 2 * CURVES]} | {0}
    few = replace(
        view,
        trials=[trial for trial in view.trials if trial.number in kept],
        decisions=[each for each in view.decisions if each.trial_number in kept],
    )
    drawn = {
        "compute-to-quality": quality(view),
        "learning-curves": figures.learning_curves(few, points=POINTS, words=False),
        "importances": importances(view, importance_of(study, searched)),
        "rate-against-size": rate_against_size(view),
    }
    if len(few.trials) < len(view.trials):
        drawn["learning-curves"].update_layout(
            title_text=f"{len(few.trials)} of {len(view.trials):,} trials: the best, the newest"
        )
    for figure in drawn.values():
        # White in its dark theme too, which has no colours of its own for a figure that has some.
        figure.update_layout(template=None, paper_bgcolor="white", plot_bgcolor="white", title_font_size=14)
        figure.update_layout(height=min(figure.layout.height, TALL), margin={"l": 64, "r": 24, "t": 64, "b": 76})
        figure.update_xaxes(automargin=True).update_yaxes(automargin=True)
    return {name: figure for name, figure in drawn.items() if figure.data}


@dataclass(frozen=True)
class _NoteOf:
    """What the dashboard's functions need of a trial; Optuna's own class would ask its sampler for parameters."""

    study: optuna.Study
    storage: Any
    _trial_id: int


class _Shown:
    """What was written of ours into one study, so that it is written once."""

    def __init__(self, study: optuna.Study) -> None:
        self._study, self._storage = study, study._storage
        attributes = self._storage.get_study_system_attrs(study._study_id)
        self._before: dict[str, Any] = json.loads(attributes.get(SHOWN, "{}"))
        self._now = dict(self._before)
        self.written = 0

    def note(self, number: int | None, text: str) -> None:
        """number: of the trial; None: the study's own note."""
        key = "note" if number is None else f"note {number}"
        if self._before.get(key) == _digest(text):
            return
        place: Any = self._study
        if number is not None:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
            place = _NoteOf(self._study, self._storage, trial_id)
        there = get_note(place)
        if there and _digest(there) != self._before.get(key):
            return  # A person's words.
        save_note(place, text)
        self._wrote(key, _digest(text))

    def figure(self, name: str, figure: go.Figure) -> None:
        digest = _digest(figure.to_json())
        if self._before.get(f"figure {name}") != digest:
            save_plotly_graph_object(self._study, figure, graph_object_id=f"hpsearch-{name}")
            self._wrote(f"figure {name}", digest)

    def file(self, path: Path, studies_dir: Path) -> None:
        content = path.read_bytes()
        artifact, digest = self._before.get(f"file {path.name}", (None, None))
        files = artifact_files(studies_dir)
        if digest == hashlib.sha256(content).hexdigest()[:12] and (studies_dir / FOLDER / artifact).is_file():
            return
        if artifact is None:
            artifact = upload_artifact(artifact_store=files, file_path=str(path), study_or_trial=self._study)
        else:
            with path.open("rb") as file:
                files.write(artifact, file)
        self._wrote(f"file {path.name}", [artifact, hashlib.sha256(content).hexdigest()[:12]])

    def close(self) -> None:
        if self._now != self._before:
            self._storage.set_study_system_attr(self._study._study_id, SHOWN, json.dumps(self._now))

    def _wrote(self, key: str, value: Any) -> None:
        self._now[key] = value
        self.written += 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _safe(text: str) -> str:
    """As it is, in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))
