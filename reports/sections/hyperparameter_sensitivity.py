"""Figures of one hyperparameter: cost against it with the failures, and success by N.

Sensitivity: cost against the hyperparameter that was varied, success by N, and transfer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, currency_noun, format_cost, headline
from bench_apts.reports.canvas import Figure, finish, heading, headroom, panel, plain, scale
from bench_apts.reports.caveats import on_the_edge
from bench_apts.reports.cost_tables import STATUS
from bench_apts.reports.figure_style import INK, LOOKS
from bench_apts.reports.section_parts import Block, Listing, Pictures, Prose, Section
from bench_apts.reports.sections.hyperparameter_sweeps import find_sweeps, transfer_table
from bench_apts.reports.table import Table, Value, name, number, words
from bench_apts.stats.range_sensitivity import log_edges, success_by_bin, working_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from bench_apts.reports.canvas import Figure
    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Context, Part
    from bench_apts.reports.sections.hyperparameter_sweeps import Sweep, SweepPoint
    from bench_apts.stats.range_sensitivity import RangeBin

BINS = 5
"""Into how many parts of equal ratio a searched range is cut."""

_SIGNS = {"miss": "x", "hit": "x", "timeout": "|", "diverged": "+", "oom": "s", "error": "^",
          "pruned": "_", "interrupted": ".", "unfinished": "."}
"""Markers of trials whose evaluations do not reach the target, by status."""

_WORDS = {"x": "× missed the target", "+": "+ diverged", "|": "| ran into the time limit",
          "s": "□ ran out of memory", "^": "△ failed", "_": "– was pruned",
          ".": "· did not end"}

_LINE = 0.055
"""Height of one optimizer's line of failures, as a share of the axes."""


