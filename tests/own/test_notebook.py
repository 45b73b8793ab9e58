"""A notebook as Jupyter runs it: its own kernel, a trainer defined in a cell, the live view, results as tables."""

from __future__ import annotations

import json
from pathlib import Path

import nbclient
import pytest
from nbformat.v4 import new_code_cell, new_notebook

TUNE = """
import hpsearch

def train(config, run):
    for step in range(1, run.steps + 1):
        yield hpsearch.Evaluation(step, (config["lr"] - 0.3) ** 2 + 1 / step)

study = hpsearch.tune(train, {"lr": {"low": 0.0, "high": 1.0}}, steps=8, trials=3, slots=1)
"""


def test_a_notebook_shows_a_study_live_and_its_results_as_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = new_notebook(cells=[new_code_cell(source) for source in (TUNE, "study", "study.frame()")])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    tune, shown, frame = (cell["outputs"] for cell in notebook["cells"])
    (live,) = [each["data"]["application/vnd.jupyter.widget-view+json"] for each in tune if "Output()" in str(each.get("data"))]
    widgets = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert "of 3 trials" in json.dumps(widgets[live["model_id"]]), "what the view drew last"
    assert "Traceback" not in json.dumps(tune)
    assert shown[0]["data"]["text/plain"].startswith("<Study 'train': 3 complete; best: trial ")
    assert "<td>0 (baseline)</td>" in shown[0]["data"]["text/html"]
    assert frame[0]["data"]["text/html"].count("<tr") == 4
    assert (tmp_path / "studies" / "0001-train" / "best.yaml").is_file()
