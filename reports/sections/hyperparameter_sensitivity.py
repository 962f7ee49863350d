"""Sensitivity: cost against the hyperparameter that was varied, success by N, and transfer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, currency_noun, format_cost, headline
from bench_apts.reports import canvas
from bench_apts.reports.caveats import on_the_edge
from bench_apts.reports.cost_tables import STATUS
from bench_apts.reports.figure_style import INK, LOOKS
from bench_apts.reports.section_parts import Pictures, Prose, Section, tables
from bench_apts.reports.sections.hyperparameter_sweeps import find_sweeps, transfer_table
from bench_apts.reports.table import Table, Value, finite, name, number, words
from bench_apts.stats.range_sensitivity import log_edges, success_by_bin, working_range

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.section_parts import Context, Part
    from bench_apts.reports.sections.hyperparameter_sweeps import Sweep, SweepPoint
    from bench_apts.stats.range_sensitivity import RangeBin

SECTION = Section("sensitivity", "Sensitivity", order=60)

_BINS = 5
"""Into how many parts of equal ratio a searched range is cut."""

_SIGNS = {"miss": "x", "hit": "x", "timeout": "|", "diverged": "+", "oom": "s", "error": "^",
          "pruned": "_", "interrupted": ".", "unfinished": "."}
"""Markers of trials whose evaluations do not reach the target, by status."""

_WORDS = {"x": "× missed the target", "+": "+ diverged", "|": "| ran into the time limit",
          "s": "□ ran out of memory", "^": "△ failed", "_": "– was pruned",
          ".": "· did not end"}

_LINE = 0.055
"""Height of one optimizer's line of failures, as a share of the axes."""


def part(context: Context) -> Part | None:
    """Build the section; None where no hyperparameter was varied."""
    found = find_sweeps(context.groups)
    if not found:
        return None
    pictures = []
    for knob in dict.fromkeys(sweep.name for sweep in found):
        mine = [sweep for sweep in found if sweep.name == knob]
        if drawn := tuple(figure for group in context.groups
                          if (figure := _cost_figure(context, group.ranks, mine))):
            pictures.append(Pictures(drawn, f"Cost against {knob}"))
    heats = Pictures(tuple(_share_figure(context, sweep) for sweep in found),
                     "Share of trials that hit", key="The stronger the colour, the more of the "
                     "trials in this part of the range hit.")
    return SECTION.part(
        _finding(found), (*map(Prose, _edges(context)), *pictures, heats,
                          *tables(transfer_table(context), folded=False)))


def _short(value: float) -> str:
    return units.trim(units.digits(value))


def _finding(found: Sequence[Sweep]) -> str:
    """Compare the optimizers by the share of trials that hit, and say how wide that is."""
    ranked = sorted(found, key=_share, reverse=True)
    best, worst = ranked[0], ranked[-1]
    if not _share(best):
        return "No trial reached the target, whatever its hyperparameters."
    if _share(best) == _share(worst):
        return f"Over all N, {units.listing([_rate(sweep) for sweep in found])}."
    return f"Over all N, {_rate(best)}, the largest share; {_rate(worst)}, the smallest."


def _share(sweep: Sweep) -> float:
    """Return the share of the trials that hit, over all N."""
    return sum(hit for _, hit in sweep.drawn()) / len(sweep.points)


def _rate(sweep: Sweep) -> str:
    hits = sum(hit for _, hit in sweep.drawn())
    text = f"{hits} of {units.plural(len(sweep.points), 'trial')} of {sweep.label} hit"
    found = working_range(sweep.drawn())
    if found is None or found[0] == found[1]:
        return text
    return f"{text}, with {sweep.name} between {_short(found[0])} and {_short(found[1])}"


def _edges(context: Context) -> Iterator[str]:
    """Warn of each optimum at an end of what was searched, with its place."""
    for group in context.groups:
        for cell in group.cells:
            if cell.search_owner or cell.frozen is None or cell.frozen.trial.searched is None:
                continue
            for knob in on_the_edge(cell):
                low, high = cell.frozen.trial.searched.ranges[knob]
                value = cell.frozen.trial.hyperparameters[knob]
                assert isinstance(value, int | float)
                yield (f"Optimum at the edge: at N = {group.ranks} the best {knob} of "
                       f"{cell.label} is {_short(value)}, at an end of what was searched, "
                       f"{_short(low)} to {_short(high)}. A wider range may hold better "
                       "(--space wide).")


