"""The main table: every optimizer at every N, tuning included.

Tables of tuning: every trial, and the configurations that were frozen and how they fared.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from bench_apts.core import units
from bench_apts.core.currencies import format_cost, headline
from bench_apts.reports import cost_tables
from bench_apts.reports.cost_tables import STATUS
from bench_apts.reports.section_parts import Listing, Section
from bench_apts.reports.table import Table, Value, mono, name, number, rank_by_cost, words
from bench_apts.stats.trial_costs import all_known, best_metric, final_metric, outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context, Part
    from bench_apts.stats.trial_costs import TargetOutcome

FASTEST = "fastest to the target"
BEST = "best at the end"


def tuning_trials_table(groups: Sequence[CellGroup], device: str) -> Table | None:
    """Every tuning trial: what it tried, how it ended and what it cost; None without any."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for group in groups:
        for cell in group.cells:
            mine = cell.checks if cell.leader else cell.tune
            if not mine:
                continue
            breaks.add(len(rows))
            same = _fixed([record.trial.hyperparameters for record in cell.tune])
            rows += [_tuning_row(cell, same, record, outcome(record), device) for record in mine]
    if not rows:
        return None
    metric = units.metric_title(groups[0].suite.target.metric)
    return Table(
        "tuning", "Tuning trials",
        "Only settings that differ between an optimizer's trials are shown; the file has all.",
        (("Optimizer", ""), ("N", "ranks"), ("Trial", ""), ("Settings", ""), ("Ended", ""),
         ("Cost", "to target"), ("Cost", "billed"), ("Best", f"validation {metric}")),
        tuple(rows), frozenset(breaks))


