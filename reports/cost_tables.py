"""The tables that answer the question: the main table, and the expected cost by level."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currencies import currency_noun, format_cost, headline
from bench_apts.reports import table
from bench_apts.stats.expected_cost import miss_limit, restart_quantile
from bench_apts.stats.trial_costs import all_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, MedianCost, ReportCell
    from bench_apts.reports.table import Plain

UNCOUNTED = "not counted"
"""What stands for a cost that is not known."""

STATUS = {"oom": "out of memory", "timeout": "time limit"}


def main_table(groups: Sequence[CellGroup], device: str,
               crowded: Mapping[int, bool]) -> table.Table:
    """Return the main table of one suite: a row for each N and optimizer."""
    rows: list[tuple[table.Value, ...]] = []
    breaks = set()
    for group in groups:
        breaks.add(len(rows))
        block = [_row(cell, device, crowded[group.ranks]) for cell in group.cells]
        competing = [not cell.search_owner for cell in group.cells]
        block = _mark_best(block, (f"ert_{headline(device)}",), competing)
        times = () if crowded[group.ranks] else ("train_s_to_target",)
        rows += _mark_best(block, (*times, "wire_bytes_to_target", "memory_bytes",
                                   "backwards_to_target"))
    return table.Table(
        "main", "Main table",
        "Expected cost: what it takes on average, starting from nothing, until a training "
        "reaches the target, every trial billed. Below it the 95 % interval; “or more”: without "
        "an upper limit. 90 % quantile: the bill that suffices in nine of ten such searches. "
        "Success: share of the trials behind the expected cost that reached it; P: 95 % limit of "
        "that chance. Minibatch: samples of all ranks in a step. The other columns describe a "
        "training with the configuration that is fastest to the target, medians over seeds, and "
        "Test that with the best at the end of the budget (Frozen configurations); gradients are "
        "backward passes of the busiest rank; memory is "
        + ("the device's peak in training, and how much of it data, model and workspaces took "
           "before the optimizer was built" if device == "cuda" else
           "what the tensors of model and optimizer take")
        + "; a time is that of the first evaluation at the target, “after” that of the "
        "last one before, so the truth lies between the two. Bold: lowest at its N."
        + _shared(groups, device) + _noise(groups),
        (("Optimizer", ""), ("N", "ranks"), ("Expected cost", "with tuning"),
         ("90 % quantile", "with tuning"), ("Success", "of trials"), ("Time", "to target"),
         ("Bytes", "to target"), ("Gradients", "to target"), ("Memory", "of a rank"),
         (_test_title(groups), "mean, range"), ("Seeds", "that hit")),
        tuple(rows), frozenset(breaks))


def levels_table(groups: Sequence[CellGroup], device: str) -> table.Table:
    """Return the expected cost, tuning included, in three currencies at each level."""
    first = headline(device)
    currencies: tuple[Currency, ...] = ("wire_bytes", "gradient_evaluations")
    rows: list[tuple[table.Value, ...]] = []
    breaks = set()
    for group in groups:
        for level in sorted(group.suite.target.levels, reverse=True):
            breaks.add(len(rows))
            for cell in group.cells:
                found = cell.ert(first, level)
                shown = units.format_goal(group.suite.target, level).rpartition(" of ")[2]
                rows.append((
                    table.name(cell.label, suite=cell.suite.name),
                    table.number(str(cell.ranks), ranks=cell.ranks),
                    table.number(units.format_percent(level, 0), shown, level=level,
                                 threshold=group.suite.target.threshold(level)),
                    table.number(f"{found.hits} of {found.trials}", hits=found.hits,
                                 trials=found.trials),
                    headlined(cell, device, level),
                    *(expected(cell, currency, device, level) for currency in currencies)))
    return table.Table(
        "expected-cost", "Expected cost by level of the target",
        "The same expected cost including tuning, in three currencies, at the full target and "
        "at the lower levels. Where the order changes with the level, do not lean on it.",
        (("Optimizer", ""), ("N", "ranks"), ("Level", "of the target"), ("Reached it", "trials"),
         (units.capitalized(currency_noun(first, device)), "expected"),
         ("Wire bytes", "expected, per rank"), ("Gradient evaluations", "expected")),
        tuple(rows), frozenset(breaks))


def _row(cell: ReportCell, device: str, crowded: bool) -> tuple[table.Value, ...]:
    forwards, per_step, memory = cell.forwards_to_target, cell.bytes_per_step, cell.memory
    before = cell.baseline_memory if device == "cuda" else None
    passes = to_target(cell.to_target("gradient_evaluations"), "backwards_to_target",
                       units.format_count)
    if math.isfinite(forwards):
        passes = replace(passes, detail=f"{units.format_count(forwards)} forward",
                         numbers={**passes.numbers, "forwards_to_target": forwards})
    sent = to_target(cell.to_target("wire_bytes"), "wire_bytes_to_target", units.format_size)
    sent = replace(sent, detail=f"{units.format_size(per_step)} a step" if per_step else "",
                   numbers={**sent.numbers, "wire_bytes_per_step": per_step})
    time = to_target(cell.to_target("train_s"), "train_s_to_target", units.format_seconds,
                     bracket=True)
    hits = sum(o.hit for o in cell.finals)
    return (
        table.name(cell.label, badge=cell.badge, suite=cell.suite.name,
                   tuning_free=cell.tuning_free),
        table.number(f"{cell.ranks}{' †' if crowded else ''}",
                     "" if cell.batch is None else f"minibatch {cell.batch:,}",
                     ranks=cell.ranks, global_batch=cell.batch),
        headlined(cell, device), _quantile(cell, device), _success(cell), timed(time, crowded),
        sent, passes,
        table.number(units.NONE if memory is None else units.format_size(memory),
                     f"{units.format_size(before)} before" if before else "",
                     peak_memory_bytes=cell.peak_memory, memory_bytes=memory),
        _tested(cell),
        table.number(f"{hits} of {len(cell.seeds)}" if cell.seeds else "none yet",
                     seeds=len(cell.seeds), seeds_hit=hits))


def headlined(cell: ReportCell, device: str, level: float = 1.0) -> table.Value:
    """Return the expected cost in the headline's currency; the CSV file has core-seconds too."""
    seconds = expected(cell, "core_seconds", device, level)
    shown = expected(cell, headline(device), device, level)
    return replace(shown, numbers={**seconds.numbers, **shown.numbers})


