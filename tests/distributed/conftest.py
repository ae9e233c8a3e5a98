"""Fixtures: two hosts on one machine, and a switch for tests that take minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hosts import Host, reason_against, two_hosts


@pytest.fixture
def for_a_release(request: pytest.FixtureRequest) -> None:
    """Skip a test that takes minutes unless ``--release`` is given."""
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
