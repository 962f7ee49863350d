"""All suites at a glance: expected cost of each optimizer over that of the cheapest on each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import currency_noun, format_cost, headline
from bench_apts.reports import canvas, table
from bench_apts.reports.section_parts import Pictures, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Part, StudyContext

SECTION = Section("matrix", "All suites", order=5, study=True, evidence=True)

_MOST = 16.0
"""Ratio from which on the colour does not change any more."""


class MatrixEntry(NamedTuple):
    """One optimizer on one suite at one N.

    Attributes:
        cell: Its trials.
        ratio: Expected cost over the cheapest's; infinite for a miss, NaN without trials.
        text: What the figure says.
    """

    cell: ReportCell
    ratio: float
    text: str


def part(study: StudyContext) -> Part | None:
    """Build the section; None for a single suite or before any trial."""
    contexts = study.suites
    groups = [group for context in contexts for group in context.groups
              if any(cell.draws for cell in group.cells)]
    if len(contexts) < 2 or not groups:
        return None
    device = contexts[0].gathered.device
    rows = [[_entry(cell, group, device) for cell in group.cells] for group in groups]
    first = headline(device)
    noun = currency_noun(first, device)

    def draw() -> Drawing:
        return _draw(groups, rows)

    figure = canvas.Figure(
        draw, "suites", "expected cost on each suite, over that of the cheapest there",
        f"Ratios of expected costs in {noun}, tuning included; 1.00 is the cheapest. The darker, "
        "the dearer. A ratio is that of these trials: each suite's own table says whether they "
        "tell two optimizers apart.", {}, "", _table(groups, rows, noun))
    return SECTION.part(_finding(groups, rows), [Pictures((figure,))])


def _entry(cell: ReportCell, group: CellGroup, device: str) -> MatrixEntry:
    currency = headline(device)
    ranked = table.rank_by_cost(group.cells, currency)
    found = cell.ert(currency) if cell.draws else None
    if found is None:
        return MatrixEntry(cell, math.nan, "not run")
    if not found.hits:
        return MatrixEntry(cell, math.inf, f"missed: 0 of {found.trials}")
    if not ranked or not ranked[0].ert(currency).cost:
        return MatrixEntry(cell, math.nan, format_cost(currency, found.cost, device))
    ratio = found.cost / ranked[0].ert(currency).cost
    return MatrixEntry(cell, ratio, units.digits(ratio))


def _finding(groups: Sequence[CellGroup], rows: Sequence[Sequence[MatrixEntry]]) -> str:
    count: dict[str, int] = {}
    for row in rows:
        best = min((entry for entry in row if math.isfinite(entry.ratio)),
                   key=lambda entry: entry.ratio, default=None)
        if best and not best.cell.search_owner:
            count[best.cell.label] = count.get(best.cell.label, 0) + 1
    missed = sum(math.isinf(entry.ratio) for row in rows for entry in row)
    total = units.plural(len(groups), "case")
    said = [f"{label} in {times}" for label, times in sorted(count.items(), key=lambda p: -p[1])]
    text = f"Lowest expected cost, of {total} (a suite at one N): {units.listing(said)}." if said \
        else f"In none of {total} did an optimizer reach the target."
    return text + (f" {missed} of {sum(map(len, rows))} entries are misses." if missed else "")


def _draw(groups: Sequence[CellGroup], rows: Sequence[Sequence[MatrixEntry]]) -> Drawing:
    import numpy as np
    import seaborn as sns

    labels = [canvas.plain(entry.cell.label, 18) for entry in rows[0]]
    names = [f"{canvas.plain(group.suite.name, 22)}, N = {group.ranks}" for group in groups]
    left = 0.2 + 0.068 * max(map(len, names))
    width = max(4.9, left + 0.3 + 0.95 * len(labels))
    turned = len(labels) > 4
    below = 0.65 if turned else 0.35
    drawing, axes = canvas.panel(width, 0.3 * len(rows) + 0.1 + below, left=left, right=0.2,
                                 top=0.1, bottom=below)
    values = np.array([[entry.ratio for entry in row] for row in rows])
    shades = np.log2(np.clip(np.where(np.isnan(values), 1.0, values), 1.0, _MOST))
    # Of one hue, the light ends of cividis: told apart without colour, and as light as ink needs.
    sns.heatmap(shades, ax=axes, cmap=sns.color_palette("cividis_r", as_cmap=True), vmin=0,
                vmax=math.log2(_MOST), cbar=False, linewidths=1.5, linecolor="none",
                annot=np.array([[entry.text for entry in row] for row in rows]), fmt="",
                annot_kws={"fontsize": 8}, xticklabels=labels, yticklabels=names)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", rotation=20 if turned else 0, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)
    return drawing


def _table(groups: Sequence[CellGroup], rows: Sequence[Sequence[MatrixEntry]],
           noun: str) -> table.Table:
    return table.grouped_table(
        "suites", "Data: expected cost over the cheapest's",
        f"In {noun}, tuning included. Empty in the file where an optimizer missed.",
        (("Optimizer", ""), ("Suite", ""), ("N", "ranks"), ("Expected cost", "ratio"),
         ("Hit", "trials")),
        ([(table.name(entry.cell.label),
           table.words(group.suite.name, suite=group.suite.name),
           table.number(str(group.ranks), ranks=group.ranks),
           table.Value(entry.text, numbers={"ratio": table.finite(entry.ratio)},
                       kind="number missed" if math.isinf(entry.ratio) else "number"),
           table.number(f"{found.hits} of {found.trials}" if found else units.NONE,
                        hits=found.hits if found else None,
                        trials=found.trials if found else None))
          for entry in row for found in [
              entry.cell.ert(headline(entry.cell.draws[0].trial.device))
              if entry.cell.draws else None]]
         for group, row in zip(groups, rows, strict=True)))
