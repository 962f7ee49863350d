"""Where the seconds of trials went, how far equal trials are apart, and every tuning trial.

Tables of what was recorded: bytes by collective, the ledger, every trial.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.meters.soundness import ledger_gap
from bench_apts.reports.cells import pace, reached
from bench_apts.reports.cost_tables import STATUS, UNCOUNTED
from bench_apts.reports.section_parts import Listing, Section
from bench_apts.reports.sections import main_table
from bench_apts.reports.table import Table, Value, mono, name, number, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.core.records import Traffic, TrialRecord
    from bench_apts.reports.canvas import Figure
    from bench_apts.reports.cells import CellGroup
    from bench_apts.reports.section_parts import Context, Part

_PHASES = ("setup", "warmup", "train", "validate", "eval", "checkpoint")
_PARTS = ("setup_s", "compile_s", "warmup_s", "train_s", "data_s", "eval_s", "log_s",
          "checkpoint_s")


def communication_table(groups: Sequence[CellGroup]) -> Table | None:
    """Bytes by phase and collective of one training of each optimizer; None if none moved."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for group in groups:
        for cell in group.cells:
            if cell.communication is None:
                continue
            record, comm = cell.communication
            breaks.add(len(rows))
            phases = sorted(comm, key=lambda p: (_PHASES.index(p) if p in _PHASES else 9, p))
            for phase in phases:
                rows += [(
                    name(cell.label, suite=cell.suite.name),
                    number(str(cell.ranks), ranks=cell.ranks),
                    words(phase, phase=phase),
                    mono(collective, collective=collective),
                    number(f"{traffic.calls:,}", calls=traffic.calls),
                    *_bytes_sent(traffic),
                    mono(record.header.run_id, run_id=record.header.run_id),
                ) for collective, traffic in sorted(comm[phase].items())]
    if not rows:
        return None
    return Table(
        "communication", "Bytes by phase and collective",
        "Of one training of each optimizer, from its first to its last step. Payload: the "
        "logical tensors, as often as they were sent. Ideal: what one rank must send at least, "
        "averaged over ranks; the number that all comparisons use. Bytes to target are those of "
        "the phases train and validate (what a method sends to be evaluated); eval is what the "
        "harness sends.",
        (("Optimizer", ""), ("N", "ranks"), ("Phase", ""), ("Collective", ""), ("Calls", ""),
         ("Payload", "logical tensors"), ("Ideal", "sent per rank"), ("Run", "")),
        tuple(rows), frozenset(breaks))


def _bytes_sent(traffic: Traffic) -> tuple[Value, Value]:
    """Payload and ideal bytes; of what is unmeasured no more than the payload that is known."""
    payload = number(units.format_size(traffic.payload_bytes), payload_bytes=traffic.payload_bytes)
    if not traffic.unmeasured:
        return payload, number(
            units.format_size(traffic.ideal_bytes), ideal_bytes=traffic.ideal_bytes
        )
    if not traffic.payload_bytes:
        payload = Value(UNCOUNTED, numbers={"payload_bytes": None})
    return payload, Value(UNCOUNTED, str(traffic.unmeasured), numbers={"ideal_bytes": None})


def ledger_table(groups: Sequence[CellGroup]) -> Table | None:
    """Where the wall-clock seconds of a trial went: means, so that the parts add up."""
    per_cell = [(cell, [r.end for r in (cell.seeds or cell.own) if r.end and r.end.ledger])
                for group in groups for cell in group.cells]
    ends = [end for _, found in per_cell for end in found]
    named = {part for end in ends for part, value in end.ledger.items() if value > 0}
    parts = [p for p in _PARTS if p in named] + sorted(named.difference(_PARTS))
    if not parts:
        return None
    rows: list[tuple[Value, ...]] = []
    breaks, previous = set(), None
    for cell, found in per_cell:
        if not found:
            continue
        if cell.ranks != previous:
            breaks.add(len(rows))
            previous = cell.ranks
        means = {p: statistics.fmean(end.ledger.get(p, 0.0) for end in found) for p in parts}
        wall = statistics.fmean(end.wall_s for end in found)
        total = sum(means.values())
        rows.append(
            (
                name(cell.label, suite=cell.suite.name),
                number(str(cell.ranks), ranks=cell.ranks),
                *(
                    Value(units.format_seconds(value), numbers={part: value})
                    for part, value in means.items()
                ),
                number(units.format_seconds(total), parts_s=total),
                number(units.format_seconds(wall), wall_s=wall),
                number(
                    units.format_percent((total - wall) / wall, 2) if wall else units.NONE,
                    difference=(total - wall) / wall if wall else None,
                ),
                number(str(len(found)), trials=len(found)),
            )
        )
    return Table(
        "ledger", "Where the seconds went",
        "Means over an optimizer's seeds (over its tuning trials where there is no seed). The "
        "parts must add up to the wall clock within 1 %.",
        (("Optimizer", ""), ("N", "ranks"), *((p.removesuffix("_s"), "") for p in parts),
         ("Sum", "of parts"), ("Wall", "clock"), ("Off by", ""), ("Trials", "averaged")),
        tuple(rows), frozenset(breaks))


