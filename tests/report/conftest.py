from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from synthetic import SEARCHED, optuna_study, synthetic_view

from hpsearch.results.view import Scale, StudyView


@pytest.fixture
def make_view() -> Callable[..., StudyView]:
    return synthetic_view


@pytest.fixture
def make_optuna() -> Callable[[StudyView], optuna.Study]:
    return optuna_study


@pytest.fixture(scope="session")
def view() -> StudyView:
    return synthetic_view()


@pytest.fixture(scope="session")
def thousand() -> StudyView:
    return synthetic_view(1000, evaluations=100)


@pytest.fixture(scope="session")
def session_optuna(view: StudyView) -> optuna.Study:
    return optuna_study(view)


@pytest.fixture(scope="session")
def searched() -> dict[str, Scale]:
    return dict(SEARCHED)
