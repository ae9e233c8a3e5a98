"""Seeds made from names, by no clock and no global generator: any attempt can be redone alone, on any rank."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the SHA-256 of the parts, for instance (run seed, round, task id, edit index, repeat)."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def attempt_id(round_index: int, task_id: str, edit_index: int, repeat: int) -> str:
    """The name of an attempt, unique within a run and the same in every run of the same configuration."""
    return f"r{round_index}-{task_id}-e{edit_index}-s{repeat}"
