"""Two adapted folders and a plain one, of one tiny model."""

from pathlib import Path

import pytest
from adapted_folder import write_adapted, write_plain


@pytest.fixture(scope="session")
def adapted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapted(tmp_path_factory.mktemp("adapted") / "minerals", tiny_folder, seed=1)


@pytest.fixture(scope="session")
def plain(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("plain") / "colours", tiny_folder, tiny_folder, seed=2)