def noise_table(groups: Sequence[CellGroup]) -> Table | None:
    """The A/A pairs: equal trials whose times differ by nothing but noise; None without any."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for group in groups:
        breaks.add(len(rows))
        for cell in group.cells:
            for first, twin in cell.pairs:
                assert first.end
                assert twin.end
                same = first.end.final_weights_sha256 == twin.end.final_weights_sha256
                rows.append((
                    name(cell.label, suite=cell.suite.name),
                    number(str(cell.ranks), ranks=cell.ranks),
                    number(str(first.trial.repetition + 1), repetition=first.trial.repetition),
                    *_twin_seconds("train_s_per_sample", "ratio", pace(first), pace(twin)),
                    *_twin_seconds("train_s_to_target", "ratio_to_target", reached(first),
                            reached(twin)),
                    words("equal" if same else "different", weights_equal=same)))
    if not rows:
        return None
    return Table(
        "noise", "Noise: equal trials",
        "The first optimizer's final trainings, each run twice as far apart in time as the study "
        "allows. Whatever their times differ by, over the whole training or up to the target, is "
        "this machine's noise; a smaller difference between two single trainings tells nothing.",
        (("Optimizer", ""), ("N", "ranks"), ("Seed", ""), ("Time", "of a sample"),
         ("Twin", "time of a sample"), ("Ratio", "twin to first"), ("Time", "to target"),
         ("Twin", "time to target"), ("Ratio", "twin to first"), ("Final weights", "")),
        tuple(rows), frozenset(breaks))


def _twin_seconds(
    column: str, ratio: str, first: float, twin: float
) -> tuple[Value, Value, Value]:
    """Seconds of a trial and of its twin, 0 where there are none, and their ratio."""
    found = twin / first if first and twin else None
    return (_seconds(column, first), _seconds(f"twin_{column}", twin),
            number(units.digits(found) if found else units.NONE, "", **{ratio: found}))


def _seconds(column: str, value: float) -> Value:
    return number(
        units.format_seconds(value) if value else units.NONE, "", **{column: value or None}
    )


def trials_table(records: Sequence[TrialRecord]) -> Table:
    """Every trial that the report is made of, with its seeds, hashes and file."""
    ordered = sorted(records, key=lambda r: (
        r.trial.suite.name, r.trial.ranks, r.trial.label, r.trial.stage != "tune",
        r.trial.repetition, r.header.run_id))
    rows = tuple(_trial_row(record) for record in ordered)
    return Table(
        "trials", "Trials",
        "Equal initial weights and data orders mean paired comparisons: for the same repetition "
        "they agree over optimizers and N.",
        (("Optimizer", ""), ("Suite", ""), ("N", "ranks"), ("Stage", ""), ("No.", ""),
         ("Ended", ""), ("Seeds", "data, init"), ("Initial weights", "sha256"),
         ("Data order", "sha256"), ("Operations", "FLOP, all ranks"), ("Attempts", ""),
         ("File", "and its sha256")), rows)


def figures_table(drawn: Sequence[Figure]) -> Table | None:
    """Every figure with the file of its numbers; None without any."""
    if not drawn:
        return None
    return Table(
        "figures", "Figures and what they are drawn from",
        "Each is drawn from the CSV file beside it, whose numbers come from the trials above. "
        "bench-apts report with the results folder draws them all again, byte for byte.",
        (("Figure", ""), ("Shows", ""), ("Numbers", "")),
        tuple((mono(f"figures/{figure.slug}.svg", figure=figure.slug),
               words(figure.title, title=figure.title),
               mono(f"tables/{figure.data.name}.csv" if figure.data else units.NONE,
                    numbers=figure.data.name if figure.data else None))
              for figure in drawn))


def _trial_row(record: TrialRecord) -> tuple[Value, ...]:
    trial, start = record.trial, record.start
    status = record.end.status if record.end else "unfinished"
    weights = (start.initial_weights_sha256 if start else "") or ""
    order = start.data_order_sha256 if start else ""
    flops = record.evals[-1].flops if record.evals else None
    file: str = "/".join(PurePath(record.path).parts[-2:])
    fingerprint = hashlib.sha256(Path(record.path).read_bytes()).hexdigest()
    return (
        name(trial.label),
        words(trial.suite.name, suite=trial.suite.name),
        number(str(trial.ranks), ranks=trial.ranks),
        words(trial.stage, stage=trial.stage),
        number(str(trial.repetition), repetition=trial.repetition),
        words(STATUS.get(status, status), status=status,
              reason=record.end.reason if record.end else None),
        mono(f"{trial.seeds.data}, {trial.seeds.init}", seed_data=trial.seeds.data,
             seed_init=trial.seeds.init),
        mono(weights[:10] or units.NONE, initial_weights_sha256=weights),
        mono(order[:10] or units.NONE, data_order_sha256=order),
        number(units.NONE if flops is None else units.format_count(flops), flops=flops),
        number(str(record.attempts), attempts=record.attempts),
        mono(file, fingerprint[:10], file_sha256=fingerprint, run_id=record.header.run_id,
             file=file, started=record.header.time,
             data_sha256=trial.data_sha256, plugin_sha256=trial.plugin_sha256,
             configuration=trial.configuration),
    )


def status_counts(records: Sequence[TrialRecord]) -> Mapping[str, int]:
    """Counts how the trials ended, by status."""
    counted = Counter(r.end.status if r.end else "unfinished" for r in records)
    return dict(sorted(counted.items()))


SECTION = Section("detail", "Seconds and trials", order=90)


def part(context: Context) -> Part | None:
    """Builds the tables of what was recorded; None if nothing was."""
    groups = context.groups
    tables = [table for table in (
        ledger_table(groups), noise_table(groups),
        main_table.tuning_trials_table(groups, context.gathered.device)) if table]
    if not tables:
        return None
    return SECTION.part(_finding(context),
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
    return (f"{units.format_percent(train / wall, 0)} of {units.format_seconds(wall)} in "
            f"{units.plural(len(records), 'ended trial')} went into training; {balance}.")
