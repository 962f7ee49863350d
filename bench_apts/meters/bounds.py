"""How far the kernel's bytes may be from the predicted ones; without torch, for the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench_apts.core.records import Audited

_TOLERANCE_BYTES, _TOLERANCE = 1000, 0.001


def complaints(audited: Audited) -> list[str]:
    """Returns a line for each part in which the kernel saw other bytes than were predicted."""
    lines: list[str] = []
    if audited.skipped:  # some bytes could not be predicted, or not be read
        return lines
    for name, part in audited.parts.items():
        allowed = max(_TOLERANCE_BYTES, _TOLERANCE * part.predicted_bytes) + part.unsure_bytes
        if abs(part.difference) > allowed:
            lines.append(
                f"rank {audited.rank} sent {part.seen_bytes} bytes in {name}, its collectives "
                f"account for {part.predicted_bytes}: something communicated behind the meter's "
                "back")
    return lines
