"""Who is cheaper than whom over the whole study, and how sure that is.

Performance profiles are taken over problems. A problem is a suite, with its variants. Its cases,
each N and each variant or target, have the weight of one problem together: they share data,
network and task, and are not independent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from bench_apts.core import units
from bench_apts.core.currencies import headline
from bench_apts.reports.canvas import Figure, draw_lines, heading, panel, scale
from bench_apts.reports.section_parts import FIGURE_SIZE, Listing, Pictures, Section, tables
from bench_apts.reports.sections import cost_ratios
from bench_apts.reports.table import Table, Value, name, number, unstable_winner
from bench_apts.reports.tuning_pools import CostView
from bench_apts.stats.rankings import MIN_PROBLEMS, R_MAX, performance_profiles, ratios, shared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Block, Part, StudyContext
    from bench_apts.reports.sections.cost_ratios import Ranking
    from bench_apts.stats.rankings import Profile

SECTION = Section("ranking", "Ranking", order=110, study=True)


def part(study: StudyContext) -> Part | None:
    """Build the section; None before any trial."""
    contexts = study.suites
    device = contexts[0].gathered.device
    view = CostView(headline(device), 1.0, device)
    groups = [group for context in contexts for group in context.groups]
    rankings = [cost_ratios.rank_optimizers(group, view) for group in groups]
    listed = cost_ratios.ranking_table(rankings, view)
    if not listed.rows:
        return None
    found = _problems(rankings)
    blocks: list[Block] = [Listing(listed, folded=False)]
    drawn = _profile_figure(found, contexts[0].looks)
    if drawn:
        blocks.append(Pictures((drawn,)))
    blocks += tables(_profile_table(found), cost_ratios.level_rankings_table(groups, view))
    changes = [line for group in groups if (line := unstable_winner(group, view.currency))]
    finding = _finding(rankings, several=len(contexts) > 1)
    if changes:
        finding += f" But {'; '.join(changes)}."
    return SECTION.part(finding, blocks)


def _finding(rankings: Sequence[Ranking], *, several: bool) -> str:
    """Say who is first most often, and how many differences from the reference are sure."""
    firsts: dict[str, list[str]] = {}
    for ranking in rankings:
        if ranking.best:
            where = f"{ranking.group.suite.name} at " if several else ""
            firsts.setdefault(ranking.best.pool.cell.label, []).append(
                f"{where}N = {ranking.group.ranks} "
                f"({units.format_percent(ranking.best.first, 0)})")
    unlike = [f"{ranking.group.suite.name} at N = {ranking.group.ranks}, where trials differ in "
              f"{ranking.unlike}" for ranking in rankings if ranking.unlike]
    unjudged = f"Not judged: {'; '.join(unlike)}." if unlike else ""
    if not firsts:
        return unjudged or ("Nobody is first: no trial reached the target, or there are too few "
                            "to resample.")
    parts = [f"{label} {'on' if several else 'at'} {units.listing(places)}"
             for label, places in firsts.items()]
    text = f"Cheapest in most resamples: {'; '.join(parts)}."
    alone = list(dict.fromkeys(rival.pool.cell.label for ranking in rankings
                               if not ranking.unlike
                               for rival in ranking.rivals if math.isnan(rival.first)))
    if alone:
        text += f" Not among them, as one trial cannot be resampled: {units.listing(alone)}."
    compared = [rival.decision for ranking in rankings for rival in ranking.rivals
                if rival.comparison and not rival.unlike]
    if compared:
        sure = sum(decision.differs for decision in compared)
        text += (f" {sure} of {units.plural(len(compared), 'comparison')} with the reference "
                 f"{'tells' if sure == 1 else 'tell'} the two apart (★).")
        blind = sum(decision.verdict == "cannot be told" for decision in compared)
        if blind:
            text += (f" {blind} could not have, however large the difference: the trials are too "
                     "few.")
    return f"{text} {unjudged}".rstrip()


class _Problems(NamedTuple):
    """What a profile is made of.

    Attributes:
        names: The cases: a suite or a variant at one N each.
        suites: The problem that each case belongs to.
        costs: Expected cost of each optimizer in each case, infinite where it missed.
        absent: Optimizers without trials on some of them, which a profile must leave out.
    """

    names: tuple[str, ...]
    suites: tuple[str, ...]
    costs: dict[str, list[float]]
    absent: tuple[str, ...]

    @property
    def distinct(self) -> int:
        """How many problems there are."""
        return len(set(self.suites))

    @property
    def counted(self) -> str:
        """The number of problems and of their cases, in words."""
        text = units.plural(self.distinct, "problem")
        more = len(self.names) > self.distinct
        return f"{text} in {units.plural(len(self.names), 'case')}" if more else text


def _problems(rankings: Sequence[Ranking]) -> _Problems:
    """Collect expected costs, without problems that no optimizer tried or where none compare."""
    tried = [ranking for ranking in rankings if ranking.rivals and not ranking.unlike]
    costs: dict[str, list[float]] = {}
    for ranking in tried:
        for rival in ranking.rivals:
            costs.setdefault(rival.pool.cell.label, []).append(rival.pool.ert.cost)
    return _Problems(
        tuple(f"{ranking.group.suite.name}, N = {ranking.group.ranks}" for ranking in tried),
        tuple(ranking.group.suite.base for ranking in tried),
        {label: mine for label, mine in costs.items() if len(mine) == len(tried)},
        tuple(label for label, mine in costs.items() if len(mine) < len(tried)))


def _profile_table(found: _Problems) -> Table | None:
    """Return scores from 8 problems on, with fewer the ratios; None without optimizers."""
    if not found.costs:
        return None
    absent = (f" Left out, as they were not run on all: {units.listing(found.absent)}."
              if found.absent else "")
    if found.distinct >= MIN_PROBLEMS:
        return Table(
            "profile", "Performance profiles: area scores",
            f"Over {found.counted}: area below the profile up to a ratio of {R_MAX:g}, exactly "
            f"mean max(0, {R_MAX:g} − ratio)/{R_MAX - 1:g}, with its 95 % interval from "
            "resampling problems; 1 is best. A problem is a suite: its cases, at several N, with "
            "several targets and in variants, share the weight of one and are resampled "
            f"together. Adding or removing an optimizer may reorder the others.{absent}",
            (("Optimizer", ""), ("Score", ""), ("Cheapest", "of problems"),
             ("Reached it", "of problems")), tuple(_scores(found)))
    return Table(
        "ratios", "Expected cost over that of the cheapest",
        f"Performance profiles need {MIN_PROBLEMS} problems (suites; several N, targets and "
        f"variants of one are the same problem); this study has {found.distinct}, so here are "
        f"the ratios themselves.{absent}",
        (("Optimizer", ""), *((problem, "") for problem in found.names)),
        tuple((name(label), *(_ratio(problem, float(value))
                              for problem, value in zip(found.names, mine, strict=True)))
              for label, mine in ratios(found.costs).items()))


def _ratio(problem: str, value: float) -> Value:
    column = f"ratio_{problem.replace(', N = ', '_n')}"
    if math.isinf(value):
        return Value("not reached", numbers={column: None}, kind="number missed")
    return Value(units.digits(value), numbers={column: value},
                 kind="number best" if value == 1 else "number")


def _scores(found: _Problems) -> Iterator[tuple[Value, ...]]:
    profiles = performance_profiles(found.costs, found.suites)
    every = ratios(found.costs)
    for label in sorted(every, key=lambda label: -profiles[label].score):
        score, (low, high) = profiles[label].score, profiles[label].interval
        solved, first = (shared(each.astype(float), found.suites)
                         for each in (every[label] < math.inf, every[label] == 1))
        yield (name(label, problems=found.distinct, cases=len(every[label])),
               number(f"{score:.3f}", units.between(f"{low:.3f}", f"{high:.3f}"), score=score,
                      score_low=low, score_high=high),
               number(units.format_percent(first, 0), cheapest=first),
               number(units.format_percent(solved, 0), solved=solved))


def _profile_figure(found: _Problems, looks: Mapping[str, Look]) -> Figure | None:
    """Draw the profiles with their bands; None with fewer than 8 problems."""
    if found.distinct < MIN_PROBLEMS or not found.costs:
        return None
    profiles = performance_profiles(found.costs, found.suites)

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE)
        draw_lines(axes, pd.concat([
            pd.DataFrame({"optimizer": label, "ratio": profile.at, "share": profile.share})
            for label, profile in profiles.items()]), "ratio", "share", looks,
            drawstyle="steps-post", markevery=(0, 8))
        for label, profile in profiles.items():
            axes.fill_between(profile.at, profile.low, profile.high, step="post",
                              color=looks[label].color, alpha=0.08, linewidth=0)
        scale(axes, "x", units.digits, limits=(1, R_MAX))
        scale(axes, "y", lambda share: units.format_percent(share, 0), limits=(0, 1.02))
        axes.set_xlabel("expected cost over that of the cheapest optimizer")
        heading(axes, "share of problems solved within that ratio")
        return drawing

    best = max(profiles, key=lambda label: profiles[label].score)
    low, high = profiles[best].interval
    return Figure(
        draw, "performance-profile", "Performance profiles over all problems",
        f"Largest area: {best}, score {profiles[best].score:.2f} (95 % interval {low:.2f} to "
        f"{high:.2f}). Bands: 95 % at each point, from resampling problems.",
        {label: looks[label] for label in profiles},
        basis=f"n = {found.counted}: {'; '.join(found.names)}.", data=_profile_points(profiles))


def _profile_points(profiles: Mapping[str, Profile]) -> Table:
    """Return the profiles where one of them steps."""
    rows = []
    for label, profile in profiles.items():
        previous = None
        for at, share, low, high in zip(profile.at, profile.share, profile.low, profile.high,
                                        strict=True):
            if share != previous or at == profile.at[-1]:
                rows.append((
                    name(label), number(units.digits(at), ratio=at),
                    number(units.format_percent(share), units.between(
                        units.format_percent(low), units.format_percent(high)), share=share,
                        share_low=low, share_high=high)))
            previous = share
    return Table("profile-points", "Performance profiles",
                 "Share of problems solved within a ratio, where it changes, with its band.",
                 (("Optimizer", ""), ("Ratio", ""), ("Share", "of problems")), tuple(rows))
