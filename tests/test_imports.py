"""Imports go one way: every room imports rooms below it only, and no two modules import each other.

Read from the source, so nothing is imported here. Imports under ``if TYPE_CHECKING`` do not count: they never run.
"""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter

import pytest
from rooms import EDGES, IMPORTS, MODULES, PACKAGE, ROOMS, ROOT, arrows, floors, runtime_imports

LEVEL = {name: level for level, name in enumerate((*ROOMS, "__main__"))}

_PLAIN = ("attempts", "errors", "exam_records", "interfaces", "plans", "requests", "seeds")
STANDARD_LIBRARY_ONLY = {"core", *(f"core.{name}" for name in _PLAIN)}

HEAVY = {"torch", "torchmetrics", "transformers", "lightning", "peft", "safetensors", "tensorboard", "accelerate"}


def test_import_reader_finds_nested_imports() -> None:
    """Otherwise the tests below would pass on nothing."""
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.b\nelse:\n    import c\n"
    source += "def f():\n    from d.e import f as g\n    class K:\n        import h as i\n"
    assert [name for name, _ in runtime_imports(ast.parse(source))] == ["typing.TYPE_CHECKING", "c", "d.e.f", "h"]
    assert len(MODULES) > 40
    assert {"callbacks.reward_filter", "domains.knowledge.domain", "training.module", ""} <= MODULES.keys()
    assert "core.errors" in {target for target, _ in EDGES["models.lora.adapter"]}


def test_rooms_are_those_of_the_table() -> None:
    assert {name.split(".")[0] for name in MODULES} - {"", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    """A room imports rooms below it; a domain never imports another domain."""
    here = name.split(".")
    for imported, line in EDGES[name]:
        there = imported.split(".")
        where = f"{MODULES[name].relative_to(ROOT)}, line {line}: {imported}"
        if here[0] == there[0]:
            assert here[0] != "domains" or not {"arc", "knowledge"} <= {*here[1:2], *there[1:2]}, where
        elif name:
            assert LEVEL[there[0]] < LEVEL[here[0]], f"{where}: {here[0]} imports {there[0]}"


def test_rooms_stay_few_and_flat() -> None:
    assert len(ROOMS) <= 15
    assert len(arrows()) <= 80
    assert max(floors().values()) <= 10


def test_modules_import_in_no_circle() -> None:
    """Circles through a package's ``__init__`` are not counted: it re-exports its own modules."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    sorter = TopologicalSorter(
        {name: {i for i, _ in edges if i not in packages} for name, edges in EDGES.items() if name not in packages}
    )
    assert len(list(sorter.static_order())) > 40


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.startswith(("domains", "scoring.rewards"))))
def test_domains_and_rewards_know_no_tensor(name: str) -> None:
    heavy = [f"line {line}: {imported}" for imported, line in IMPORTS[name] if imported.split(".")[0] in HEAVY]
    assert heavy == []


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY))
def test_records_and_interfaces_need_the_standard_library_only(name: str) -> None:
    allowed = {*sys.stdlib_module_names, PACKAGE}
    assert [imported for imported, _ in IMPORTS[name] if imported.split(".")[0] not in allowed] == []


def test_callbacks_are_imported_through_the_package() -> None:
    """They are ``seal_lightning.callbacks``; under two names every class would exist twice."""
    paths = [*MODULES.values(), *(p for p in (ROOT / "tests").rglob("*.py") if "__pycache__" not in p.parts)]
    assert len(paths) > len(MODULES) + 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "callbacks" for name in names), f"{path}, line {node.lineno}"


def test_callbacks_link_points_to_the_top_level_folder() -> None:
    assert (ROOT / PACKAGE / "callbacks").resolve() == ROOT / "callbacks"


def test_private_loop_of_lightning_is_used_in_one_file() -> None:
    users = [name for name, found in IMPORTS.items() if any(i.startswith("lightning.pytorch.loops") for i, _ in found)]
    assert users == ["training.loop"]
