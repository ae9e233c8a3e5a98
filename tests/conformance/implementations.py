"""Every engine and inner loop, as the conformance tests make it; a new one needs a line here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import seal_lightning
from seal_lightning.adaptation import BatchedInnerLoop
from seal_lightning.generation import TransformersEngine
from seal_lightning.seams import Engine, InnerLoop

ENGINES: list[Callable[[], Engine]] = [TransformersEngine, lambda: TransformersEngine(max_batch_size=2)]
INNER_LOOPS: list[Callable[[], InnerLoop]] = [
    BatchedInnerLoop,
    lambda: BatchedInnerLoop(max_adapters=2, max_tokens_per_pass=16),
]


def implementations(seam: type) -> set[type]:
    """Every concrete subclass of a seam in the package, however deep."""
    for module in pkgutil.walk_packages(seal_lightning.__path__, "seal_lightning."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, unseen = set(), [seam]
    while unseen:
        unseen += (kind := unseen.pop()).__subclasses__()
        if kind.__module__.startswith("seal_lightning.") and not inspect.isabstract(kind):
            found.add(kind)
    return found


def assert_all_registered(seam: type, registered: Sequence[object]) -> None:
    """Fail for an implementation without a line above."""
    found = implementations(seam)
    assert found, f"no implementation of {seam.__name__} was found: the walk is broken"
    missing = found - {type(one) for one in registered}
    assert not missing, f"give {sorted(kind.__qualname__ for kind in missing)} a line in {__file__}"


def cases(factories: Sequence[Callable[[], Any]]) -> pytest.MarkDecorator:
    """Parametrises a test over factories, each shown by what it makes."""
    return pytest.mark.parametrize(
        "make", factories, ids=[f"{type(f()).__name__}-{i}" for i, f in enumerate(factories)]
    )
