"""Seeds derived from names instead of a clock or a global generator: any attempt can be repeated alone, on any rank."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from the SHA-256 of the parts, for instance (run seed, round, task id, edit index, repeat).

    Example:
        >>> derive_seed(42, 1, "task-7", 0, 2) == derive_seed(42, 1, "task-7", 0, 2) != derive_seed(43, 1, "task-7", 0, 2)
        True
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def attempt_id(round_index: int, task_id: str, edit_index: int, repeat: int) -> str:
    """Return the id of an attempt, unique within a run and equal in every run of the same configuration.

    Example:
        >>> attempt_id(0, "stone-3", 4, 2)
        'r0-stone-3-e4-s2'
    """
    return f"r{round_index}-{task_id}-e{edit_index}-s{repeat}"
