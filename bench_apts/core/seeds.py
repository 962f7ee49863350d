"""Seeds derived by hashing: every optimizer and every N meets the same data and weights."""

from __future__ import annotations

import hashlib


def derive(base: int, role: str, suite: str, repetition: int) -> int:
    """Derives a 63-bit seed from a base seed and what it is for.

    Neither the optimizer nor the number of ranks enters, which makes comparisons paired.

    Args:
        base: The study's base seed.
        role: What it is for: ``"data"`` or ``"init"``, prefixed ``"tune-"`` in tuning so that
            no seed used for selection is ever used for reporting; or a search, by its name.
        suite: The suite's name.
        repetition: The number of the repetition, from 0.
    """
    text = f"{base}/{role}/{suite}/{repetition}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