def sweep_figure(context: Context, ranks: int, sweeps: Sequence[Sweep]) -> Figure | None:
    """Draws cost against the value of every trial at one N; failures stand at the top edge.

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
    drawing, axes = panel()
    low, high = min(s.low for s in sweeps), max(s.high for s in sweeps)
    margin = (high / low) ** 0.03
    costs = [point.cost for point in every if point.hit] or [1.0]
    strip = min(0.6, 0.03 + _LINE * sum(any(not p.hit for p in points)
                                        for points in at.values()))
    least, most = min(costs) / 1.25, max(costs) * 1.25
    currency = headline(device)
    scale(axes, "y", CURRENCIES[currency].form, log=True,
          limits=headroom(least, most, strip))
    scale(axes, "x", units.digits, log=True, limits=(low / margin, high * margin))
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= most])
    line = 1.0
    for label, points in at.items():
        look = context.looks[label]
        _hits(axes, [p for p in points if p.hit], look)
        failed = [p for p in points if not p.hit]
        if failed:
            line -= min(_LINE, strip / len(at))
            _failures(axes, failed, line, look)
    if not any(point.hit for point in every):
        axes.set_yticks([])
    axes.set_xlabel(knob)
    heading(axes, f"{currency_noun(currency, device)} to the target")
    hits = sum(point.hit for point in every)
    signs = dict.fromkeys(_SIGNS[p.status] for p in every if not p.hit)
    caption = (_working(at) + (
        f" At the top edge, one line for each optimizer: "
        f"{units.listing([_WORDS[sign] for sign in signs])}." if signs else "")
        + (" Ringed: the configuration chosen." if any(p.chosen for p in every) else ""))
    drawn = {label: context.looks[label] for label, points in at.items() if points}
    return finish(
        drawing, f"{context.prefix}-n{ranks}-sensitivity-{knob}",
        f"{context.suite.name}, N = {ranks}: cost to the target against {knob}", caption, drawn,
        basis=f"{units.plural(len(every), 'trial')}, {hits} of which hit. {context.conditions}",
        data=_points(context, ranks, knob, at))


def hit_share_figure(context: Context, sweep: Sweep) -> Figure:
    """Draws the share of trials that hit, by part of the range and N; numbers stand in it."""
    sizes = sorted({point.ranks for point in sweep.points})
    bins = {ranks: _bins(sweep, ranks) for ranks in sizes}
    columns = bins[sizes[0]]
    drawing, axes = panel(3.7, 0.34 * len(sizes) + 0.95, left=0.62, bottom=0.52)
    for row, ranks in enumerate(sizes):
        for at, part in enumerate(bins[ranks]):
            share = part.hits / part.trials if part.trials else 0.0
            # One hue whose strength is opacity, which reads on a light and a dark page.
            axes.axvspan(at - 0.48, at + 0.48, 1 - (row + 0.96) / len(sizes),
                         1 - (row + 0.04) / len(sizes), color=LOOKS[0].color,
                         alpha=0.05 + 0.45 * share, linewidth=0)
            axes.text(at, row, f"{part.hits} of {part.trials}" if part.trials else units.NONE,
                      ha="center", va="center", color=INK, fontsize=8)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(sizes) - 0.5, -0.5)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_yticks(range(len(sizes)), [f"N = {ranks}" for ranks in sizes])
    if sweep.searched:
        edges = [part.low for part in columns] + [columns[-1].high]
        axes.set_xticks([at - 0.5 for at in range(len(edges))],
                        [units.trim(units.digits(edge, 2)) for edge in edges])
    else:
        axes.set_xticks(range(len(columns)),
                        [units.trim(units.digits(part.low)) for part in columns])
    axes.set_xlabel(sweep.name)
    heading(axes, f"{plain(sweep.label)}: trials that hit")
    hits, trials = sum(hit for _, hit in sweep.drawn()), len(sweep.points)
    return finish(
        drawing, f"{context.prefix}-success-{sweep.name}-{_slug(context, sweep)}",
        f"{context.suite.name}: trials of {sweep.label} that hit, by {sweep.name} and N",
        _best(sweep, bins), {},
        basis=f"{units.plural(trials, 'trial')}, {hits} of which hit. {context.conditions}",
        data=_shares(context, sweep, bins))


def _bins(sweep: Sweep, ranks: int) -> list[RangeBin]:
    drawn = sweep.drawn(ranks)
    if sweep.searched:
        return success_by_bin(drawn, log_edges(sweep.low, sweep.high, BINS))
    values = sorted({value for value, _ in sweep.drawn()})
    return [found._replace(high=found.low) for found in success_by_bin(drawn, [*values, math.inf])]


def _hits(axes: Axes, points: Sequence[SweepPoint], look: Look) -> None:
    axes.plot([p.value for p in points], [p.cost for p in points], linestyle="",
              marker=look.marker, markersize=5, color=look.color, alpha=0.75, markeredgewidth=0)
    chosen = [p for p in points if p.chosen]
    axes.plot([p.value for p in chosen], [p.cost for p in chosen], linestyle="", marker="o",
              markersize=10, color="none", markeredgecolor=look.color, markeredgewidth=1.3)


def _failures(axes: Axes, points: Sequence[SweepPoint], line: float, look: Look) -> None:
    for sign in dict.fromkeys(_SIGNS[p.status] for p in points):
        mine = [p.value for p in points if _SIGNS[p.status] == sign]
        axes.plot(mine, [line + _LINE / 4] * len(mine), linestyle="", marker=sign, markersize=5,
                  color=look.color, fillstyle="none" if sign in "s^" else "full",
                  markeredgewidth=1.3, transform=axes.get_xaxis_transform(),
                  clip_on=False)


def _working(at: Mapping[str, Sequence[SweepPoint]]) -> str:
    """Says between which values each optimizer reached the target."""
    parts = []
    for label, points in at.items():
        hits = [point.value for point in points if point.hit]
        if hits:
            span = (units.trim(units.digits(min(hits))) if min(hits) == max(hits) else
                    f"{units.trim(units.digits(min(hits)))} to "
                    f"{units.trim(units.digits(max(hits)))}")
            parts.append(f"{label} from {span} ({len(hits)} of {len(points)})"
                         if " to " in span else f"{label} at {span} ({len(hits)} of "
                         f"{len(points)})")
    return (f"Trials that hit lie: {units.listing(parts)}." if parts
            else "No trial reached the target.")


def _best(sweep: Sweep, bins: Mapping[int, Sequence[RangeBin]]) -> str:
    """Names the part of the range in which most trials hit, over all N."""
    sums = [(sum(row[at].hits for row in bins.values()), sum(row[at].trials for row in
             bins.values()), row_part) for at, row_part in enumerate(next(iter(bins.values())))]
    drawn = [(hits / trials, hits, trials, part) for hits, trials, part in sums if trials]
    share, hits, trials, part = max(drawn, key=lambda entry: entry[0])
    if not share:
        return f"No trial of {sweep.label} reached the target."
    low, high = (units.trim(units.digits(end)) for end in (part.low, part.high))
    where = f"at {low}" if part.low == part.high else f"between {low} and {high}"
    return f"Most often it hits with {sweep.name} {where}: {hits} of {trials} trials over all N."


def _slug(context: Context, sweep: Sweep) -> str:
    return f"c{list(context.looks).index(sweep.label)}"


def _points(context: Context, ranks: int, knob: str,
            at: Mapping[str, Sequence[SweepPoint]]) -> Table:
    device = context.gathered.device
    currency = headline(device)
    rows = [(name(label, suite=context.suite.name, hyperparameter=knob, ranks=ranks),
             number(units.digits(p.value), value=p.value),
             words(STATUS.get(p.status, p.status), status=p.status),
             Value(format_cost(currency, p.cost, device) if p.hit else units.NONE, numbers={
                 "core_seconds_to_target": p.core_seconds if p.hit else None,
                 f"{currency}_to_target": p.cost if p.hit else None}))
            for label, points in at.items() for p in sorted(points)]
    return Table(f"sensitivity-{knob}", f"Trials by {knob} at N = {ranks}",
                 f"Every trial with its {knob}, how it ended and what it cost to the target.",
                 (("Optimizer", ""), (knob, ""), ("Ended", ""), ("Cost", "to target")),
                 tuple(rows))


def _shares(context: Context, sweep: Sweep, bins: Mapping[int, Sequence[RangeBin]]) -> Table:
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


SECTION = Section("sensitivity", "Sensitivity", order=60)


def part(context: Context) -> Part | None:
    """Builds the section; None where no hyperparameter was varied."""
    found = find_sweeps(context.groups)
    if not found:
        return None
    blocks: list[Block] = [Prose(line) for line in _edges(context)]
    for knob in dict.fromkeys(sweep.name for sweep in found):
        mine = [sweep for sweep in found if sweep.name == knob]
        drawn = [figure for group in context.groups
                 if (figure := sweep_figure(context, group.ranks, mine))]
        if drawn:
            blocks.append(Pictures(tuple(drawn), f"Cost against {knob}"))
    heats: list[Figure] = [hit_share_figure(context, sweep) for sweep in found]
    blocks.append(Pictures(tuple(heats), "Share of trials that hit",
                           key="The stronger the colour, the more of the trials in this part of "
                               "the range hit."))
    table = transfer_table(context)
    if table is not None:
        blocks.append(Listing(table, folded=False))
    return SECTION.part(_finding(found), tuple(blocks), legend=True,
                drawn=tuple(dict.fromkeys(sweep.label for sweep in found)))


def _finding(found: Sequence[Sweep]) -> str:
    """Compares the optimizers by the share of trials that hit, and says how wide that is."""
    ranked = sorted(found, key=_share, reverse=True)
    best, worst = ranked[0], ranked[-1]
    if not _share(best):
        return "No trial reached the target, whatever its hyperparameters."
    if _share(best) == _share(worst):
        return f"Over all N, {units.listing([_rate(sweep) for sweep in found])}."
    return f"Over all N, {_rate(best)}, the largest share; {_rate(worst)}, the smallest."


def _share(sweep: Sweep) -> float:
    """Share of the trials that hit, over all N."""
    return sum(hit for _, hit in sweep.drawn()) / len(sweep.points)


def _rate(sweep: Sweep) -> str:
    hits = sum(hit for _, hit in sweep.drawn())
    text = f"{hits} of {units.plural(len(sweep.points), 'trial')} of {sweep.label} hit"
    found = working_range(sweep.drawn())
    if found is None or found[0] == found[1]:
        return text
    low, high = (units.trim(units.digits(end)) for end in found)
    return f"{text}, with {sweep.name} between {low} and {high}"


def _edges(context: Context) -> list[str]:
    """Warns of each optimum at an end of what was searched, with its place."""
    lines = []
    for group in context.groups:
        for cell in group.cells:
            if cell.leader or cell.frozen is None or cell.frozen.trial.searched is None:
                continue
            for knob in on_the_edge(cell):
                low, high = cell.frozen.trial.searched.ranges[knob]
                value = cell.frozen.trial.hyperparameters[knob]
                assert isinstance(value, int | float)
                lines.append(
                    f"Optimum at the edge: at N = {group.ranks} the best {knob} of {cell.label} "
                    f"is {units.trim(units.digits(value))}, at an end of what was searched, "
                    f"{units.trim(units.digits(low))} to {units.trim(units.digits(high))}. A "
                    "wider range may hold better (--space wide).")
    return lines
