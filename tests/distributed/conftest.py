"""The processes of tests/faults serve here too, and two hosts on one machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

from hosts import Host, reason_against, two_hosts


@pytest.fixture
def for_a_release(request: pytest.FixtureRequest) -> None:
    """Minutes that a release is worth, and a change is not."""
    if not request.config.getoption("--release"):
        pytest.skip("takes minutes; runs with --release")


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with an address and a name each; whatever comes of the test, nothing of them is left."""
    reason = reason_against()
    if reason is not None:
        pytest.skip(f"network namespaces cannot be made here: {reason}")
    with two_hosts() as pair:
        yield pair
