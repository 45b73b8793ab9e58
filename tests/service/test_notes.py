"""What optuna-dashboard is given to show, asked of the dashboard's own application."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna_dashboard import save_note
from synthetic import SEARCHED, optuna_study, synthetic_view
from toys import Toys
from waiting import wait_for

from hpsearch.cli import dashboard as serve
from hpsearch.results.view import StudyView, axes
from hpsearch.service.dashboard import open_server
from hpsearch.service.notes import artifact_files, forget_files, show_study
from hpsearch.storage.optuna_storage import optuna_storage
from hpsearch.tuning.coordinator import Coordinator
from hpsearch.tuning.study import Study


@contextmanager
def served(url: str, folder: Path) -> Iterator[str]:
    server, address = open_server(url, "127.0.0.1", 0, None, files=artifact_files(folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(address: str, path: str) -> Any:
    with urlopen(address + path) as answer:
        return json.load(answer)


def shown(study: Study, toys: Toys) -> int:
    """Bring what the dashboard shows up to date; how much was written."""
    view = StudyView.load(study.store, study.store.study(study.record.name))
    return show_study(view, study.optuna, axes(study.space), toys.folder, edges=["d_model 24 is the largest | of all"])


def test_notes_figures_and_files_are_shown_and_written_once(toys: Toys) -> None:
    study, _ = toys.run(12, trainer="diverges_when_steep", pruner="none")
    (study.folder / "best.yaml").write_text("hpsearch: 1\n")
    (study.folder / "report.html").write_text("<script>alert(1)</script>")
    assert shown(study, toys) >= 12 + 1 + 2 + 2
    assert shown(study, toys) == 0, "nothing has changed"
    view = StudyView.load(study.store, study.store.study("toy"))
    assert view.best is not None
    with served(toys.request().storage_url, toys.folder) as address:
        told = asked(address, "/api/studies/1")
        assert told["objective_names"] == ["val_bpb"]
        note = told["note"]["body"]
        assert f"Best: trial {view.best.number}" in note
        assert "| learning\\_rate" in note
        assert "largest \\| of all" in note, "what is ours is no markup"
        notes = {trial["number"]: trial["note"]["body"] for trial in told["trials"]}
        assert "proposed by prior" in notes[0]
        assert "▁" in notes[view.best.number]
        assert "    words" in notes[view.best.number], "the sample"
        diverged = [trial for trial in view.trials if trial.reason.startswith("diverged")]
        assert all("loss is nan at step 7" in notes[trial.number] for trial in diverged)
        figures = {each["id"]: json.loads(each["graph_object"]) for each in told["plotly_graph_objects"]}
        assert {"hpsearch-compute-to-quality", "hpsearch-learning-curves"} <= set(figures)
        assert all(figure["data"] for figure in figures.values())
        for figure in figures.values():
            assert figure["layout"]["yaxis"]["automargin"], "no label is cut off"
            assert figure["layout"]["height"] <= 440
        files = {each["filename"]: each["artifact_id"] for each in told["artifacts"]}
        assert set(files) == {"best.yaml", "report.html"}
        with urlopen(f"{address}/artifacts/1/{files['report.html']}") as answer:
            assert answer.read() == b"<script>alert(1)</script>"
            assert answer.headers["Content-Disposition"] == "attachment", "saved, and never run on the dashboard's origin"
            assert answer.headers["Content-Security-Policy"] == "sandbox; frame-ancestors 'none'"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Access-Control-Allow-Origin"] is None
        (study.folder / "best.yaml").write_text("hpsearch: 2\n")
        assert shown(study, toys) == 1
        with urlopen(f"{address}/artifacts/1/{files['best.yaml']}") as answer:
            assert answer.read() == b"hpsearch: 2\n", "the same file, anew"
    forget_files(study.optuna, toys.folder)
    assert list((toys.folder / "artifacts").iterdir()) == []


def test_what_a_person_wrote_over_a_note_stays(toys: Toys) -> None:
    study, _ = toys.run(3)
    shown(study, toys)
    save_note(study.optuna, "my own words")
    study, _ = toys.run(5)
    assert shown(study, toys) > 0
    with served(toys.request().storage_url, toys.folder) as address:
        told = asked(address, "/api/studies/1")
    assert told["note"]["body"] == "my own words"
    assert all(trial["note"]["body"] for trial in told["trials"])


def test_notes_are_kept_up_to_date_while_a_study_runs(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "WATCH_S", 0.1)
    monkeypatch.setattr(serve, "SHARE", 0.9)
    url, over = toys.request().storage_url, threading.Event()
    thread = threading.Thread(target=serve.show, args=(url, toys.folder, "toy", over))
    seen: list[str] = []
    show_one = serve.show_one

    def noted(store: Any, record: Any, *rest: Any) -> None:
        show_one(store, record, *rest)
        storage = optuna_storage(url)
        attributes = storage.get_study_system_attrs(storage.get_study_id_from_name("toy"))
        seen.append(attributes["dashboard:note_str:0"])

    def meanwhile(coordinator: Coordinator) -> None:
        thread.start()

    monkeypatch.setattr(serve, "show_one", noted)
    try:
        study, ended = toys.run(8, trainer="slow_curve", meanwhile=meanwhile)
        assert ended, "the study went on undisturbed"
        trials = study.store.trials(study.record.id)
        assert [trial.number for trial in trials] == list(range(8))
        assert all(trial.state.ended and trial.told for trial in trials)
        wait_for(lambda: bool(seen) and "8 trials are done" in seen[-1].lower())
    finally:
        over.set()
        thread.join()
    assert any("Not finished" in note for note in seen), "it was shown while it ran"


def test_a_thousand_trials_stay_small(tmp_path: Path) -> None:
    view = synthetic_view(1000, 100)
    study = optuna_study(view)
    assert 0 < show_study(view, study, SEARCHED, tmp_path) <= 50
    attributes = study._storage.get_study_system_attrs(study._study_id)
    size = sum(len(key) + len(json.dumps(value)) for key, value in attributes.items())
    assert size < 250_000, "every poll of the dashboard reads all of it"
    figures = sum(len(value) for key, value in attributes.items() if key.startswith("dashboard:plot_data"))
    assert figures < 150_000, "every poll sends all of it"
    assert show_study(view, study, SEARCHED, tmp_path) == 0


def test_the_dashboards_best_breaks_no_constraint(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hpsearch.db'}"
    for name, values in (("one", [(1.0,), (2.0,), (3.0,)]), ("two", [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0)])):
        storage = optuna_storage(url)
        study = optuna.create_study(study_name=name, storage=storage, directions=["minimize"] * len(values[0]))
        for index, each in enumerate(values):
            trial = study.ask({"x": FloatDistribution(0, 1)})
            trial.set_constraint("size", 0.5 if index == 0 else -1.0)
            study.tell(trial, each)
    with served(url, tmp_path) as address:
        assert [each["number"] for each in asked(address, "/api/studies/1")["best_trials"]] == [1]
        assert [each["number"] for each in asked(address, "/api/studies/2")["best_trials"]] == [1, 2]
    assert optuna.load_study(study_name="one", storage=optuna_storage(url)).best_trial.number == 1
