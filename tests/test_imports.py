"""Imports go one way; the layers below are the picture a newcomer needs."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "seal_lightning"
LAYERS: list[set[str]] = [
    {"errors"},
    {"types", "seeds", "distributed"},
    {"language_model", "schedule", "records", "rundir", "quiet"},
    {"seams", "lora", "pretrained", "attempt_store"},
    {"domains", "generation", "adaptation", "grading", "rewards"},  # peers: they do not know each other
    {"attempting", "reinforcement", "policy"},
    {"evaluation", "loops"},
    {"hooks", "batches"},
    {"module"},
    {"datamodule"},
    {"callbacks"},
    {"lightning_cli", "commands"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PEERS = LAYERS[4]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
FILES += sorted((PACKAGE / "callbacks").glob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every imported module, but for those that only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found += [f"{module}.{alias.name}" if module == "seal_lightning" else module for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    me = part_of(path)
    assert me in RANK, f"{me} has no layer: give it one in {Path(__file__).name}"
    for name in imports(path):
        assert name.split(".")[0] != "callbacks", "import seal_lightning.callbacks instead"
        if not name.startswith("seal_lightning."):
            continue
        other = name.split(".")[1]
        if other.startswith("__version__") or other == me:
            continue
        assert other in RANK, f"{path.name} imports {name}, which has no layer"
        assert RANK[other] < RANK[me], f"{path.name} ({me}) must not import {other}"


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) in {"types", "errors", "seeds", "rewards", "domains"}])
def test_what_needs_no_tensors_imports_none(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers", "lightning", "peft"}


def test_domains_do_not_import_each_other() -> None:
    domains = {path.name for path in (PACKAGE / "domains").iterdir() if path.is_dir()}
    for path in (PACKAGE / "domains").rglob("*.py"):
        mine = path.relative_to(PACKAGE / "domains").parts[0]
        for name in imports(path):
            for other in domains - {mine}:
                assert not name.startswith(f"seal_lightning.domains.{other}")


def test_lightnings_private_loop_is_in_one_file() -> None:
    users = [p.name for p in FILES if any(name.startswith("lightning.pytorch.loops") for name in imports(p))]
    assert users == ["loops.py"]
