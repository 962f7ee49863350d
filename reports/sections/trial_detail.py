"""Where the seconds of trials went, how far equal trials are apart, and every trial."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.meters.soundness import ledger_gap
from bench_apts.reports.cells import pace, peak_memory, reached
from bench_apts.reports.cost_tables import STATUS
from bench_apts.reports.section_parts import Section, tables
from bench_apts.reports.sections.main_table import tuning_trials_table
from bench_apts.reports.table import Table, Value, grouped_table, known, mono, name, number, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.core.records import End, TrialRecord
    from bench_apts.reports.canvas import Figure
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context, Part

SECTION = Section("detail", "Seconds and trials", order=90)

_PARTS = ("setup_s", "compile_s", "warmup_s", "train_s", "data_s", "eval_s", "log_s",
          "checkpoint_s")
"""Parts of a ledger in the order of the table; others follow."""


def part(context: Context) -> Part | None:
    """Build the tables of what was recorded; None if nothing was."""
    found = tables(_ledger_table(context.groups), _gpu_table(context.groups),
                   _noise_table(context.groups),
                   tuning_trials_table(context.groups, context.gathered.device))
    return SECTION.part(_finding(context), found) if found else None


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


def _ledger_table(groups: Sequence[CellGroup]) -> Table | None:
    """Return where the wall-clock seconds of a trial went: means, so that the parts add up."""
    cells = [(cell, [r.end for r in (cell.seeds or cell.own) if r.end and r.end.ledger])
             for group in groups for cell in group.cells]
    named = {part for _, ends in cells for end in ends
             for part, value in end.ledger.items() if value > 0}
    parts = [p for p in _PARTS if p in named] + sorted(named.difference(_PARTS))
    if not parts:
        return None
    return grouped_table(
        "ledger", "Where the seconds went",
        "Means over an optimizer's seeds (over its tuning trials where there is no seed). The "
        "parts must add up to the wall clock within 1 %.",
        (("Optimizer", ""), ("N", "ranks"), *((p.removesuffix("_s"), "") for p in parts),
         ("Sum", "of parts"), ("Wall", "clock"), ("Off by", ""), ("Trials", "averaged")),
        ([_ledger_row(cell, ends, parts) for cell, ends in cells if ends and cell.ranks == ranks]
         for ranks in dict.fromkeys(cell.ranks for cell, ends in cells if ends)))


def _ledger_row(cell: ReportCell, ends: Sequence[End], parts: Sequence[str]) -> tuple[Value, ...]:
    means = {p: statistics.fmean(end.ledger.get(p, 0.0) for end in ends) for p in parts}
    wall, total = statistics.fmean(end.wall_s for end in ends), sum(means.values())
    return (name(cell.label, suite=cell.suite.name), number(str(cell.ranks), ranks=cell.ranks),
            *(known(part, value, units.format_seconds) for part, value in means.items()),
            known("parts_s", total, units.format_seconds),
            known("wall_s", wall, units.format_seconds),
            known("difference", (total - wall) / wall if wall else None,
                  lambda share: units.format_percent(share, 2)),
            number(str(len(ends)), trials=len(ends)))


def _gpu_table(groups: Sequence[CellGroup]) -> Table | None:
    """Return the readings of the GPUs' sensors; None without any."""
    rows = [[row for cell in group.cells if (row := _gpu_row(cell))] for group in groups]
    return grouped_table(
        "gpus", "GPUs in training",
        "Readings of the driver's sensors on all ranks, in an optimizer's final trainings, or in "
        "its tuning trials if it has no final training. Power and clock: mean. Temperature: "
        "maximum. Throttled: share of readings with a clock reduced by heat or by a power limit. "
        "Memory: largest peak of one GPU, as allocated by torch, and as counted by the driver, "
        "which includes CUDA's own memory and that of other programs.",
        (("Optimizer", ""), ("N", "ranks"), ("Power", "mean"), ("Temperature", "highest"),
         ("Clock", "mean"), ("Throttled", "of readings"), ("Memory", "of the allocator"),
         ("Memory", "of the driver"), ("Trials", "read")),
        filter(None, rows)) if any(rows) else None


def _gpu_row(cell: ReportCell) -> tuple[Value, ...] | None:
    """Return an optimizer's readings; None if none of its trials has any."""
    read = [(record, gpus) for record in cell.seeds or cell.own
            if (gpus := [gpu for gpu in (record.end and record.end.gpus) or [] if gpu])]
    if not read:
        return None

    def values(sensor: str) -> list[float]:
        return [value for _, gpus in read for gpu in gpus
                if (value := getattr(gpu, sensor)) is not None]

    def mean(sensor: str) -> float | None:
        return statistics.fmean(values(sensor)) if values(sensor) else None

    return (name(cell.label, suite=cell.suite.name), number(str(cell.ranks), ranks=cell.ranks),
            known("power_w", mean("power_w"), lambda watts: f"{units.digits(watts)} W"),
            known("temperature_c", max(values("temperature_c"), default=None),
                  lambda degrees: f"{units.digits(degrees)} °C"),
            known("clock_mhz", mean("clock_mhz"), lambda clock: f"{units.digits(clock)} MHz"),
            known("throttled", mean("throttled"), units.format_percent),
            known("peak_memory_bytes", max(peak_memory(record) for record, _ in read),
                  units.format_size),
            known("driver_memory_bytes", max(values("memory_bytes"), default=None),
                  units.format_size),
            number(str(len(read)), trials=len(read)))


