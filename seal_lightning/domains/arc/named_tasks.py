"""Selections of tasks that have a name."""

from __future__ import annotations

NAMED_TASKS: dict[str, tuple[str, ...]] = {
    "paper-train": (
        "44f52bb0",
        "4be741c5",
        "5582e5ca",
        "5614dbcf",
        "5bd6f4ac",
        "6150a2bd",
        "67e8384a",
        "6d0aefbc",
        "6e02f1e3",
        "8be77c9e",
        "8d5021e8",
        "8e1813be",
    ),
    "paper-evaluation": (
        "59341089",
        "68b67ca3",
        "903d1b4a",
        "af24b4cc",
        "b1fc8b8e",
        "bc4146bd",
        "c7d4e6ad",
        "ce8d95cc",
        "358ba94e",
        "66e6c45b",
    ),
}
"""Task ids by the selection's name. ``paper-train`` is in the training split of ARC-AGI-1 and ``paper-evaluation`` in its
evaluation split, both as the released code has them (§3.3 speaks of 11 and 8)."""
