"""What the fault tests share: how many faults are injected, and what ``--release`` makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def counted(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """So many faults in CI; ten times as many with ``--release``."""
    factor = 10 if request.config.getoption("--release") else 1
    return lambda count: count * factor