def expected(cell: ReportCell, currency: Currency, device: str, level: float = 1.0) -> table.Value:
    """Return the expected cost with interval; without a hit in words, never as a number."""
    column = f"ert_{currency}"
    if not cell.draws:
        return table.Value("not run yet", kind="number missed", numbers={column: None})
    if not all_known(cell.outcomes(level), currency):
        return table.Value(UNCOUNTED, numbers={column: None})
    form = partial(format_cost, currency, device=device)
    found, interval = cell.ert(currency, level), cell.interval(currency, level)
    if not found.hits:
        # At N = 1 nothing is sent: "more than 0 B" would look like a measurement.
        return table.Value(f"more than {form(found.bound)}" if found.total else "not reached",
                           table.hits_of_trials(0, found.trials),
                           {column: None, f"{column}_more_than": found.bound}, "number missed")
    if not found.total:
        detail, interval = "", None  # a rank alone sends nothing, however often it is resampled
    elif interval is None:
        detail = "one trial, no interval"
    elif math.isinf(interval.high):
        detail = f"{form(interval.low)} or more"
    else:
        detail = units.between(form(interval.low), form(interval.high))
    return table.number(form(found.cost), detail, **{
        column: found.cost, f"{column}_low": interval.low if interval else None,
        f"{column}_high": interval.high if interval else None})


def _quantile(cell: ReportCell, device: str) -> table.Value:
    """Return the bill that suffices with a probability of 90 %; nothing without a hit."""
    drawn, currency = cell.outcomes(), headline(device)
    found, seconds = (
        table.finite(restart_quantile([o.spent[which] for o in drawn],
                                      [o.cost[which] for o in drawn]))
        if drawn and all_known(drawn, which) else None
        for which in (currency, "core_seconds"))
    return table.Value(units.NONE if found is None else format_cost(currency, found, device),
                       numbers={"restart_cost_90": seconds, f"restart_cost_90_{currency}": found})


