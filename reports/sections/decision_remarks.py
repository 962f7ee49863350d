"""Sentences of the decision: its headline, optimizers that lose, and a target that all missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import units
from bench_apts.reports.table import hits_of_trials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.sections import decision_contest
    from bench_apts.reports.tuning_pools import CostView


def headline(cells: Sequence[ReportCell], once: decision_contest.Contest, view: CostView) -> str:
    """Say in one or two sentences which optimizer to take for a single training."""
    if once.best is None:
        return "No optimizer reached the target." if cells else "Nothing has been run yet."
    label, cost = once.best.cell.label, view.show(once.best.value)
    if not once.rivals:
        return f"{label} reaches the target for {cost}; nothing was run to compare it."
    if once.verdict == "not judged":
        return (f"Not judged: trials differ in {once.unlike}. {label} has the lowest cost on "
                f"record, {cost}.")
    if once.verdict == "clear":
        return f"{label} reaches the target for the least: {cost}, tuning included."
    tied = [rival.entrant.cell.label for rival in once.tied or once.rivals]
    who = units.listing(tied) if len(tied) < 4 else f"{len(tied)} others"
    return (f"No clear winner. {label} has the lowest expected cost, {cost}, but "
            + (f"{who} could not be told from it by so few trials."
               if once.verdict == "cannot be told" else f"the trials do not tell {who} from it."))


def missed(group: CellGroup, cells: Sequence[ReportCell], view: CostView) -> list[str]:
    """Return the cap of a trial and the lower level reached, for a target that all missed."""
    target = group.suite.target
    lines = [f"The cap of each trial was {units.format_budget(group.suite.budget)} of training."]
    for level in sorted((x for x in target.levels if x < 1), reverse=True):
        labels = [cell.label for cell in cells if cell.ert(view.currency, level).hits]
        if labels:
            return [*lines, f"The lower level of {units.format_goal(target, level)} was reached "
                            f"by {units.listing(labels)}."]
    return lines


def families(once: decision_contest.Contest, cells: Sequence[ReportCell],
              view: CostView) -> list[str]:
    """Say how each family fared whose cheapest member is not the best."""
    if once.best is None or len(cells) == 1 or once.verdict == "not judged":
        return []
    if not once.best.value:  # the untrained model met the target
        return []
    families: dict[str, list[ReportCell]] = {}
    for cell in cells:
        families.setdefault(cell.family, []).append(cell)
    return [_loss(once, members, view) for family, members in families.items()
            if family and once.best.cell not in members]


def _loss(once: decision_contest.Contest, members: Sequence[ReportCell], view: CostView) -> str:
    assert once.best is not None
    mine = min(members, key=lambda cell: (
        cell.ert(view.currency).cost, cell.ert(view.currency).total))
    expected = mine.ert(view.currency)
    tied = any(rival.entrant.cell is mine for rival in once.tied)
    if not expected.hits:
        return (f"{mine.label} {'is behind' if tied else 'loses here'}: it costs more than "
                f"{view.show(expected.bound)}, as {hits_of_trials(0, expected.trials)}"
                + (", which so few trials cannot tell from chance." if tied else "."))
    ratio = units.times(expected.cost / once.best.value)
    if tied:
        return (f"{mine.label} is behind at {ratio} the lowest cost, within the uncertainty of "
                "these few trials.")
    return f"{mine.label} loses here: it costs {ratio} as much as {once.best.cell.label}."
