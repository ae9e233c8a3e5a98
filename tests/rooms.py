"""The rooms of the package and the imports between them, read from the source.

python tests/rooms.py   # lines and files per room, floors, arrows
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "seal_lightning"
ROOMS = (
    "core",
    "storage",
    "distributed",
    "models",
    "domains",
    "generation",
    "inner_loop",
    "scoring",
    "attempts",
    "evaluation",
    "training",
    "reporting",
    "callbacks",
    "adapt",
    "cli",
)
"""Every room imports only rooms that stand before it."""


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of the package, callbacks included, by its dotted name below the package."""
    for folder, prefix in ((ROOT / PACKAGE, ()), (ROOT / "callbacks", ("callbacks",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if "__pycache__" in parts or (folder.name == PACKAGE and parts[0] == "callbacks"):
                continue  # the symlink's target is read once
            yield ".".join(part for part in parts if part != "__init__"), path


def runtime_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every import that can run: function bodies count, ``if TYPE_CHECKING`` does not."""
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


def resolve(imported: str) -> str | None:
    """Return the module of this package that a dotted name refers to, or None for a name of another package."""
    if not imported.startswith(f"{PACKAGE}."):
        return None
    parts = imported.removeprefix(f"{PACKAGE}.").split(".")
    return next((name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in MODULES), "")


EDGES = {name: {(target, line) for i, line in found if (target := resolve(i))} for name, found in IMPORTS.items()}
"""(imported module, line) by importing module."""


def arrows() -> dict[tuple[str, str], int]:
    """Return the number of imports by (importing room, imported room)."""
    found: dict[tuple[str, str], int] = {}
    for name, edges in EDGES.items():
        for target, _ in edges:
            pair = name.split(".")[0], target.split(".")[0]
            if name and pair[0] != pair[1] and pair[0] in ROOMS:
                found[pair] = found.get(pair, 0) + 1
    return found


def floors() -> dict[str, int]:
    """Return each room's floor: 1 for a room that imports none, else one above the highest room it imports."""
    below: dict[str, set[str]] = {room: {b for a, b in arrows() if a == room} for room in ROOMS}
    found: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        found[room] = 1 + max((found[other] for other in below[room]), default=0)
    return found


def main() -> None:
    """Print the house as a Markdown table."""
    level, between = floors(), arrows()
    rows = ["| room | floor | files | lines | imports |", "|---|---|---|---|---|"]
    total = 0
    for room in ROOMS:
        paths = [path for name, path in MODULES.items() if name.split(".")[0] == room]
        lines = sum(path.read_text().count("\n") for path in paths)
        total += lines
        imported = ", ".join(b for b in ROOMS if (room, b) in between)
        rows.append(f"| `{room}/` | {level[room]} | {len(paths)} | {lines:,} | {imported} |")
    rows.append(
        f"\n{len(ROOMS)} rooms on {max(level.values())} floors, {len(between)} arrows, {len(MODULES)} files, {total:,} lines"
    )
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
