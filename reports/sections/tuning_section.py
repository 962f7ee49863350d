"""Tuning cost: what tuning costs, when it pays, and what other ways of tuning would have cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import currency_noun, headline
from bench_apts.reports import (
    bills_by_trainings,
    canvas,
    panel_rows,
    section_parts,
    table,
    tuning_scene,
)
from bench_apts.reports.search_costs import restart_figure
from bench_apts.reports.search_figures import best_of_k_figure, replay_figures
from bench_apts.reports.tuning_bill import remarks, suite_bill, width_figure
from bench_apts.reports.tuning_pools import CostView, unlike_environments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Block, Context, Part

SECTION = section_parts.Section("tuning", "Tuning cost", order=20, compares=True)

_ENDINGS = {"hit": "", "miss": ", missed", "not run": ", tuning only"}
"""What stands behind a bill, by how the final training ended."""


def part(context: Context) -> Part | None:
    """Build the section from the suite's bill; None while nothing has been run."""
    device = context.gathered.device
    view = CostView(headline(device), 1.0, device)
    found = suite_bill(context.groups, view)
    if not found.pools:
        return None
    scenes = [tuning_scene.TuningScene(context, view, group.ranks, tuple(
        pool for pool in found.pools if pool.cell.ranks == group.ranks))
        for group in context.groups]
    blocks: list[Block] = []
    for group, scene in zip(context.groups, scenes, strict=True):
        cells = [cell for cell in group.cells if cell.draws]
        figures = [
            _spent_figure(scene, cells),
            best_of_k_figure(scene),
            bills_by_trainings.amortised_figure(scene),
            width_figure(scene),
            restart_figure(scene),
            *replay_figures(scene, [each for each in found.policies if each.ranks == scene.ranks]),
        ]
        if drawn := tuple(figure for figure in figures if figure):
            blocks.append(section_parts.Pictures(
                drawn, context.size(group.ranks), context.noise(group.ranks)))
    notes = [*found.notes, *remarks(context.gathered.file.study, context.groups, found.pools)]
    return SECTION.part(
        _finding(context.groups, scenes, view.currency),
        (*blocks, *section_parts.tables(*found.tables),
         *(section_parts.Prose(f"{units.capitalized(note)}.") for note in notes)))


def _finding(groups: Sequence[CellGroup], scenes: Sequence[tuning_scene.TuningScene],
             currency: Currency) -> str:
    """Say for each N from how many trainings on the first tuned optimizer pays, if known."""
    if not any(pool.cell.tune for scene in scenes for pool in scene.pools):
        found = [f"{ranked[0].label} at N = {group.ranks}" for group in groups if (
            ranked := table.rank_by_cost([cell for cell in group.cells if cell.draws], currency))]
        return ("Nothing was tuned in this study; lowest expected cost: "
                f"{units.listing(found)}." if found else
                "Nothing was tuned in this study, and no trial reached the target.")
    said: dict[str, list[str]] = {}
    for scene in scenes:
        if scene.pools:
            said.setdefault(_pays(scene), []).append(f"N = {scene.ranks}")
    text = "; ".join(f"at {units.listing(places)} {what}" for what, places in said.items())
    return f"{units.capitalized(text)}."


def _pays(scene: tuning_scene.TuningScene) -> str:
    if unlike := unlike_environments(scene.pools, scene.view):
        return f"costs are not judged, as trials differ in {unlike}"
    against = tuning_scene.untuned_reference(scene.pools)
    tuned = any(pool.cell.tune and pool.ert.hits for pool in scene.pools)
    if against is None:
        return ("only what was tuned reached the target" if tuned
                else "no trial reached the target")
    label = against.cell.label
    first = bills_by_trainings.first_to_pay(
        bills_by_trainings.crossings(scene.searches, [against]))
    if first is None:
        return (f"when tuning pays against {label} is not known" if tuned
                else f"only {label}, without tuning, reached the target")
    if first.found.never:
        return f"tuning never pays against {label}"
    pays = bills_by_trainings.payoff_sentence(first.tuned.cell.label, first.found)
    return f"{pays}, against {label}"


