"""Tiny models for every test. Nothing here touches a network."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from adapted_folders import write_asked, write_plain
from fakes import write_tiny_model

from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained

torch.set_num_threads(1)  # matrices of 32 by 32 gain nothing from more, and other tests share the cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--release", action="store_true", help="ten times as many faults in tests/faults, and all deaths of hosts"
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama as a transformers folder."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def adapted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapted folder of the tiny model, called minerals."""
    return write_asked(tmp_path_factory.mktemp("adapted") / "minerals", tiny_folder, seed=1)


@pytest.fixture(scope="session")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT folder with a LoRA of the tiny model and nothing else, called colours."""
    return write_plain(tmp_path_factory.mktemp("plain") / "colours", tiny_folder, tiny_folder, seed=2)


@pytest.fixture
def tiny(tiny_folder: Path) -> LanguageModel:
    """The tiny model in float32; a fresh one for every test."""
    return Pretrained(source=str(tiny_folder), dtype="float32").load()


@pytest.fixture
def tiny64(tiny_folder: Path) -> LanguageModel:
    """The tiny model in float64, for comparisons that must not depend on the order of sums."""
    return Pretrained(source=str(tiny_folder), dtype="float64").load()
