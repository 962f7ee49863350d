"""Who is cheaper than whom over the whole study, and how sure that is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.core.currency import headline

from ..findings import unstable
from ..parts import Listing, Part, Pictures
from ..ranking.profile import figure, problems, table
from ..ranking.rivals import ranked
from ..ranking.tables import levels, order
from ..tuning.pool import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..context import Context
    from ..parts import Block
    from ..ranking.rivals import Ranking


def part(contexts: Sequence[Context]) -> Part | None:
    """Builds the section about all suites of a study at once; None before any trial.

    Unlike the others it takes the contexts of all suites, as a problem of a performance profile
    is one suite at one N.
    """
    device = contexts[0].gathered.device
    view = View(headline(device), 1.0, device)
    groups = [group for context in contexts for group in context.groups]
    rankings = [ranked(group, view) for group in groups]
    listed = order(rankings, view)
    if listed is None:
        return None
    found = problems(rankings)
    blocks: list[Block] = [Listing(listed, folded=False)]
    drawn = figure(found, contexts[0].looks)
    if drawn:
        blocks.append(Pictures((drawn,), wide=True))
    blocks += [Listing(each) for each in (table(found), levels(groups, view)) if each]
    changes = [line for group in groups if (line := unstable(group, view.currency))]
    finding = _finding(rankings, several=len(contexts) > 1)
    if changes:
        finding += " But " + "; ".join(changes) + "."
    return Part("ranking", "Ranking", finding, tuple(blocks),
                legend=drawn is not None)


def _finding(rankings: Sequence[Ranking], *, several: bool) -> str:
    """Says who is first most often, and how many differences from the reference are sure."""
    firsts: dict[str, list[str]] = {}
    for ranking in rankings:
        if ranking.leader:
            where = f"{ranking.group.suite.name} at " if several else ""
            firsts.setdefault(ranking.leader.pool.cell.label, []).append(
                f"{where}N = {ranking.group.ranks} "
                f"({units.percent(ranking.leader.first, 0)})")
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