class _Spending(NamedTuple):
    """What tuning and one final training took, and how that ended."""

    tuning: float
    training: float
    ended: str

    @property
    def together(self) -> float:
        return self.tuning + self.training


def _spending(cell: ReportCell, currency: Currency) -> _Spending:
    """Split a cell's bill; a final training that missed counts what it spent."""
    median = cell.to_target(currency).median
    hit = bool(cell.seeds) and math.isfinite(median)
    spent = sorted(o.spent[currency] for o in cell.finals)
    training = median if hit else spent[len(spent) // 2] if spent else 0.0
    return _Spending(cell.tuning_bill.get(currency, 0.0), training,
                     "hit" if hit else "miss" if cell.seeds else "not run")


def _spent_figure(scene: tuning_scene.TuningScene,
                  cells: Sequence[ReportCell]) -> canvas.Figure | None:
    """Draw what was spent: the tuning trials, and one training with the result."""
    view = scene.view
    bills = [(cell, _spending(cell, view.currency)) for cell in cells]
    most = max((bill.together for _, bill in bills), default=0.0)
    if not most:
        return None

    def draw() -> Drawing:
        drawing, axes = panel_rows.row_panel(
            [cell.label for cell in cells], right=1.65, height=0.33)
        for row, (cell, bill) in enumerate(bills):
            color = scene.context.looks[cell.label].color
            axes.barh(row, bill.tuning, height=0.52, color=color, alpha=0.4, linewidth=0)
            axes.barh(row, bill.training, left=bill.tuning, height=0.52, color=color, linewidth=0)
            panel_rows.write_value(axes, row, f"{view.show(bill.together)}{_ENDINGS[bill.ended]}")
        canvas.scale(axes, "x", scene.axis, ticks=4, limits=(0, most * 1.04))
        canvas.heading(axes, "tuning (pale) and one final training (solid), in "
                       f"{currency_noun(view.currency, view.device)}")
        return drawing

    reached = sorted((bill.together, cell.label) for cell, bill in bills if bill.ended == "hit")
    spans = [f"{label}, {view.show(spent)}" for spent, label in reached]
    caption = "No final training reached the target."
    if spans:
        caption = ("Least spent until a final training reached the target: by "
                   f"{spans[0]}{f'; most by {spans[-1]}' if len(spans) > 1 else ''}.")
    caption += " Each tuning trial is billed up to its first hit, and whole without one."
    for ended, said in (("miss", "missed"), ("not run", "has not run")):
        who = [cell.label for cell, bill in bills if bill.ended == ended]
        if who:
            caption += f" The final training of {units.listing(who)} {said}."
    return scene.context.figure(
        draw, "bill", "tuning bill and one final training", caption, ranks=scene.ranks,
        basis=scene.basis, data=_spent_table(scene, bills))


def _spent_table(scene: tuning_scene.TuningScene,
                 bills: Sequence[tuple[ReportCell, _Spending]]) -> table.Table:
    view = scene.view

    def share(cell: ReportCell, bill: _Spending, column: str) -> table.Value:
        value, seconds = (getattr(each, column) for each in (bill, _spending(
            cell, "core_seconds")))
        return table.Value(view.show(value), numbers={
            f"{column}_core_seconds": seconds, f"{column}_{view.currency}": value})

    return table.Table(
        "spent", "Tuning and one final training", "What was spent, hits and misses alike.",
        (("Optimizer", ""), ("Tuning", currency_noun(view.currency, view.device)),
         ("Final training", "median seed"), ("Together", ""), ("Ended", "final training")),
        tuple((table.name(cell.label, suite=cell.suite.name, ranks=cell.ranks),
               *(share(cell, bill, column) for column in ("tuning", "training", "together")),
               table.words(bill.ended, reached=bill.ended == "hit")) for cell, bill in bills))
