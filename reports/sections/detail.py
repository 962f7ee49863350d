"""Where the seconds of trials went, how far equal trials are apart, and every tuning trial."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.meters.soundness import ledger_gap
from bench_apts.reports import record_tables, tuning_tables

from ..parts import Listing, Part

if TYPE_CHECKING:
    from ..context import Context


def part(context: Context) -> Part | None:
    """Builds the tables of what was recorded; None if nothing was."""
    groups = context.groups
    tables = [table for table in (
        record_tables.ledger(groups), record_tables.noise(groups),
        tuning_tables.trials(groups, context.gathered.device)) if table]
    if not tables:
        return None
    return Part("detail", "Seconds and trials", _finding(context),
                tuple(Listing(table) for table in tables))


def _finding(context: Context) -> str:
    records = [record for record in context.gathered.trials
               if record.trial.suite == context.suite and record.end and record.end.ledger]
    gaps = [record for record in records if ledger_gap(record) is not None]
    wall = math.fsum(record.end.wall_s for record in records if record.end)
    train = math.fsum(record.end.ledger.get("train_s", 0.0) for record in records if record.end)
    if not wall:
        return "No trial has ended with a ledger of its seconds yet."
    balance = ("all ledgers add up to the wall clock within 1 %" if not gaps else
               f"{units.plural(len(gaps), 'ledger')} missed the wall clock by more than 1 %")
    return (f"{units.percent(train / wall, 0)} of {units.seconds(wall)} in "
            f"{units.plural(len(records), 'ended trial')} went into training; {balance}.")
