"""What the numbers say, in plain sentences written from the data."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench_apts.stats.costs import known
from bench_apts.stats.stability import stability

from . import units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.costs import Currency
    from bench_apts.stats.noise import Noise

    from .cells import Cell, Group

HEADLINE: Currency = "core_seconds"

ENOUGH = 5
"""Trials that an optimizer needs before its interval may decide: of fewer, all lie on the same
side of the truth too often (with 5 independent ones, at 1 in 16)."""


Verdict = Literal["clear", "tentative", "unclear", "none"]


@dataclass(frozen=True)
class Finding:
    """The answer for one suite and one N.

    Attributes:
        group: What it is about.
        verdict: Whether one optimizer leads beyond its interval, leads so with too few trials
            to tell, is tied with others, or none hit.
        headline: The answer in one sentence.
        sentences: What else a reader should know.
    """

    group: Group
    verdict: Verdict
    headline: str
    sentences: tuple[str, ...]


def find(group: Group, device: str) -> Finding:
    """Writes the finding of one suite at one N."""
    cells = [cell for cell in group.cells if cell.draws]
    ranked = ranking(cells)
    if not ranked:
        return Finding(group, "none", *_nobody(group, cells))
    best = ranked[0]
    cost = units.cost(HEADLINE, best.ert(HEADLINE).cost, device)
    rivals = tied(best, cells)
    sentences: list[str] = []
    if len(cells) == 1:
        verdict: Verdict = "unclear"
        headline = f"{best.label} reaches the target for {cost}; nothing was run to compare it."
    elif rivals:
        verdict = "unclear"
        headline = (f"No clear winner. {best.label} has the lowest expected cost, {cost}, but "
                    f"its interval overlaps with {_possessive(rivals)}.")
    elif (fewest := min(len(cell.draws) for cell in cells)) < ENOUGH:
        verdict = "tentative"
        headline = f"{best.label} has the lowest expected cost, {cost}, tuning included."
        sentences.append(f"Its interval is clear of the others, but with as few as "
                         f"{units.plural(fewest, 'trial')} for an optimizer this is a first "
                         "indication, not a result.")
    else:
        verdict = "clear"
        headline = f"{best.label} reaches the target for the least: {cost}, tuning included."
    if len(ranked) > 1:
        second = ranked[1]
        ratio = second.ert(HEADLINE).cost / best.ert(HEADLINE).cost
        sentences.append(f"The runner-up, {second.label}, costs {units.times(ratio)} as much "
                         f"({units.cost(HEADLINE, second.ert(HEADLINE).cost, device)}).")
    elif len(cells) > 1:
        sentences.append("No other optimizer reached it.")
    sentences += _apts(best, cells, device)
    sentences += _trained(cells, group.noise)
    if group.ranks > 1:
        sentences += _wire(cells)
    return Finding(group, verdict, headline, tuple(sentences))


def unstable(group: Group, currency: Currency = HEADLINE) -> str:
    """Says how the winner depends on the level of the target; "" if it does not."""
    levels = group.suite.target.every_level
    cells = [cell for cell in group.cells if cell.draws and all(
        known(cell.outcomes(level), currency) for level in levels)]
    found = stability({level: {cell.label: cell.ert(currency, level).cost for cell in cells}
                       for level in levels})
    if not found.winner_changes:
        return ""
    reached = [(level, sorted(found.winners[level])) for level in levels if found.winners[level]]
    parts = [f"{units.listing(names)} at "
             + units.listing([units.percent(level, 0) for level, _ in run])
             for names, run in itertools.groupby(reached, lambda pair: pair[1])]
    return (f"the winner depends on the level of the target, {group.suite.name} at "
            f"N = {group.ranks}: {', '.join(parts)}")


def ranking(cells: Sequence[Cell], currency: Currency = HEADLINE) -> list[Cell]:
    """Returns the optimizers that reached the target, the cheapest expected cost first."""
    reached = [cell for cell in cells if math.isfinite(cell.ert(currency).cost)]
    return sorted(reached, key=lambda cell: cell.ert(currency).cost)


def tied(best: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """Returns the others whose interval overlaps with that of ``best``, or that have none."""
    mine = best.interval(HEADLINE)
    others = [cell for cell in cells if cell is not best]
    return [cell for cell in others
            if mine is None or (theirs := cell.interval(HEADLINE)) is None
            or mine.overlaps(theirs)]


def misses(hits: int, trials: int) -> str:
    """Says how many trials hit: ``0 of 4 reached it``."""
    return f"{hits} of {trials} reached it"


def _possessive(cells: Sequence[Cell]) -> str:
    names = units.listing([cell.label for cell in cells])
    return f"that of {names}" if len(cells) == 1 else f"those of {names}"


def _nobody(group: Group, cells: Sequence[Cell]) -> tuple[str, tuple[str, ...]]:
    if not cells:
        return "Nothing has been run yet.", ()
    target = group.suite.target
    budget = group.suite.budget
    sentences = [f"The cap was {units.trim(units.count(budget.samples))} samples or "
                 f"{units.trim(units.seconds(budget.seconds))} of training in each trial."]
    for level in sorted((x for x in target.levels if x < 1), reverse=True):
        reached = [cell.label for cell in cells if cell.ert(HEADLINE, level).hits]
        if reached:
            sentences.append(f"The lower level of {units.goal(target, level)} was reached by "
                             f"{units.listing(reached)}.")
            break
    return "No optimizer reached the target.", tuple(sentences)


def _apts(best: Cell, cells: Sequence[Cell], device: str) -> list[str]:
    """Says plainly how APTS fared, the method that this harness was built to judge."""
    family = [cell for cell in cells if cell.optimizer == "apts"]
    if not family or len(cells) == 1:
        return []
    mine = min(family, key=lambda cell: (cell.ert(HEADLINE).cost, cell.ert(HEADLINE).total))
    if mine is best:
        return []
    expected = mine.ert(HEADLINE)
    if not expected.hits:
        return [f"{mine.label} loses here: more than "
                f"{units.cost(HEADLINE, expected.total, device)} spent, "
                f"{misses(0, expected.trials)}."]
    ratio = expected.cost / best.ert(HEADLINE).cost
    if mine in tied(best, cells):
        return [f"{mine.label} is behind at {units.times(ratio)} the lowest cost, within the "
                "uncertainty of these few trials."]
    return [f"{mine.label} loses here: it costs {units.times(ratio)} as much as {best.label}."]


def _trained(cells: Sequence[Cell], noise: Noise | None) -> list[str]:
    """Names the fastest single training, the number that counts once tuning is paid."""
    timed = [(cell.to_target("train_s").median, cell) for cell in cells if cell.seeds]
    reached = sorted(((t, c) for t, c in timed if math.isfinite(t)), key=lambda pair: pair[0])
    if not reached or not any(cell.tune for cell in cells):
        return []
    time, fastest = reached[0]
    close = [cell.label for t, cell in reached[1:] if noise and t <= time * noise.factor]
    return [f"One more training with settings already found takes the least time with "
            f"{fastest.label}: {units.seconds(time)} (median of "
            f"{units.plural(len(fastest.seeds), 'seed')})"
            + (f"; {units.listing(close)} {'are' if len(close) > 1 else 'is'} no further off than "
               "equal trials are from one another" if close else "") + "."]


def _wire(cells: Sequence[Cell]) -> list[str]:
    ranked = ranking(cells, "wire_bytes")
    if not ranked or not ranked[0].ert("wire_bytes").cost:
        return []
    least = ranked[0]
    text = (f"Fewest bytes on the network, tuning included: {least.label}, "
            f"{units.size(least.ert('wire_bytes').cost)} sent per rank")
    if len(ranked) > 1:
        ratio = ranked[1].ert("wire_bytes").cost / least.ert("wire_bytes").cost
        text += f"; {ranked[1].label} sends {units.times(ratio)} as many"
    return [text + "."]
