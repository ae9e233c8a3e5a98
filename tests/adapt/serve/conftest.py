"""A real server with two adapters of the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_served import Served, served

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.adapter_sources import adapter_source


@pytest.fixture(scope="session")
def models(adapted: Path, plain: Path) -> AdaptedModels:
    return AdaptedModels.load([adapter_source(adapted), adapter_source(plain)])


@pytest.fixture(scope="module")
def here(models: AdaptedModels) -> Iterator[Served]:
    with served(models) as running:
        yield running


@pytest.fixture
def another(models: AdaptedModels) -> Callable[..., Any]:
    """A server of a test's own."""
    return lambda **options: served(models, **options)
