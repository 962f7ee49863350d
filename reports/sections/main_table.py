"""The main table: every optimizer at every N, tuning included; what was tried, what was frozen."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core import units
from bench_apts.core.currencies import format_cost, headline
from bench_apts.reports import cost_tables, table
from bench_apts.reports.cost_tables import STATUS
from bench_apts.reports.section_parts import Section, tables
from bench_apts.stats.trial_costs import all_known, best_metric, final_metric, outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context, Part
    from bench_apts.reports.table import Plain
    from bench_apts.stats.trial_costs import TargetOutcome

SECTION = Section("main", "Main table", order=10, compares=True, evidence=True)

_BILLED: tuple[Currency, ...] = ("core_seconds", "samples", "wire_bytes", "gradient_evaluations")
"""Currencies in which the file has what a tuning trial was billed."""

FASTEST = "fastest to the target"
BEST = "best at the end"


def part(context: Context) -> Part | None:
    """Build the main table of a suite, what was frozen, and the cost at each level."""
    groups, device = context.groups, context.gathered.device
    return SECTION.part(_finding(context), tables(
        cost_tables.main_table(groups, device, context.crowded), folded=False), more=tables(
            frozen_table(groups), cost_tables.levels_table(groups, device), folded=False))


def _finding(context: Context) -> str:
    parts = [text for group in context.groups if (text := _at(group, context.gathered.device))]
    if not parts:
        return "Nothing has been run yet."
    text = "; ".join(parts)
    return f"{units.capitalized(text)}. {context.conditions}"


def _at(group: CellGroup, device: str) -> str:
    cells, currency = [cell for cell in group.cells if cell.draws], headline(device)
    if not cells:
        return ""
    reached = table.rank_by_cost(cells, currency)
    where, count = f"at N = {group.ranks}, ", units.plural(len(cells), "optimizer")
    if not reached:
        return f"{where}none of {count} reached the target"
    costs = [format_cost(currency, cell.ert(currency).cost, device) for cell in reached]
    span = costs[0] if len(costs) == 1 else units.between(costs[0], costs[-1])
    return f"{where}{len(reached)} of {count} reached the target, at an expected cost of {span}"


def tuning_trials_table(groups: Sequence[CellGroup], device: str) -> table.Table:
    """Return every tuning trial: what it tried, how it ended and what it cost."""
    return table.grouped_table(
        "tuning", "Tuning trials",
        "Only settings that differ between an optimizer's trials are shown; the file has all.",
        (("Optimizer", ""), ("N", "ranks"), ("Trial", ""), ("Settings", ""), ("Ended", ""),
         ("Cost", "to target"), ("Cost", "billed"),
         ("Best", f"validation {units.metric_title(groups[0].suite.target.metric)}")),
        (_tuning_rows(cell, mine, device) for group in groups for cell in group.cells
         if (mine := cell.checks if cell.search_owner else cell.tune)))


def _tuning_rows(cell: ReportCell, mine: Sequence[TrialRecord],
                 device: str) -> list[tuple[table.Value, ...]]:
    results = map(outcome, mine) if cell.search_owner else cell.recorded
    settled = _settled(cell)
    return [_tuning_row(cell, record, result, settled, device)
            for record, result in zip(mine, results, strict=True)]


def _tuning_row(cell: ReportCell, record: TrialRecord, result: TargetOutcome,
                settled: Mapping[str, Any], device: str) -> tuple[table.Value, ...]:
    trial = record.trial
    status, target = record.end.status if record.end else "unfinished", trial.suite.target
    best = best_metric(record) * (1 if target.direction == "max" else -1)
    currency = headline(device)
    billed: dict[str, Plain] = {f"{key}_spent": result.spent[key] for key in _BILLED}
    if not all_known([result], "wire_bytes"):
        billed["wire_bytes_spent"] = None
    reached = table.Value("not reached", numbers={"core_seconds_to_target": None},
                          kind="number missed")
    if result.hit:
        reached = table.Value(format_cost(currency, result.cost[currency], device), numbers={
            "core_seconds_to_target": result.cost["core_seconds"],
            f"{currency}_to_target": result.cost[currency]})
    return (
        table.name(cell.label, badge=_chosen(cell, record), suite=cell.suite.name),
        table.number(str(cell.ranks), ranks=cell.ranks),
        table.number(str(trial.repetition), repetition=trial.repetition,
                     frozen=record is cell.frozen, best=record is cell.best,
                     run_id=record.header.run_id),
        table.mono(_varied(record, settled), hyperparameters=msgspec.json.encode(
            trial.hyperparameters, order="sorted").decode()),
        table.words(STATUS.get(status, status), status=status,
                    reason=record.end.reason if record.end else None),
        reached,
        table.Value(format_cost(currency, result.spent[currency], device), numbers=billed),
        table.known("best_validation", best,
                    lambda value: units.format_metric(target, target.metric, value)))


def _chosen(cell: ReportCell, record: TrialRecord) -> str:
    """Say which of the two frozen configurations a trial's is, if either."""
    if not cell.two_configurations:
        return "frozen" if record is cell.frozen else ""
    return ("frozen: fastest" if record is cell.frozen
            else "frozen: best" if record is cell.best else "")