def _cost_figure(context: Context, ranks: int, sweeps: Sequence[Sweep]) -> canvas.Figure | None:
    """Draw cost against the value of every trial at one N; failures stand at the top edge.

    Args:
        context: The suite.
        ranks: N.
        sweeps: Of one hyperparameter's name.
    """
    at = {sweep.label: [p for p in sweep.points if p.ranks == ranks] for sweep in sweeps}
    every = [point for points in at.values() for point in points]
    if not every:
        return None
    knob, device = sweeps[0].name, context.gathered.device
    hits, currency = sum(point.hit for point in every), headline(device)

    def draw() -> Drawing:
        drawing, axes = canvas.panel()
        low, high = min(s.low for s in sweeps), max(s.high for s in sweeps)
        margin = (high / low) ** 0.03
        costs = [point.cost for point in every if point.hit] or [1.0]
        strip = min(0.6, 0.03 + _LINE * sum(any(not p.hit for p in points)
                                            for points in at.values()))
        least, most = min(costs) / 1.25, max(costs) * 1.25
        canvas.scale(axes, "y", CURRENCIES[currency].form, log=True,
                     limits=canvas.headroom(least, most, strip))
        canvas.scale(axes, "x", units.digits, log=True, limits=(low / margin, high * margin))
        axes.set_yticks([tick for tick in axes.get_yticks() if tick <= most])
        line = 1.0
        for label, points in at.items():
            look = context.looks[label]
            good = [p for p in points if p.hit]
            canvas.draw_marks(axes, [p.value for p in good], [p.cost for p in good], look, size=5,
                              alpha=0.75)
            chosen = [p for p in good if p.chosen]
            canvas.draw_marks(axes, [p.value for p in chosen], [p.cost for p in chosen], look,
                              marker="o", size=10, hollow=True)
            failed = [p for p in points if not p.hit]
            line -= min(_LINE, strip / len(at)) if failed else 0
            for sign in dict.fromkeys(_SIGNS[p.status] for p in failed):
                mine = [p.value for p in failed if _SIGNS[p.status] == sign]
                canvas.draw_marks(
                    axes, mine, [line + _LINE / 4] * len(mine), look, marker=sign, size=5,
                    hollow=sign in "s^", transform=axes.get_xaxis_transform(), clip_on=False)
        if not hits:
            axes.set_yticks([])
        axes.set_xlabel(knob)
        canvas.heading(axes, f"{currency_noun(currency, device)} to the target")
        return drawing

    signs = dict.fromkeys(_SIGNS[p.status] for p in every if not p.hit)
    caption = (_working(at) + (
        f" At the top edge, one line for each optimizer: "
        f"{units.listing([_WORDS[sign] for sign in signs])}." if signs else "")
        + (" Ringed: the configuration chosen." if any(p.chosen for p in every) else ""))
    return context.figure(
        draw, f"sensitivity-{knob}", f"cost to the target against {knob}", caption,
        ranks=ranks, drawn=[label for label, points in at.items() if points],
        basis=f"{units.plural(len(every), 'trial')}, {hits} of which hit. {context.conditions}",
        data=_points_table(context, ranks, knob, at))


def _working(at: Mapping[str, Sequence[SweepPoint]]) -> str:
    """Say between which values each optimizer reached the target."""
    parts = []
    for label, points in at.items():
        hits = [point.value for point in points if point.hit]
        if hits:
            low, high = min(hits), max(hits)
            span = f"at {_short(low)}" if low == high else f"from {_short(low)} to {_short(high)}"
            parts.append(f"{label} {span} ({len(hits)} of {len(points)})")
    return (f"Trials that hit lie: {units.listing(parts)}." if parts
            else "No trial reached the target.")


