"""Which optimizer to take: four situations at each N, each with its best and how sure that is."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts import fabrics
from bench_apts.stats.noise import noise

from .. import units
from ..cells import pace, peak_memory
from ..decision.contest import Contest, contest, words
from ..decision.entrants import by_cost, by_memory, by_network, by_trainings, projectable
from ..findings import ENOUGH, HEADLINE, followers, misses
from ..parts import Answer, Box, Boxes, Part, Prose
from ..tuning.pays import MANY, crossings, first_to_pay, sentence, verdict
from ..tuning.pool import View, pool
from ..tuning.scene import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.projection import Fabric

    from ..cells import Cell, Group
    from ..context import Context
    from ..table import Plain
    from ..tuning.pool import Pool

_HOW = ("Ratios are to the lowest expected value and come with their 95 % interval: a bootstrap, "
        "in pairs where trials share their seeds. Somebody wins only where the intervals of all "
        "others exclude 1, corrected by Holm for their number, and the ratio exceeds what equal "
        "trials differ by. Costs of one and of ten trainings count the tuning; ten are all "
        "tuning trials and nine trainings on fresh seeds. Memory is the mean "
        "peak of a rank in the final trainings, of those whose median seed reached the target.")

_PAYS = "When tuning pays (R*)"

_SLOW = 2
"""Named networks that count as slow: those of the least bandwidth."""


def part(context: Context) -> Part:
    """Builds a decision box for each N of a suite."""
    boxes = tuple(_box(context, group) for group in context.groups)
    finding = " ".join(f"{box.heading}: {box.headline}" for box in boxes)
    return Part("decision", "Which optimizer to take", finding, (Boxes(boxes), Prose(_HOW)))


def _box(context: Context, group: Group) -> Box:
    device = context.gathered.device
    cells = [cell for cell in group.cells if cell.draws]
    view = View(HEADLINE, 1.0, device)
    rivals = [cell for cell in cells if not cell.leader]
    pools = [found for cell in rivals if (found := pool(cell, view))]
    scatter = group.noise.factor if group.noise else 1.0

    def bill(value: float) -> str:
        return units.cost(HEADLINE, value, device)

    once = contest([by_cost(found) for found in pools], scatter, group.unlike)
    answers = [_answer(group, "Training once", once, bill, "train_once")]
    if ten := _ten_times(group, pools, scatter, bill):
        answers.append(ten)
    if group.ranks > 1:
        answers += _networks(context, group, rivals)
    answers.append(_answer(group, "When memory is short", contest(
        [by_memory(cell) for cell in cells if cell.seeds], _memory_noise(group), group.unlike),
        units.size, "memory"))
    headline, remarks = _headline(group, cells, once, device)
    shared = followers(cells, HEADLINE, device)
    pays = _pays(pools, group.unlike)
    if pays:
        answers.append(pays)
    return Box(
        (f"{context.suite.name}, " if len(context.gathered.file.study.suites) > 1 else "")
        + f"N = {group.ranks}", once.verdict, headline, tuple(answers),
        (*remarks, *_apts(once, rivals, device), *([shared] if shared else [])),
        "† more ranks than cores" if context.crowded[group.ranks] else "")


def _answer(group: Group, question: str, found: Contest, show: Callable[[float], str],
            slug: str) -> Answer:
    choice, detail = words(found, show)
    best, second = found.best, found.rivals[0] if found.rivals else None
    interval = second.comparison.interval if second else None
    numbers: dict[str, Plain] = {
        "suite": group.suite.name, "ranks": group.ranks, "question": slug,
        "verdict": found.verdict, "lowest": best.cell.label if best else None,
        "value": best.value if best else None,
        "runner_up": second.entrant.cell.label if second else None,
        "ratio": second.comparison.ratio if second else None,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "not_told_apart": ", ".join(rival.entrant.cell.label for rival in found.tied)}
    label = best.cell.label if best and found.verdict in ("clear", "tentative") else ""
    return Answer(question, found.verdict, choice, detail, label, numbers)


def _ten_times(group: Group, pools: Sequence[Pool], scatter: float,
               show: Callable[[float], str]) -> Answer | None:
    """Answers by the bill of ten trainings; None while nothing ran on fresh seeds."""
    known = [(found, found.bill) for found in pools if found.bill]
    if not known:
        return None
    answer = _answer(group, "Training ten times", contest(
        [by_trainings(found, bill, MANY) for found, bill in known], scatter, group.unlike),
        show, "train_ten_times")
    lacking = [found.cell.label for found in pools if not found.bill]
    if not lacking:
        return answer
    return replace(answer, detail=f"{answer.detail} Left out, as not run on fresh seeds: "
                                  f"{units.listing(lacking)}.")


def _networks(context: Context, group: Group, cells: Sequence[Cell]) -> list[Answer]:
    """Answers by modelled time on the slowest networks; by bytes where it cannot be modelled."""
    if not all(projectable(cell) for cell in cells):
        found = contest([by_cost(each) for cell in cells
                         if (each := pool(cell, View("wire_bytes", 1.0, "")))])
        return [_answer(group, "When the network is slow: fewest bytes", found, units.size,
                        "bytes")]
    paces = {cell.label: [pace(record) for record in cell.seeds if pace(record)]
             for other in context.groups if other.ranks == 1 for cell in other.cells}
    alone = {label: statistics.median(found) for label, found in paces.items() if found}
    slow = sorted(fabrics.load().items(), key=lambda pair: -pair[1].bytes_per_s)[-_SLOW:]
    return [_answer(group, f"On {_speed(fabric)} (modelled)", contest(
        [by_network(cell, fabric, alone.get(cell.label)) for cell in cells],
        unlike=group.unlike), units.seconds, f"network_{name}") for name, fabric in slow]


def _speed(fabric: Fabric) -> str:
    return (f"{units.trim(units.digits(8 * fabric.bytes_per_s / 1e9))}{units.THIN}Gb/s, "
            f"{units.trim(units.seconds(fabric.latency_s))}")


def _memory_noise(group: Group) -> float:
    found = noise([(float(peak_memory(first)), float(peak_memory(twin)))
                   for cell in group.cells for first, twin in cell.pairs
                   if peak_memory(first) and peak_memory(twin)])
    return found.factor if found else 1.0


def _pays(pools: Sequence[Pool], unlike: str) -> Answer | None:
    """From how many trainings on the first tuned optimizer costs no more than the untuned one.

    Args:
        pools: Trials of all optimizers that have a search of their own, or need none.
        unlike: In what their environments differ, so that this is not judged; or "".
    """
    against = reference(pools)
    crossed = crossings(pools, [against] if against else [])
    first = first_to_pay(crossed)
    if first is None:
        return None
    mine, theirs, found = first
    numbers: dict[str, Plain] = {
        "suite": mine.cell.suite.name, "ranks": mine.cell.ranks, "question": "break_even"}
    if unlike:
        return Answer(_PAYS, "not judged", "Not judged", f"Trials differ in {unlike}.", "",
                      numbers | {"verdict": "not judged"})
    label, other = mine.cell.label, theirs.cell.label
    said = sentence(label, found)
    if found.never:
        choice, text = "Tuning never pays", (
            f"However often one trains, no tuned optimizer's bill falls to that of {other}, which "
            f"is not tuned; {label} comes nearest over {MANY} trainings.")
    else:
        choice = f"{said[0].upper()}{said[1:]}" if found.told else "Not told by these trials"
        text = (f"Against {other}, which is not tuned." if found.told else
                f"{said[0].upper()}{said[1:]}, against {other}, which is not tuned.")
    return Answer(_PAYS, "unclear", choice, text, "", numbers | {
        "verdict": verdict(found), "lowest": label, "runner_up": other,
        "value": found.trainings if found.told else None,
        "ratio_low": None, "ratio_high": None,
        "break_even_low": found.interval.low, "break_even_high": found.interval.high})


def _headline(group: Group, cells: Sequence[Cell], once: Contest,
              device: str) -> tuple[str, tuple[str, ...]]:
    if once.best is None:
        return _nobody(group, cells)
    label = once.best.cell.label
    cost = units.cost(HEADLINE, once.best.value, device)
    if not once.rivals:
        return f"{label} reaches the target for {cost}; nothing was run to compare it.", ()
    if once.verdict == "not judged":
        return (f"Not judged: trials differ in {once.unlike}. {label} has the lowest cost on "
                f"record, {cost}."), ()
    if once.verdict == "unclear":
        return (f"No clear winner. {label} has the lowest expected cost, {cost}, but "
                f"{_few_or_many([rival.entrant.cell.label for rival in once.tied])} cannot be "
                "told from it."), ()
    if once.verdict == "tentative":
        few = (f"with as few as {units.plural(once.fewest, 'trial')} for an optimizer"
               if once.fewest < ENOUGH else "with so few trials for so many optimizers")
        return f"{label} has the lowest expected cost, {cost}, tuning included.", (
            f"Its lead is beyond the intervals, but {few} this is a first indication, not a "
            "result.",)
    return f"{label} reaches the target for the least: {cost}, tuning included.", ()


def _few_or_many(labels: Sequence[str]) -> str:
    return units.listing(labels) if len(labels) < 4 else f"{len(labels)} others"


def _nobody(group: Group, cells: Sequence[Cell]) -> tuple[str, tuple[str, ...]]:
    if not cells:
        return "Nothing has been run yet.", ()
    target, budget = group.suite.target, group.suite.budget
    sentences = [f"The cap was {units.trim(units.count(budget.samples))} samples or "
                 f"{units.trim(units.seconds(budget.seconds))} of training in each trial."]
    for level in sorted((x for x in target.levels if x < 1), reverse=True):
        reached = [cell.label for cell in cells if cell.ert(HEADLINE, level).hits]
        if reached:
            sentences.append(f"The lower level of {units.goal(target, level)} was reached by "
                             f"{units.listing(reached)}.")
            break
    return "No optimizer reached the target.", tuple(sentences)


def _apts(once: Contest, cells: Sequence[Cell], device: str) -> list[str]:
    """Says plainly how APTS fared, the method that this harness was built to judge."""
    family = [cell for cell in cells if cell.optimizer == "apts"]
    if once.best is None or not family or len(cells) == 1:
        return []
    mine = min(family, key=lambda cell: (cell.ert(HEADLINE).cost, cell.ert(HEADLINE).total))
    if mine is once.best.cell or once.verdict == "not judged":
        return []
    expected = mine.ert(HEADLINE)
    if not once.best.value:  # the untrained model met the target
        return []
    if not expected.hits:
        return [f"{mine.label} loses here: more than "
                f"{units.cost(HEADLINE, expected.total, device)} spent, "
                f"{misses(0, expected.trials)}."]
    ratio = expected.cost / once.best.value
    if any(rival.entrant.cell is mine for rival in once.tied):
        return [f"{mine.label} is behind at {units.times(ratio)} the lowest cost, within the "
                "uncertainty of these few trials."]
    return [f"{mine.label} loses here: it costs {units.times(ratio)} as much as "
            f"{once.best.cell.label}."]