def _success(cell: ReportCell) -> table.Value:
    drawn = cell.outcomes()
    hits, trials = sum(o.hit for o in drawn), len(drawn)
    numbers: dict[str, Plain] = {
        "success_rate": hits / trials if trials else None, "hits": hits,
        "trials": trials, "tuning_trials": len(cell.tune)}
    if not hits:
        limit = f"P ≤ {units.format_percent(miss_limit(trials), 0)}" if trials else ""
        return table.Value(f"0 of {trials}", limit, numbers, "number missed")
    return table.number(
        units.format_percent(hits / trials, 0),
        f"{hits} of {units.plural(trials, 'trial' if cell.tune else 'seed')}", **numbers)


def timed(entry: table.Value, crowded: bool) -> table.Value:
    """Hide a time where ranks shared cores: it would measure the machine."""
    if not crowded or entry.kind == "number missed":
        return entry
    return replace(entry, text="not shown", detail="N > cores")


def to_target(middle: MedianCost, column: str, form: Callable[[float], str], *,
              bracket: bool = False) -> table.Value:
    """Return a median cost to the target; where half of the seeds missed, in words."""
    if not middle.seeds or math.isnan(middle.median):
        return table.Value(UNCOUNTED if middle.seeds else units.NONE, numbers={column: None})
    if not math.isfinite(middle.median):
        # Success and Seeds say it of the whole row where none of them hit.
        missed = table.hits_of_trials(middle.hits, middle.seeds) if middle.hits else ""
        return table.Value("not reached", missed, {column: None}, "number missed")
    numbers: dict[str, Plain] = {column: middle.median}
    if bracket:
        numbers[f"{column}_after"] = middle.after
    return table.Value(form(middle.median), f"after {form(middle.after)}" if bracket else "",
                       numbers)


def _tested(cell: ReportCell) -> table.Value:
    """Return mean and range of the test metric, of the configuration that ends best."""
    metric, tests, target = cell.test_metric, cell.test, cell.suite.target
    remarks = []
    if len(tests) > 1:
        remarks.append(units.between(units.format_metric(target, metric, min(tests)),
                                     units.format_metric(target, metric, max(tests))))
    if tests and cell.two_configurations and not cell.best_seeds:
        remarks.append("fastest; best not rerun")
    return table.number(
        units.format_metric(target, metric, statistics.fmean(tests)) if tests else units.NONE,
        ", ".join(remarks), test_mean=statistics.fmean(tests) if tests else None,
        test_metric=metric, test_low=min(tests, default=None),
        test_high=max(tests, default=None))


def _mark_best(block: Sequence[tuple[table.Value, ...]], columns: Sequence[str],
               competing: Sequence[bool] = ()) -> list[tuple[table.Value, ...]]:
    """Set the lowest entry of each of these columns in bold, unless all are alike.

    Args:
        block: The rows.
        columns: Names of the numbers that are compared.
        competing: Whether each row takes part; all do without it.
    """
    rows = [list(row) for row in block]
    for column in columns:
        found = [(float(value), index, place) for index, row in enumerate(rows)
                 if not competing or competing[index]
                 for place, entry in enumerate(row)
                 if isinstance(value := entry.numbers.get(column), int | float)]
        if len({value for value, _, _ in found}) > 1:
            least = min(found)[0]
            for value, index, place in found:
                if value == least:
                    rows[index][place] = replace(rows[index][place], kind="number best")
    return [tuple(row) for row in rows]


def _shared(groups: Sequence[CellGroup], device: str) -> str:
    """Say whose search was another's, and what that would have cost at each N."""
    said = [f"N = {group.ranks}: {line}" for group in groups
            if (line := table.shared_search_sentence(group.cells, headline(device), device))]
    return f" {' '.join(said)}" if said else ""


def _noise(groups: Sequence[CellGroup]) -> str:
    """Say how far apart times of equal trials were, which no comparison can undercut."""
    known = [(group.ranks, group.noise) for group in groups if group.noise]
    if not known:
        return ""
    return (" Noise: times of the same trial run twice, whole or to the target, were up to "
            + units.listing([f"{units.times(noise.factor)} apart at N = {ranks} "
                             f"({units.plural(noise.pairs, 'pair')})" for ranks, noise in known])
            + "; smaller differences between optimizers may be noise.")


def _test_title(groups: Sequence[CellGroup]) -> str:
    names = [cell.test_metric for group in groups for cell in group.cells if cell.test]
    return "Test " + units.metric_title(names[0] if names else groups[0].suite.target.metric)
