"""Performance profiles over the problems of a study.

A problem is a suite, with its variants. Its cases, each N and each variant or target, have the
weight of one problem together: they share data, network and task, and are no independent
witnesses.

Who is cheaper than whom over the whole study, and how sure that is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import headline
from bench_apts.reports.canvas import Figure, finish, heading, panel, scale
from bench_apts.reports.section_parts import FIGURE_SIZE, Listing, Pictures, Section
from bench_apts.reports.sections.cost_ratios import (
    level_rankings_table,
    rank_optimizers,
    ranking_table,
)
from bench_apts.reports.table import Table, Value, name, number, unstable_winner
from bench_apts.reports.tuning_pools import CostView
from bench_apts.stats.rankings import MIN_PROBLEMS, R_MAX, performance_profiles, ratios, shared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_apts.reports.figure_style import Look
    from bench_apts.reports.section_parts import Block, Part, StudyContext
    from bench_apts.reports.sections.cost_ratios import Ranking
    from bench_apts.stats.rankings import Profile

class ProfileProblems(NamedTuple):
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
    def told(self) -> str:
        """The number of problems and of their cases, in words."""
        text = units.plural(self.distinct, "problem")
        more = len(self.names) > self.distinct
        return f"{text} in {units.plural(len(self.names), 'case')}" if more else text


def problems(rankings: Sequence[Ranking]) -> ProfileProblems:
    """Collects expected costs, without problems that no optimizer tried or where none compare."""
    tried = [ranking for ranking in rankings if ranking.rivals and not ranking.unlike]
    costs: dict[str, list[float]] = {}
    for ranking in tried:
        for rival in ranking.rivals:
            costs.setdefault(rival.pool.cell.label, []).append(rival.pool.ert.cost)
    return ProfileProblems(
        tuple(f"{ranking.group.suite.name}, N = {ranking.group.ranks}" for ranking in tried),
        tuple(ranking.group.suite.base for ranking in tried),
        {label: mine for label, mine in costs.items() if len(mine) == len(tried)},
        tuple(label for label, mine in costs.items() if len(mine) < len(tried)))


def profile_table(found: ProfileProblems) -> Table | None:
    """Scores from 8 problems on, with fewer the ratios themselves; None without optimizers."""
    if not found.costs:
        return None
    absent = (f" Left out, as they were not run on all: {units.listing(found.absent)}."
              if found.absent else "")
    if found.distinct >= MIN_PROBLEMS:
        return _scores(found, absent)
    needed = (f"Performance profiles need {MIN_PROBLEMS} problems (suites; several N, targets and "
              f"variants of one are the same problem); this study has {found.distinct}, so here "
              "are the ratios themselves.")
    return Table(
        "ratios", "Expected cost over that of the cheapest", needed + absent,
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


def _scores(found: ProfileProblems, absent: str) -> Table:
    rows = []
    profiles = performance_profiles(found.costs, found.suites)
    for label, mine in ratios(found.costs).items():
        profile = profiles[label]
        solved, first = (shared(each.astype(float), found.suites)
                         for each in (mine < math.inf, mine == 1))
        rows.append((
            name(label, problems=found.distinct, cases=len(mine)),
            number(f"{profile.score:.3f}", units.between(
                f"{profile.interval.low:.3f}", f"{profile.interval.high:.3f}"),
                score=profile.score, score_low=profile.interval.low,
                score_high=profile.interval.high),
            number(units.format_percent(first, 0), cheapest=first),
            number(units.format_percent(solved, 0), solved=solved)))
    rows.sort(key=lambda row: -float(row[1].numbers["score"] or 0.0))
    return Table(
        "profile", "Performance profiles: area scores",
        f"Over {found.told}: area below the profile up to "
        f"a ratio of {R_MAX:g}, exactly mean max(0, {R_MAX:g} − ratio)/{R_MAX - 1:g}, with its "
        "95 % interval from resampling problems; 1 is best. A problem is a suite: its cases, at "
        "several N, with several targets and in variants, share the weight of one and are "
        "resampled together. Adding or removing an optimizer may reorder the others."
        f"{absent}",
        (("Optimizer", ""), ("Score", ""), ("Cheapest", "of problems"),
         ("Reached it", "of problems")), tuple(rows))


def profile_figure(found: ProfileProblems, looks: Mapping[str, Look]) -> Figure | None:
    """Draws the profiles with their bands; None with fewer than 8 problems."""
    if found.distinct < MIN_PROBLEMS or not found.costs:
        return None
    profiles = performance_profiles(found.costs, found.suites)
    drawing, axes = panel(*FIGURE_SIZE)
    for label, profile in profiles.items():
        look = looks[label]
        axes.step(profile.at, profile.share, where="post", color=look.color,
                  linestyle=look.dashes, marker=look.marker, markevery=(0, 8), markersize=5,
                  markeredgewidth=0)
        axes.fill_between(profile.at, profile.low, profile.high, step="post", color=look.color,
                          alpha=0.08, linewidth=0)
    scale(axes, "x", units.digits, limits=(1, R_MAX))
    scale(axes, "y", lambda share: units.format_percent(share, 0), limits=(0, 1.02))
    axes.set_xlabel("expected cost over that of the cheapest optimizer")
    heading(axes, "share of problems solved within that ratio")
    best = max(profiles, key=lambda label: profiles[label].score)
    score = profiles[best]
    return finish(
        drawing, "performance-profile", "Performance profiles over all problems",
        f"Largest area: {best}, score {score.score:.2f} (95 % interval {score.interval.low:.2f} "
        f"to {score.interval.high:.2f}). Bands: 95 % at each point, from resampling problems.",
        {label: looks[label] for label in profiles},
        basis=f"n = {found.told}: {'; '.join(found.names)}.",
        data=_points(profiles))


def _points(profiles: Mapping[str, Profile]) -> Table:
    """The profiles where one of them steps."""
    rows = []
    for label, profile in profiles.items():
        points = zip(profile.at, profile.share, profile.low, profile.high, strict=True)
        previous = None
        for at, share, low, high in points:
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


SECTION = Section("ranking", "Ranking", order=110, study=True)


def part(study: StudyContext) -> Part | None:
    """Builds the section; None before any trial."""
    contexts = study.suites
    device = contexts[0].gathered.device
    view = CostView(headline(device), 1.0, device)
    groups = [group for context in contexts for group in context.groups]
    rankings = [rank_optimizers(group, view) for group in groups]
    listed = ranking_table(rankings, view)
    if listed is None:
        return None
    found = problems(rankings)
    blocks: list[Block] = [Listing(listed, folded=False)]
    drawn = profile_figure(found, contexts[0].looks)
    if drawn:
        blocks.append(Pictures((drawn,), wide=True))
    blocks += [
        Listing(each)
        for each in (profile_table(found), level_rankings_table(groups, view))
        if each
    ]
    changes = [line for group in groups if (line := unstable_winner(group, view.currency))]
    finding = _finding(rankings, several=len(contexts) > 1)
    if changes:
        finding += " But " + "; ".join(changes) + "."
    return SECTION.part(finding, tuple(blocks),
                legend=drawn is not None)


def _finding(rankings: Sequence[Ranking], *, several: bool) -> str:
    """Says who is first most often, and how many differences from the reference are sure."""
    firsts: dict[str, list[str]] = {}
    for ranking in rankings:
        if ranking.leader:
            where = f"{ranking.group.suite.name} at " if several else ""
            firsts.setdefault(ranking.leader.pool.cell.label, []).append(
                f"{where}N = {ranking.group.ranks} "
                f"({units.format_percent(ranking.leader.first, 0)})")
    compared = [rival for ranking in rankings for rival in ranking.rivals
                if rival.comparison and not rival.unlike]
    sure = sum(rival.decision.differs for rival in compared)
    blind = sum(rival.decision.verdict == "cannot be told" for rival in compared)
    unlike = [f"{ranking.group.suite.name} at N = {ranking.group.ranks}, where trials differ in "
              f"{ranking.unlike}" for ranking in rankings if ranking.unlike]
    unjudged = f"Not judged: {'; '.join(unlike)}." if unlike else ""
    if not firsts and unjudged:
        return unjudged
    if not firsts:
        return "Nobody is first: no trial reached the target, or there are too few to resample."
    parts = [f"{label} {'on' if several else 'at'} {units.listing(places)}"
             for label, places in firsts.items()]
    text = f"Cheapest in most resamples: {'; '.join(parts)}."
    alone = list(dict.fromkeys(rival.pool.cell.label for ranking in rankings
                               if not ranking.unlike
                               for rival in ranking.rivals if math.isnan(rival.first)))
    if alone:
        text += f" Not among them, as one trial cannot be resampled: {units.listing(alone)}."
    if compared:
        text += (f" {sure} of {units.plural(len(compared), 'comparison')} with the reference "
                 f"{'tells' if sure == 1 else 'tell'} the two apart (★).")
        if blind:
            text += (f" {blind} could not have, however large the difference: the trials are too "
                     "few.")
    return f"{text} {unjudged}".rstrip()