def _settled(cell: ReportCell) -> dict[str, Any]:
    """Return the settings that are the same in all of an optimizer's tuning trials."""
    first, *others = (record.trial.hyperparameters for record in cell.tune)
    return {key: value for key, value in first.items()
            if all(key in other and other[key] == value for other in others)}


def _varied(record: TrialRecord, settled: Mapping[str, Any]) -> str:
    """Return a trial's settings that are not ``settled``."""
    return ", ".join(
        f"{key}={f'{value:.4g}' if isinstance(value, float) else value}"
        for key, value in sorted(record.trial.hyperparameters.items())
        if key not in settled or settled[key] != value) or "defaults"


def frozen_table(groups: Sequence[CellGroup]) -> table.Table:
    """Return one or two rows for each tuned optimizer and N."""
    metric = units.metric_title(groups[0].suite.target.metric)
    return table.grouped_table(
        "frozen", "Frozen configurations",
        "Tuning freezes two configurations: the one whose trial reached the target in the fewest "
        "samples, for all costs; and the one whose trial had the best validation metric at the "
        "end of the budget, for the accuracies. Both were run again on fresh seeds: means and "
        "ranges.",
        (("Optimizer", ""), ("N", "ranks"), ("Chosen as", ""), ("Settings", "that were tuned"),
         ("Validation", f"{metric}, at the end"), ("Test", metric), ("Seeds", "")),
        (_frozen_rows(cell) for group in groups for cell in group.cells
         if cell.frozen and cell.best))


def _frozen_rows(cell: ReportCell) -> list[tuple[table.Value, ...]]:
    assert cell.frozen
    assert cell.best
    if not cell.two_configurations:
        return [_frozen_row(cell, f"{FASTEST} and {BEST}", cell.frozen, cell.seeds)]
    return [_frozen_row(cell, FASTEST, cell.frozen, cell.seeds),
            _frozen_row(cell, BEST, cell.best, cell.best_seeds)]


def _frozen_row(cell: ReportCell, role: str, chosen: TrialRecord,
                seeds: Sequence[TrialRecord]) -> tuple[table.Value, ...]:
    metric = cell.suite.target.metric
    ended = [value for record in seeds if (value := final_metric(record)) is not None]
    tested = [record.end.test[metric] for record in seeds
              if record.end and record.end.test and metric in record.end.test]
    return (
        table.name(cell.label, badge=cell.badge, suite=cell.suite.name),
        table.number(str(cell.ranks), ranks=cell.ranks),
        table.words(role, role=role, tuning_trial=chosen.trial.repetition),
        table.mono(_varied(chosen, _settled(cell)), configuration=chosen.trial.configuration),
        _spread(cell, "validation", ended), _spread(cell, "test", tested),
        table.number(str(len(seeds)) if seeds else "not rerun", seeds=len(seeds)))


def _spread(cell: ReportCell, column: str, values: Sequence[float]) -> table.Value:
    """Return a mean with its range; values that are no number are left out."""
    target = cell.suite.target
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return table.Value(units.NONE, numbers={f"{column}_mean": None})
    mean, low, high = statistics.fmean(values), min(values), max(values)
    shown = [units.format_metric(target, target.metric, value) for value in (mean, low, high)]
    return table.number(shown[0], units.between(*shown[1:]) if len(values) > 1 else "", **{
        f"{column}_mean": mean, f"{column}_low": low, f"{column}_high": high})