def _share_figure(context: Context, sweep: Sweep) -> canvas.Figure:
    """Draw the share of trials that hit, by part of the range and N; numbers stand in it."""
    sizes = sorted({point.ranks for point in sweep.points})
    bins = {ranks: _bins(sweep, ranks) for ranks in sizes}
    columns = bins[sizes[0]]

    def draw() -> Drawing:
        import seaborn as sns
        from matplotlib.colors import LinearSegmentedColormap

        # One hue whose strength is opacity, which reads on a light and a dark page.
        shares = LinearSegmentedColormap.from_list("shares", [
            f"{LOOKS[0].color}{round(255 * opacity):02x}" for opacity in (0.05, 0.5)])
        drawing, axes = canvas.panel(3.7, 0.34 * len(sizes) + 0.95, left=0.62, bottom=0.52)
        sns.heatmap(
            np.array([[part.hits / part.trials if part.trials else 0.0 for part in row]
                      for row in bins.values()]),
            vmin=0, vmax=1, cmap=shares, cbar=False, ax=axes,
            annot=[[f"{part.hits} of {part.trials}" if part.trials else units.NONE for part in row]
                   for row in bins.values()], fmt="", annot_kws={"color": INK, "fontsize": 8})
        axes.grid(False)
        axes.set_yticks(np.arange(len(sizes)) + 0.5, [f"N = {ranks}" for ranks in sizes],
                        rotation=0)
        if sweep.searched:
            edges = [part.low for part in columns] + [columns[-1].high]
            axes.set_xticks(range(len(edges)),
                            [units.trim(units.digits(edge, 2)) for edge in edges])
        else:
            axes.set_xticks(np.arange(len(columns)) + 0.5, [_short(part.low) for part in columns])
        axes.set_xlabel(sweep.name)
        canvas.heading(axes, f"{canvas.plain(sweep.label)}: trials that hit")
        return drawing

    hits, trials = sum(hit for _, hit in sweep.drawn()), len(sweep.points)
    return context.figure(
        draw, f"success-{sweep.name}-c{list(context.looks).index(sweep.label)}",
        f"trials of {sweep.label} that hit, by {sweep.name} and N", _best(sweep, bins),
        basis=f"{units.plural(trials, 'trial')}, {hits} of which hit. {context.conditions}",
        data=_shares_table(context, sweep, bins))


def _bins(sweep: Sweep, ranks: int) -> list[RangeBin]:
    drawn = sweep.drawn(ranks)
    if sweep.searched:
        return success_by_bin(drawn, log_edges(sweep.low, sweep.high, _BINS))
    values = sorted({value for value, _ in sweep.drawn()})
    return [found._replace(high=found.low) for found in success_by_bin(drawn, [*values, math.inf])]


def _best(sweep: Sweep, bins: Mapping[int, Sequence[RangeBin]]) -> str:
    """Name the part of the range in which most trials hit, over all N."""
    drawn = []
    for column in zip(*bins.values(), strict=True):
        hits, trials = sum(part.hits for part in column), sum(part.trials for part in column)
        if trials:
            drawn.append((hits / trials, hits, trials, column[0]))
    share, hits, trials, part = max(drawn, key=lambda entry: entry[0])
    if not share:
        return f"No trial of {sweep.label} reached the target."
    where = (f"at {_short(part.low)}" if part.low == part.high
             else f"between {_short(part.low)} and {_short(part.high)}")
    return f"Most often it hits with {sweep.name} {where}: {hits} of {trials} trials over all N."


def _points_table(context: Context, ranks: int, knob: str,
                  at: Mapping[str, Sequence[SweepPoint]]) -> Table:
    device = context.gathered.device
    currency = headline(device)
    rows = [(name(label, suite=context.suite.name, hyperparameter=knob, ranks=ranks),
             number(units.digits(p.value), value=p.value),
             words(STATUS.get(p.status, p.status), status=p.status),
             Value(format_cost(currency, p.cost, device) if p.hit else units.NONE, numbers={
                 "core_seconds_to_target": finite(p.core_seconds),
                 f"{currency}_to_target": finite(p.cost)}))
            for label, points in at.items() for p in sorted(points)]
    return Table(f"sensitivity-{knob}", f"Trials by {knob} at N = {ranks}",
                 f"Every trial with its {knob}, how it ended and what it cost to the target.",
                 (("Optimizer", ""), (knob, ""), ("Ended", ""), ("Cost", "to target")),
                 tuple(rows))


def _shares_table(context: Context, sweep: Sweep,
                  bins: Mapping[int, Sequence[RangeBin]]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (name(sweep.label, suite=context.suite.name, hyperparameter=sweep.name),
         number(str(ranks), ranks=ranks), number(units.digits(part.low), low=part.low),
         number(units.digits(part.high), high=part.high), number(str(part.hits), hits=part.hits),
         number(str(part.trials), trials=part.trials))
        for ranks, row in bins.items() for part in row]
    return Table("success-by-hyperparameter", f"Success by {sweep.name}",
                 f"Trials of {sweep.label} that hit, by part of the range of {sweep.name}.",
                 (("Optimizer", ""), ("N", "ranks"), (f"{sweep.name}", "from"),
                  (f"{sweep.name}", "to"), ("Hits", ""), ("Trials", "")), tuple(rows))
