"""Reads what ``bench-apts meter`` wrote: the last sums of each rank, and their table."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bench_apts.core import units
from bench_apts.core.errors import UserError
from bench_apts.core.files import UNREADABLE
from bench_apts.core.wire import traffic_complaints
from bench_apts.meters.meter_lines import MeterHeader, MeterInterval
from bench_apts.meters.traffic_table import TrafficTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class MeteredRank(NamedTuple):
    """What one process wrote: its first line and its last one."""

    header: MeterHeader
    last: MeterInterval


def read_ranks(folder: Path) -> list[MeteredRank]:
    """Return what the processes of a folder wrote, by rank and in the order of their start.

    A line that was cut off when its process was killed is left out.

    Raises:
        UserError: The folder does not exist, or no process wrote a line into it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one that `bench-apts meter --out` wrote")
    found = []
    for path in folder.glob("rank-*.jsonl"):
        lines = list(_lines(path))
        if len(lines) > 1 and isinstance(lines[0], MeterHeader):
            found.append(MeteredRank(lines[0], lines[-1]))  # type: ignore[arg-type]
    if not found:
        raise UserError(f"{folder} has no lines of any rank: no process of the command made a "
                        "process group, or its Python does not have bench-apts installed")
    return sorted(found, key=lambda rank: (rank.header.rank, rank.header.time))


def _lines(path: Path) -> Iterator[MeterHeader | MeterInterval]:
    for line in path.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=MeterHeader | MeterInterval)
        except UNREADABLE:
            continue


def table_of(ranks: Sequence[MeteredRank]) -> TrafficTable:
    """Return the table of all ranks, with what is to be said of their lines.

    Of a rank that was started several times the last process counts.
    """
    latest = list({rank.header.rank: rank for rank in ranks}.values())
    table = TrafficTable.of_ranks([
        TrafficTable(rank.last.rows, rank.last.steps, rank.last.step_seconds)
        for rank in latest])
    return dataclasses.replace(table, notes=tuple(_notes(latest, len(ranks) - len(latest))))


def _notes(latest: Sequence[MeteredRank], earlier: int) -> Iterator[str]:
    if earlier:
        yield (f"{units.plural(earlier, 'earlier process')} of these ranks is not in the table"
               if earlier == 1 else
               f"{earlier} earlier processes of these ranks are not in the table")
    cut = [rank.header.rank for rank in latest if not rank.last.end]
    if cut:
        seconds = min(rank.last.seconds for rank in latest if not rank.last.end)
        yield (f"{_ranks(cut)} did not end by itself; what followed second {seconds:.1f} is "
               "missing")
    for rank in latest:
        if rank.last.error:
            yield f"rank {rank.header.rank} ended in {rank.last.error}"
    missing = max(rank.header.world_size for rank in latest) - len(latest)
    if missing > 0:
        yield f"{units.plural(missing, 'rank')} wrote nothing"
    unlike = {rank.header.mechanism for rank in latest if rank.header.mechanism.startswith("none")}
    for mechanism in sorted(unlike):
        yield f"collectives are not counted: {mechanism}"
    yield from _audit_notes(latest)


def _audit_notes(latest: Sequence[MeteredRank]) -> Iterator[str]:
    audits = [rank.last.audit for rank in latest if rank.last.audit is not None]
    read = [audit for audit in audits if not audit.skipped]
    if read:
        worst = max(read, key=lambda audit: max(
            abs(part.difference) for part in audit.parts.values()))
        for part in worst.parts.values():
            yield (f"rank {worst.rank}: the kernel saw {part.seen_bytes:,} bytes, its collectives "
                   f"account for {part.predicted_bytes:,}; no rank differs by more")
        for text in traffic_complaints(worst):
            yield f"{text}, or by a socket of the script's own"
    for reason in sorted({audit.skipped for audit in audits if audit.skipped}):
        yield f"not audited: {reason}"


def _ranks(numbers: Sequence[int]) -> str:
    return f"{'rank' if len(numbers) == 1 else 'ranks'} {', '.join(map(str, numbers))}"
