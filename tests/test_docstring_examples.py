"""Examples in docstrings: every one runs, and every class that a user instantiates or subclasses has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PUBLIC_PACKAGES = (
    "callbacks",
    "domains.arc",
    "domains.knowledge",
    "evaluation",
    "generation",
    "inner_loop",
    "scoring.graders",
    "scoring.judges",
    "scoring.rewards",
)
"""Packages whose exported classes a user names in YAML, instantiates or subclasses."""

NOT_INSTANTIATED = {
    "Arm",
    "Condition",
    "ConditionResult",
    "Evaluation",
    "InvalidRecord",
}
"""Exported records that only this package creates."""

WITHOUT_EXAMPLE_YET: set[str] = set()
"""Remove a name when its class has got an `Example:` block."""


def modules_with_examples() -> Iterator[str]:
    """Names of the modules whose source contains a doctest."""
    for folder, prefix in (
        (ROOT / "seal_lightning", "seal_lightning"),
        (ROOT / "callbacks", "seal_lightning.callbacks"),
    ):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix == "seal_lightning" and parts[0] == "callbacks":
                continue  # a symlink to the top-level folder
            if ">>> " in path.read_text():
                yield ".".join([prefix, *(part for part in parts if part != "__init__")])


def public_classes() -> Iterator[tuple[str, type]]:
    """(Name, class) of everything that the public packages export, each class once."""
    seen: set[type] = set()
    for package in PUBLIC_PACKAGES:
        module = importlib.import_module(f"seal_lightning.{package}")
        for name in module.__all__:
            exported = getattr(module, name)
            if inspect.isclass(exported) and not issubclass(exported, Exception) and exported not in seen:
                seen.add(exported)
                yield name, exported


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write files
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_public_classes_have_an_example() -> None:
    missing = {name for name, public in public_classes() if "Example:\n" not in inspect.cleandoc(public.__doc__ or "")}
    assert missing - NOT_INSTANTIATED - WITHOUT_EXAMPLE_YET == set()


def test_exceptions_name_exported_classes() -> None:
    exported = {name for name, _ in public_classes()}
    assert exported >= NOT_INSTANTIATED