def _fixed(tried: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Returns the settings that are the same in all trials."""
    return {key: value for key, value in (tried[0] if tried else {}).items()
            if all(key in other and other[key] == value for other in tried)}


def _tuning_row(
    cell: ReportCell,
    same: Mapping[str, object],
    record: TrialRecord,
    result: TargetOutcome,
    device: str,
) -> tuple[Value, ...]:
    trial = record.trial
    status = record.end.status if record.end else "unfinished"
    target = trial.suite.target
    best = best_metric(record)
    best = best if target.direction == "max" else -best
    frozen, currency = record is cell.frozen, headline(device)
    return (
        replace(name(cell.label, suite=cell.suite.name), badge=_chosen(cell, record)),
        number(str(cell.ranks), ranks=cell.ranks),
        number(
            str(trial.repetition),
            repetition=trial.repetition,
            frozen=frozen,
            best=record is cell.best,
            run_id=record.header.run_id,
        ),
        mono(
            _varied(record, same),
            hyperparameters=msgspec.json.encode(trial.hyperparameters, order="sorted").decode(),
        ),
        words(
            STATUS.get(status, status),
            status=status,
            reason=record.end.reason if record.end else None,
        ),
        Value(
            format_cost(currency, result.cost[currency], device),
            numbers={
                "core_seconds_to_target": result.cost["core_seconds"],
                f"{currency}_to_target": result.cost[currency],
            },
        )
        if result.hit
        else Value("not reached", numbers={"core_seconds_to_target": None}, kind="number missed"),
        number(
            format_cost(currency, result.spent[currency], device),
            core_seconds_spent=result.spent["core_seconds"],
            samples_spent=result.spent["samples"],
            wire_bytes_spent=(
                result.spent["wire_bytes"] if all_known([result], "wire_bytes") else None
            ),
            gradient_evaluations_spent=result.spent["gradient_evaluations"],
        ),
        number(
            units.format_metric(target, target.metric, best)
            if math.isfinite(best)
            else units.NONE,
            best_validation=best if math.isfinite(best) else None,
        ),
    )


def _chosen(cell: ReportCell, record: TrialRecord) -> str:
    """Says which of the two frozen configurations a trial's is, if either."""
    if not cell.two:
        return "frozen" if record is cell.frozen else ""
    return ("frozen: fastest" if record is cell.frozen
            else "frozen: best" if record is cell.best else "")


def _varied(record: TrialRecord, same: Mapping[str, object]) -> str:
    """Returns a trial's settings that are not the same in all trials."""
    return ", ".join(f"{key}={_plain(value)}"
                     for key, value in sorted(record.trial.hyperparameters.items())
                     if key not in same or same[key] != value) or "defaults"


def _plain(value: object) -> str:
    """Formats a hyperparameter: floats with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def frozen_table(groups: Sequence[CellGroup]) -> Table | None:
    """One or two rows for each tuned optimizer and N; None where nothing was frozen."""
    rows: list[tuple[Value, ...]] = []
    breaks = set()
    for group in groups:
        for cell in group.cells:
            if cell.frozen is None or cell.best is None:
                continue
            breaks.add(len(rows))
            if cell.two:
                rows += [_frozen_row(cell, FASTEST, cell.frozen, cell.seeds),
                         _frozen_row(cell, BEST, cell.best, cell.best_seeds)]
            else:
                rows.append(_frozen_row(cell, f"{FASTEST} and {BEST}", cell.frozen, cell.seeds))
    if not rows:
        return None
    metric = units.metric_title(groups[0].suite.target.metric)
    return Table(
        "frozen", "Frozen configurations",
        "Tuning freezes two configurations: the one whose trial reached the target in the fewest "
        "samples, for all costs; and the one whose trial had the best validation metric at the "
        "end of the budget, for the accuracies. Both were run again on fresh seeds: means and "
        "ranges.",
        (("Optimizer", ""), ("N", "ranks"), ("Chosen as", ""), ("Settings", "that were tuned"),
         ("Validation", f"{metric}, at the end"), ("Test", metric), ("Seeds", "")),
        tuple(rows), frozenset(breaks))


def _frozen_row(cell: ReportCell, role: str, chosen: TrialRecord,
                seeds: Sequence[TrialRecord]) -> tuple[Value, ...]:
    same = _fixed([record.trial.hyperparameters for record in cell.tune])
    metric = cell.suite.target.metric
    ended = [value for record in seeds if (value := final_metric(record)) is not None]
    tested = [record.end.test[metric] for record in seeds
              if record.end and record.end.test and metric in record.end.test]
    return (
        name(cell.label, badge=cell.badge, suite=cell.suite.name),
        number(str(cell.ranks), ranks=cell.ranks),
        words(role, role=role, tuning_trial=chosen.trial.repetition),
        mono(_varied(chosen, same), configuration=chosen.trial.configuration),
        _spread(cell, "validation", ended),
        _spread(cell, "test", tested),
        number(str(len(seeds)) if seeds else "not rerun", seeds=len(seeds)))


def _spread(cell: ReportCell, column: str, values: Sequence[float]) -> Value:
    """A mean with its range; values that are no number are left out."""
    target = cell.suite.target
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return Value(units.NONE, numbers={f"{column}_mean": None})
    shown = [units.format_metric(target, target.metric, value)
             for value in (statistics.fmean(values), min(values), max(values))]
    return number(shown[0], units.between(*shown[1:]) if len(values) > 1 else "", **{
        f"{column}_mean": statistics.fmean(values), f"{column}_low": min(values),
        f"{column}_high": max(values)})


SECTION = Section("main", "Main table", order=10, compares=True)


def part(context: Context) -> Part | None:
    """Builds the main table of a suite, what was frozen, and the cost at each level."""
    device = context.gathered.device
    chosen = frozen_table(context.groups)
    return SECTION.part(_finding(context), (
        Listing(cost_tables.main_table(context.groups, device, context.crowded), folded=False),
        *([Listing(chosen, folded=False)] if chosen else []),
        Listing(cost_tables.levels_table(context.groups, device), folded=False)))


def _finding(context: Context) -> str:
    parts = [text for group in context.groups if (text := _at(group, context.gathered.device))]
    if not parts:
        return "Nothing has been run yet."
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. {context.conditions}"


def _at(group: CellGroup, device: str) -> str:
    cells, currency = [cell for cell in group.cells if cell.draws], headline(device)
    reached = rank_by_cost(cells, currency)
    if not cells:
        return ""
    where = f"at N = {group.ranks}, "
    if not reached:
        return f"{where}none of {units.plural(len(cells), 'optimizer')} reached the target"
    costs = [cell.ert(currency).cost for cell in reached]
    span = (
        format_cost(currency, costs[0], device)
        if len(costs) == 1
        else units.between(
            format_cost(currency, costs[0], device),
            format_cost(currency, costs[-1], device),
        )
    )
    return (f"{where}{len(reached)} of {units.plural(len(cells), 'optimizer')} reached the "
            f"target, at an expected cost of {span}")
