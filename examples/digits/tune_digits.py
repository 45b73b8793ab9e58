"""A classifier of handwritten digits (scikit-learn's bundled data), tuned from Python.

python tune_digits.py
"""

import io
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

import hpsearch

SPACE = {
    "name": "digits",
    "objective": {"maximize": "accuracy"},
    "budget": {"steps": 30, "evaluations": 6},  # A step is a pass over the data.
    "parameters": {
        "learning_rate": {"low": 1e-4, "high": 1.0, "log": True, "prior": 1e-2},
        "width": {"choices": [8, 16, 32, 64], "prior": 16},
        "layers": {"low": 1, "high": 3, "prior": 1},
        "optimizer": {"choices": ["sgd", "adam"], "prior": "adam"},
        "momentum": {"low": 0.0, "high": 0.95, "when": "optimizer == 'sgd'"},
    },
}


def train(config: dict[str, Any], run: hpsearch.Run) -> Iterator[hpsearch.Evaluation]:
    """One configuration; goes on from `run.resume` where that is given."""
    torch.manual_seed(run.seed)
    torch.set_num_threads(run.threads)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # The same held-out part for every trial.
    train_part, held_out = order[:1400], order[1400:]
    sizes = [64, *[config["width"]] * config["layers"]]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(sizes[-1], 10))
    if config["optimizer"] == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), lr=config["learning_rate"], momentum=config["momentum"]
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    if run.resume:
        saved = torch.load(run.resume, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for step in range(run.resume_step + 1, run.steps + 1):
        for batch in train_part[torch.randperm(len(train_part), generator=torch.Generator().manual_seed(step))].split(100):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if run.evaluation_due(step):
            with torch.no_grad():
                accuracy = (model(x[held_out]).argmax(1) == y[held_out]).float().mean().item()
            path = run.folder / f"step-{step}.pt"
            content = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, content)
            path.with_suffix(".tmp").write_bytes(content.getvalue())
            path.with_suffix(".tmp").replace(path)  # Whole or not there.
            yield hpsearch.Evaluation(step, accuracy, {"loss": loss.item()}, checkpoint=path)


if __name__ == "__main__":
    study = hpsearch.tune(train, SPACE, trials=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(study)
    best = study.best
    if best is not None:
        print(best.value, best.config)
