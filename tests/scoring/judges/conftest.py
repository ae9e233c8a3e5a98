"""A key that tests look for everywhere, and no proxies between a test and its server."""

from __future__ import annotations

import pytest

KEY = "sk-test-51Hc9xQzVb7LmN"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return KEY