def _noise_table(groups: Sequence[CellGroup]) -> Table:
    """Return the A/A pairs: equal trials whose times differ by nothing but noise."""
    return grouped_table(
        "noise", "Noise: equal trials",
        "The first optimizer's final trainings, each run twice as far apart in time as the study "
        "allows. Whatever their times differ by, over the whole training or up to the target, is "
        "this machine's noise; a smaller difference between two single trainings tells nothing.",
        (("Optimizer", ""), ("N", "ranks"), ("Seed", ""), ("Time", "of a sample"),
         ("Twin", "time of a sample"), ("Ratio", "twin to first"), ("Time", "to target"),
         ("Twin", "time to target"), ("Ratio", "twin to first"), ("Final weights", "")),
        ([_noise_row(cell, *pair) for cell in group.cells for pair in cell.pairs]
         for group in groups))


def _noise_row(cell: ReportCell, first: TrialRecord, twin: TrialRecord) -> tuple[Value, ...]:
    assert first.end
    assert twin.end
    same = first.end.final_weights_sha256 == twin.end.final_weights_sha256
    return (name(cell.label, suite=cell.suite.name), number(str(cell.ranks), ranks=cell.ranks),
            number(str(first.trial.repetition + 1), repetition=first.trial.repetition),
            *_twin_seconds("train_s_per_sample", "ratio", pace(first), pace(twin)),
            *_twin_seconds("train_s_to_target", "ratio_to_target", reached(first), reached(twin)),
            words("equal" if same else "different", weights_equal=same))


def _twin_seconds(column: str, ratio: str, first: float, twin: float) -> tuple[Value, ...]:
    """Return the seconds of a trial and of its twin, 0 where there are none, and their ratio."""
    return (known(column, first or None, units.format_seconds),
            known(f"twin_{column}", twin or None, units.format_seconds),
            known(ratio, twin / first if first and twin else None, units.digits))


def trials_table(records: Sequence[TrialRecord]) -> Table:
    """Return every trial that the report is made of, with its seeds, hashes and file."""
    ordered = sorted(records, key=lambda r: (
        r.trial.suite.name, r.trial.ranks, r.trial.label, r.trial.stage != "tune",
        r.trial.repetition, r.header.run_id))
    return Table(
        "trials", "Trials",
        "Equal initial weights and data orders mean paired comparisons: for the same repetition "
        "they agree over optimizers and N.",
        (("Optimizer", ""), ("Suite", ""), ("N", "ranks"), ("Stage", ""), ("No.", ""),
         ("Ended", ""), ("Seeds", "data, init"), ("Initial weights", "sha256"),
         ("Data order", "sha256"), ("Operations", "FLOP, all ranks"), ("Attempts", ""),
         ("File", "and its sha256")), tuple(map(_trial_row, ordered)))


def _trial_row(record: TrialRecord) -> tuple[Value, ...]:
    trial, start = record.trial, record.start
    status = record.end.status if record.end else "unfinished"
    weights = (start.initial_weights_sha256 if start else "") or ""
    order = start.data_order_sha256 if start else ""
    file = "/".join(PurePath(record.path).parts[-2:])
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
             seed_init=trial.seeds.init) if record.measures("seeds") else mono(
                 units.NONE, seed_data=None, seed_init=None),
        mono(weights[:10] or units.NONE, initial_weights_sha256=weights),
        mono(order[:10] or units.NONE, data_order_sha256=order),
        known("flops", record.evals[-1].flops if record.evals else None, units.format_count),
        number(str(record.attempts), attempts=record.attempts),
        mono(file, fingerprint[:10], file_sha256=fingerprint, run_id=record.header.run_id,
             file=file, started=record.header.time,
             data_sha256=trial.data_sha256, plugin_sha256=trial.plugin_sha256,
             configuration=trial.configuration))


def figures_table(drawn: Sequence[Figure]) -> Table:
    """Return every figure with the file of its numbers."""
    return Table(
        "figures", "Figures and what they are drawn from",
        "Each is drawn from the CSV file named in its row, whose numbers come from the trials "
        "above. bench-apts report with the results folder draws them all again, byte for byte.",
        (("Figure", ""), ("Shows", ""), ("Numbers", "")),
        tuple((mono(f"figures/{figure.slug}.svg", figure=figure.slug),
               words(figure.title, title=figure.title),
               mono(f"tables/{figure.data.name}.csv" if figure.data else units.NONE,
                    numbers=figure.data.name if figure.data else None))
              for figure in drawn))


def status_counts(records: Sequence[TrialRecord]) -> Mapping[str, int]:
    """Count how the trials ended, by status."""
    counted = Counter(r.end.status if r.end else "unfinished" for r in records)
    return dict(sorted(counted.items()))
