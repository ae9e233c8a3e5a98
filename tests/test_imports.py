"""Imports go one way (README, "The house"): every module has a level and imports lower levels only.

Read from the source, so nothing is imported here. Imports under ``if TYPE_CHECKING`` do not count: they never run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "seal_lightning"

LEVELS: list[set[str]] = [
    {"errors"},
    {"types", "seeds", "durable", "shared_store", "names", "estimates", "device_memory"},
    {
        "chat_frames",
        "decoder_sizes",
        "edit_json",
        "endpoints",
        "lora",
        "frozen_linear",
        "launching",
        "out_of_memory",
        "quantization",
        "schedule",
        "batches",
        "distributed",
        "quiet",
        "random_state",
        "retention",
        "time_split",
        "wheels",
    },
    {"records", "journal", "checkpoints", "interruption", "config_file"},
    {"agreement", "rundir", "checkpoint_io", "run_lock", "apart"},
    {"run_options", "run_policy"},
    {"packed", "serving", "shared_loading"},
    {"sharding", "language_model"},
    {"pretrained", "attempt_store"},
    {"policy", "reporting"},
    {"full_policy"},
    {"seams"},
    {"sharded_strategy"},
    {"domains", "generation", "adaptation", "grading", "rewards", "judges"},  # peers
    {"attempting", "prompt_lengths", "reinforcement", "work_sharing"},
    {"evaluation", "loops"},
    {"hooks"},
    {"held_out_steps", "m_step", "policy_loading"},
    {"module"},
    {"datamodule"},
    {"callbacks"},
    {"incorporation"},
    {"answering"},
    {"openai_api"},
    {"lightning_cli"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}

HEAVY = {"torch", "torchmetrics", "transformers", "lightning", "peft", "safetensors", "tensorboard", "accelerate"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package, the callbacks too, by dotted name below the package."""
    for folder, prefix in ((ROOT / PACKAGE, ()), (ROOT / "callbacks", ("callbacks",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if "__pycache__" in parts or (folder.name == PACKAGE and parts[0] == "callbacks"):
                continue  # the symlink's target is read once
            yield ".".join(part for part in parts if part != "__init__"), path


def runtime_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(Dotted name, line) of every import that can run, function bodies included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports here are absolute"
            assert node.module is not None
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from runtime_imports(ast.Module(body=node.orelse, type_ignores=[]))
        else:
            yield from runtime_imports(node)


MODULES = dict(modules())
IMPORTS = {name: list(runtime_imports(ast.parse(path.read_text()))) for name, path in MODULES.items()}


def within_package(imported: str) -> str | None:
    """The part behind ``seal_lightning.``, or None for what is not ours."""
    return imported.removeprefix(f"{PACKAGE}.") if imported.startswith(f"{PACKAGE}.") else None


def test_the_reader_sees_what_is_there() -> None:
    """Otherwise the tests below would pass on nothing."""
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a.b\nelse:\n    import c\n"
    source += "def f():\n    from d.e import f as g\n    class K:\n        import h as i\n"
    assert [name for name, _ in runtime_imports(ast.parse(source))] == ["typing.TYPE_CHECKING", "c", "d.e.f", "h"]
    assert len(MODULES) > 40
    assert {"callbacks.reward_filter", "domains.knowledge.domain", "module", ""} <= MODULES.keys()
    assert ("seal_lightning.errors.ConfigError") in {name for name, _ in IMPORTS["lora.adapter"]}


def test_every_module_has_a_level() -> None:
    names = {name.split(".")[0] for name in MODULES} - {""}
    assert names - LEVEL.keys() == set(), "give a new module its level in LEVELS"
    assert LEVEL.keys() - names <= {"commands"}, "LEVELS names what is gone"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down(name: str) -> None:
    """Lower levels only; inside a package anything, but a domain never another one."""
    for imported, line in IMPORTS[name]:
        below = within_package(imported)
        if below is None:
            continue
        assert name != "", f"{PACKAGE}/__init__.py imports {imported}: it stays light"
        here, there = name.split("."), below.split(".")
        where = f"{MODULES[name].relative_to(ROOT)}, line {line}: {imported}"
        assert there[0] in LEVEL, where
        if here[0] == there[0]:
            assert here[0] != "domains" or here[1] == there[1], f"{where}: domains do not import each other"
        else:
            assert LEVEL[there[0]] < LEVEL[here[0]], f"{where}: level {LEVEL[here[0]]} imports level {LEVEL[there[0]]}"


@pytest.mark.parametrize("name", sorted(n for n in MODULES if n.split(".")[0] in {"domains", "rewards"}))
def test_domains_and_rewards_know_no_tensor(name: str) -> None:
    heavy = [f"line {line}: {imported}" for imported, line in IMPORTS[name] if imported.split(".")[0] in HEAVY]
    assert heavy == []


@pytest.mark.parametrize("name", ["types", "errors", "seeds", "seams"])
def test_the_vocabulary_needs_the_standard_library_only(name: str) -> None:
    allowed = {*sys.stdlib_module_names, PACKAGE}
    assert [imported for imported, _ in IMPORTS[name] if imported.split(".")[0] not in allowed] == []


def test_nobody_imports_the_callbacks_by_their_folder() -> None:
    """They are ``seal_lightning.callbacks``; under two names every class would exist twice."""
    paths = [*MODULES.values(), *(p for p in (ROOT / "tests").rglob("*.py") if "__pycache__" not in p.parts)]
    assert len(paths) > len(MODULES) + 5
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "callbacks" for name in names), f"{path}, line {node.lineno}"


def test_the_folder_and_the_package_are_one() -> None:
    assert (ROOT / PACKAGE / "callbacks").resolve() == ROOT / "callbacks"


def test_lightning_s_private_loop_is_in_one_file() -> None:
    users = [name for name, found in IMPORTS.items() if any(i.startswith("lightning.pytorch.loops") for i, _ in found)]
    assert users == ["loops"]
