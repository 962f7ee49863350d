"""What tuning costs, when it pays, and what other ways of tuning would have cost.

Figures of one number for each optimizer: cost including tuning, and its parts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, currency_noun, headline
from bench_apts.reports import cost_tables
from bench_apts.reports.bills_by_trainings import amortised_figure
from bench_apts.reports.canvas import Figure, finish, heading, panel, plain, scale
from bench_apts.reports.figure_style import INK
from bench_apts.reports.search_costs import restart_figure
from bench_apts.reports.search_figures import best_of_k_figure, replay_figures
from bench_apts.reports.section_parts import (
    Listing,
    Pictures,
    Prose,
    Section,
    TuningScene,
    untuned_reference,
)
from bench_apts.reports.table import (
    Table,
    Value,
    hits_of_trials,
    name,
    number,
    rank_by_cost,
    shared_search_sentence,
    words,
)
from bench_apts.reports.tuning_bill import remarks, suite_bill, width_figure
from bench_apts.reports.tuning_pools import (
    CostView,
    crossings,
    first_to_pay,
    payoff_sentence,
    unlike_environments,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Block, Context, Part

_WIDTH = 4.9


def expected_cost_figure(group: CellGroup, name: str, looks: Mapping[str, Look],
                  view: CostView, basis: str = "") -> Figure | None:
    """Draws the expected cost including tuning with its interval; misses as open arrows."""
    currency = view.currency
    cells = [cell for cell in group.cells if cell.draws]
    totals = [max(cell.ert(currency).total, 0.0) for cell in cells]
    if not cells or not any(totals):
        return None
    drawing, axes = _rows(cells)
    points = [value for cell in cells for value in _extent(cell, currency)]
    low, high = min(points) / 1.5, max(points) * 1.5
    scale(axes, "x", CURRENCIES[view.currency].form, log=True, limits=(low, high), ticks=4)
    for row, cell in enumerate(cells):
        look, expected, interval = looks[cell.label], cell.ert(currency), cell.interval(currency)
        if expected.hits:
            text = view.show(expected.cost)
            if interval is not None:
                end = min(interval.high, high)
                axes.plot([max(interval.low, low), end], [row, row], color=look.color,
                          linewidth=2, solid_capstyle="butt", alpha=0.6)
                if math.isinf(interval.high):
                    axes.plot([high], [row], marker=">", color=look.color, clip_on=False,
                              markersize=6, markeredgewidth=0)
            axes.plot([expected.cost], [row], marker=look.marker, color=look.color, markersize=8,
                      markeredgewidth=0, zorder=3)
        else:
            text = f"more than {view.show(expected.bound)}"
            if expected.total > 0:
                axes.plot([expected.bound, high], [row, row], color=look.color, linewidth=1,
                          linestyle=":")
                axes.plot([expected.bound], [row], marker=">", color="none", markersize=8,
                          markeredgecolor=look.color, markeredgewidth=1.4, zorder=3)
        _write_value(axes, row, text)
    heading(axes, f"expected cost to the target, in {currency_noun(currency, view.device)}")
    ranked = rank_by_cost(cells, currency)
    caption = "No optimizer reached the target."
    if ranked:
        least = view.show(ranked[0].ert(currency).cost)
        caption = f"Lowest: {ranked[0].label}, {least}."
    missed = [f"{cell.label} ({hits_of_trials(0, cell.ert(currency).trials)})" for cell in cells
              if not cell.ert(currency).hits]
    if missed:
        caption += (f" Open arrows: {units.listing(missed)}, so the cost is more than that, with "
                    "95 % confidence.")
    if shared := shared_search_sentence(cells, currency, view.device):
        caption += f" {shared}"
    return finish(drawing, f"{name}-expected-cost",
                  f"{group.suite.name}, N = {group.ranks}: expected cost including tuning",
                  caption + " Bars: 95 % interval; an arrow means no upper limit.", {},
                  basis=basis, data=_expected(cells, view))


def tuning_and_training(group: CellGroup, name: str, looks: Mapping[str, Look], view: CostView,
         basis: str = "") -> Figure | None:
    """Draws what was spent: the tuning trials, and one training with the result."""
    cells = [cell for cell in group.cells if cell.draws]
    parts = [_parts(cell, view.currency) for cell in cells]
    if not any(part.together for part in parts):
        return None
    drawing, axes = _rows(cells)
    for row, (cell, part) in enumerate(zip(cells, parts, strict=True)):
        color = looks[cell.label].color
        axes.barh(row, part.tuning, height=0.52, color=color, alpha=0.4, linewidth=0)
        axes.barh(row, part.training, left=part.tuning, height=0.52, color=color, linewidth=0)
        total = view.show(part.together)
        _write_value(axes, row, f"{total}{_ENDINGS[part.ended]}")
    scale(axes, "x", CURRENCIES[view.currency].form, ticks=4,
          limits=(0, max(part.together for part in parts) * 1.04))
    heading(axes, "tuning (pale) and one final training (solid), in "
                  f"{currency_noun(view.currency, view.device)}")
    caption = (f"{_spread(cells, parts, view)} Each tuning trial is billed up to its first hit, "
               "and whole without one.")
    for ended, said in (("miss", "missed"), ("not run", "has not run")):
        who = [cell.label for cell, part in zip(cells, parts, strict=True) if part.ended == ended]
        if who:
            caption += f" The final training of {units.listing(who)} {said}."
    return finish(drawing, f"{name}-bill",
                  f"{group.suite.name}, N = {group.ranks}: tuning bill and one final training",
                  caption, {}, basis=basis, data=_spent(cells, parts, view))


_ENDINGS = {"hit": "", "miss": ", missed", "not run": ", tuning only"}
"""What stands behind a bill, by how the final training ended."""


class _Parts(NamedTuple):
    tuning: float
    training: float
    ended: str

    @property
    def together(self) -> float:
        return self.tuning + self.training


def _spread(cells: Sequence[ReportCell], parts: Sequence[_Parts], view: CostView) -> str:
    """Says who spent least and most until a final training reached the target."""
    found = sorted((part.together, cell.label)
                   for cell, part in zip(cells, parts, strict=True) if part.ended == "hit")
    if not found:
        return "No final training reached the target."
    told = [f"{label}, {view.show(spent)}" for spent, label in found]
    most = f"; most by {told[-1]}" if len(told) > 1 else ""
    return f"Least spent until a final training reached the target: by {told[0]}{most}."


def _parts(cell: ReportCell, currency: Currency) -> _Parts:
    """Splits a cell's bill; a final training that missed counts what it spent."""
    middle = cell.to_target(currency).median
    reached = bool(cell.seeds) and math.isfinite(middle)
    spent = sorted(o.spent[currency] for o in cell.finals)
    training = middle if reached else (spent[len(spent) // 2] if spent else 0.0)
    return _Parts(cell.tuning_bill.get(currency, 0.0), training,
                  "hit" if reached else "miss" if cell.seeds else "not run")


def _expected(cells: Sequence[ReportCell], view: CostView) -> Table:
    unit = currency_noun(view.currency, view.device)
    return Table(
        "expected", "Expected cost, tuning included",
        "With its 95 % interval; “or more”: without an upper limit.",
        (("Optimizer", ""), ("Hit", "trials"), ("Expected cost", unit)),
        tuple((name(cell.label, suite=cell.suite.name, ranks=cell.ranks),
               number(f"{found.hits} of {found.trials}", hits=found.hits, trials=found.trials),
               cost_tables.headlined(cell, view.device))
              for cell in cells for found in [cell.ert(view.currency)]))


def _spent(cells: Sequence[ReportCell], parts: Sequence[_Parts], view: CostView) -> Table:
    unit = currency_noun(view.currency, view.device)
    return Table(
        "spent", "Tuning and one final training", "What was spent, hits and misses alike.",
        (("Optimizer", ""), ("Tuning", unit), ("Final training", "median seed"),
         ("Together", ""), ("Ended", "final training")),
        tuple((name(cell.label, suite=cell.suite.name, ranks=cell.ranks),
               _share("tuning", part.tuning, seconds.tuning, view),
               _share("training", part.training, seconds.training, view),
               _share("together", part.together, seconds.together, view),
               words(part.ended, reached=part.ended == "hit"))
              for cell, part in zip(cells, parts, strict=True)
              for seconds in [_parts(cell, "core_seconds")]))


def _share(column: str, value: float, core_seconds: float, view: CostView) -> Value:
    return Value(view.show(value), numbers={
        f"{column}_core_seconds": core_seconds, f"{column}_{view.currency}": value})


def _extent(cell: ReportCell, currency: Currency) -> list[float]:
    """Returns the finite positive numbers that an expected cost's row must have room for."""
    expected, interval = cell.ert(currency), cell.interval(currency)
    found = [expected.cost if expected.hits else expected.bound]
    if interval is not None and expected.hits:
        found += [interval.low, interval.high]
    return [value for value in found if 0 < value < math.inf]


def _rows(cells: Sequence[ReportCell]) -> tuple[Drawing, Axes]:
    names = [plain(cell.label, 20) for cell in cells]
    drawing, axes = panel(_WIDTH, 0.33 * len(cells) + 0.72, bottom=0.34, top=0.34,
                          left=0.14 + 0.07 * max(len(name) for name in names), right=1.65)
    axes.set_yticks(range(len(cells)), names)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.grid(False, axis="y")
    return drawing, axes


def _write_value(axes: Axes, row: int, text: str) -> None:
    """Writes the number to the right of its row, so that nobody has to read it off."""
    axes.annotate(text, (1, row), xycoords=("axes fraction", "data"), xytext=(10, 0),
                  textcoords="offset points", va="center", color=INK,
                  annotation_clip=False)


SECTION = Section("tuning", "Tuning cost", order=20, compares=True, last=True)


def part(context: Context) -> Part | None:
    """Builds the section from the suite's bill; None while nothing has been run."""
    device = context.gathered.device
    view = CostView(headline(device), 1.0, device)
    found = suite_bill(context.groups, view, context.replays)
    if not found.pools:
        return None
    scenes = [TuningScene(context, view, group.ranks, tuple(
        pool for pool in found.pools if pool.cell.ranks == group.ranks))
        for group in context.groups]
    blocks: list[Block] = []
    for group, scene in zip(context.groups, scenes, strict=True):
        figures = [
            expected_cost_figure(group, scene.stem, context.looks, view, scene.basis),
            tuning_and_training(group, scene.stem, context.looks, view, scene.basis),
            best_of_k_figure(scene),
            amortised_figure(scene),
            width_figure(scene),
            restart_figure(scene),
            *replay_figures(scene, [each for each in found.policies if each.ranks == scene.ranks]),
        ]
        drawn = tuple(figure for figure in figures if figure)
        if drawn:
            blocks.append(Pictures(drawn, context.size(group.ranks),
                                   context.noise(group.ranks), wide=True))
    blocks += [Listing(table) for table in found.tables]
    notes = [*found.notes, *remarks(context.gathered.file.study, context.groups, found.pools)]
    blocks += [Prose(f"{note[0].upper()}{note[1:]}.") for note in notes]
    return SECTION.part(_finding(context.groups, scenes, view.currency),
                tuple(blocks), legend=True)


def _finding(
    groups: Sequence[CellGroup], scenes: Sequence[TuningScene], currency: Currency
) -> str:
    """Says for each N from how many trainings on the first tuned optimizer pays, if told."""
    if not any(pool.cell.tune for scene in scenes for pool in scene.pools):
        found = [
            f"{ranked[0].label} at N = {group.ranks}"
            for group in groups
            if (ranked := rank_by_cost([cell for cell in group.cells if cell.draws], currency))
        ]
        return ("Nothing was tuned in this study; lowest expected cost: "
                f"{units.listing(found)}." if found else
                "Nothing was tuned in this study, and no trial reached the target.")
    said: dict[str, list[str]] = {}
    for scene in scenes:
        if scene.pools:
            said.setdefault(_pays(scene), []).append(f"N = {scene.ranks}")
    text = "; ".join(f"at {units.listing(places)} {what}" for what, places in said.items())
    return f"{text[0].upper()}{text[1:]}."


def _pays(scene: TuningScene) -> str:
    if apart := unlike_environments(scene.pools, scene.view):
        return f"costs are not judged, as trials differ in {apart}"
    against = untuned_reference(scene.pools)
    found = crossings(scene.searches, [against] if against else [])
    if against is None:
        tuned = any(pool.cell.tune and pool.ert.hits for pool in scene.pools)
        return ("only what was tuned reached the target" if tuned
                else "no trial reached the target")
    first = first_to_pay(found)
    if first is None:
        return (f"when tuning pays against {against.cell.label} is not known"
                if any(pool.cell.tune and pool.ert.hits for pool in scene.pools)
                else f"only {against.cell.label}, without tuning, reached the target")
    if first.found.never:
        return f"tuning never pays against {against.cell.label}"
    return f"{payoff_sentence(first.tuned.cell.label, first.found)}, against {against.cell.label}"
