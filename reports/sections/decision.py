"""Which optimizer to take: four situations at each N, each with its best and how sure that is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_apts import fabrics
from bench_apts.origins import TIMES
from bench_apts.stats.costs import headline
from bench_apts.stats.noise import noise
from bench_apts.stats.payoff import break_even_interval

from .. import units
from ..cells import computing, memory
from ..decision import currencies
from ..decision.contest import Contest, contest, words
from ..decision.entrants import by_memory, by_network, by_trainings, projectable
from ..findings import ENOUGH, misses
from ..parts import Answer, Box, Boxes, Listing, Part, Prose
from ..tuning.envelope import crossings
from ..tuning.pays import sentence, span
from ..tuning.pool import View, pool
from ..tuning.scene import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.stats.projection import Fabric

    from ..cells import Cell, Group
    from ..context import Context
    from ..table import Plain
    from ..tuning.pool import Pool

MANY = 10
"""Trainings after which the second question asks for the cheapest bill."""

_HOW = ("Ratios are to the lowest expected value and come with their 95 % interval: a bootstrap, "
        "in pairs where trials share their seeds. Somebody wins only where the intervals of all "
        "others exclude 1, corrected by Holm for their number, and the ratio exceeds what equal "
        "trials differ by. Costs of one and of ten trainings count the tuning. Memory is that of "
        "a rank, a mean over the final trainings, of those whose median seed reached the target: "
        "on CUDA the device's peak, on CPUs what the tensors of model and optimizer take "
        "(parameters, gradients, state, buffers).")

_PAYS = "When tuning pays (R*)"

_SLOW = 2
"""Named networks that count as slow: those of the least bandwidth."""


def part(context: Context) -> Part:
    """Builds a decision box for each N of a suite."""
    boxes = tuple(_box(context, group) for group in context.groups)
    finding = " ".join(f"{box.heading}: {box.headline}" for box in boxes)
    ratios = currencies.table(context.groups, context.gathered.device)
    return Part("decision", "Which optimizer to take", finding, (
        Boxes(boxes), Prose(_HOW), *([Listing(ratios, folded=False)] if ratios else [])))


def _box(context: Context, group: Group) -> Box:
    device = context.gathered.device
    cells = [cell for cell in group.cells if cell.draws]
    view = View(headline(device), 1.0, device)
    pools = [found for cell in cells if (found := pool(cell, view))]
    timed = view.currency in TIMES
    scatter = group.noise.factor if timed and group.noise else 1.0
    unlike = group.unlike if timed else ""
    once = contest([by_trainings(found, 1) for found in pools], scatter, unlike)
    many = contest([by_trainings(found, MANY) for found in pools], scatter, unlike)
    answers = [_answer(group, "Training once", once, view.show, "train_once", view.currency),
               _answer(group, "Training ten times", many, view.show, "train_ten_times",
                       view.currency)]
    if group.ranks > 1:
        answers += _networks(context, group, cells)
    remembered = [cell for cell in cells if cell.seeds]
    if all(cell.memory for cell in remembered):  # older records on CPUs lack it
        answers.append(_answer(group, "When memory is short", contest(
            [by_memory(cell) for cell in remembered], _memory_noise(group), group.unlike),
            units.size, "memory"))
    headed, remarks = _headline(group, cells, once, view)
    depends = currencies.order(group, device)
    pays = _pays(pools, unlike)
    if pays:
        answers.append(pays)
    return Box(
        (f"{context.suite.name}, " if len(context.gathered.file.study.suites) > 1 else "")
        + f"N = {group.ranks}", once.verdict,
        f"{headed} {depends}".rstrip(), tuple(answers), (*remarks, *_apts(once, cells, view)),
        "† more ranks than cores" if context.crowded[group.ranks] else "")


def _answer(group: Group, question: str, found: Contest, show: Callable[[float], str],
            slug: str, currency: str = "") -> Answer:
    choice, detail = words(found, show)
    best, second = found.best, found.rivals[0] if found.rivals else None
    interval = second.comparison.interval if second else None
    numbers: dict[str, Plain] = {
        "suite": group.suite.name, "ranks": group.ranks, "question": slug,
        "verdict": found.verdict, "currency": currency,
        "lowest": best.cell.label if best else None,
        "value": best.value if best else None,
        "runner_up": second.entrant.cell.label if second else None,
        "ratio": second.comparison.ratio if second else None,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "not_told_apart": ", ".join(rival.entrant.cell.label for rival in found.tied)}
    label = best.cell.label if best and found.verdict in ("clear", "tentative") else ""
    return Answer(question, found.verdict, choice, detail, label, numbers)


def _networks(context: Context, group: Group, cells: Sequence[Cell]) -> list[Answer]:
    """Answers by modelled time on the slowest networks; by bytes where it cannot be modelled."""
    alone = {cell.label: seconds for cell in cells if (seconds := computing(
        other for there in context.groups for other in there.cells
        if other.label == cell.label)) is not None}
    missing = [cell.label for cell in cells if cell.label not in alone]
    if missing or not all(projectable(cell) for cell in cells):
        found = contest([by_trainings(each, 1) for cell in cells
                         if (each := pool(cell, View("wire_bytes", 1.0, "")))])
        answer = _answer(group, "When the network is slow: fewest bytes", found, units.size,
                         "bytes")
        return [replace(answer, detail=f"{answer.detail} Time on other networks is not modelled: "
                        f"needs N = 1 of {units.listing(missing)}.") if missing else answer]
    slow = sorted(fabrics.load().items(), key=lambda pair: -pair[1].bytes_per_s)[-_SLOW:]
    return [_answer(group, f"On {_speed(fabric)} (modelled)", contest(
        [by_network(cell, fabric, alone[cell.label]) for cell in cells],
        unlike=group.unlike), units.seconds, f"network_{name}") for name, fabric in slow]


def _speed(fabric: Fabric) -> str:
    return (f"{units.trim(units.digits(8 * fabric.bytes_per_s / 1e9))}{units.THIN}Gb/s, "
            f"{units.trim(units.seconds(fabric.latency_s))}")


def _memory_noise(group: Group) -> float:
    found = noise([(float(memory(first)), float(memory(twin)))
                   for cell in group.cells for first, twin in cell.pairs
                   if memory(first) and memory(twin)])
    return found.factor if found else 1.0


def _pays(pools: Sequence[Pool], unlike: str) -> Answer | None:
    """From how many trainings on the first tuned optimizer costs no more than the untuned one.

    Args:
        pools: Trials of all optimizers.
        unlike: In what their environments differ, so that this is not judged; or "".
    """
    against = reference(pools)
    crossed = crossings([found for found in pools if not found.cell.leader],
                        [against] if against else [])
    if not crossed:
        return None
    if unlike:
        cell = crossed[0].tuned.cell
        return Answer(_PAYS, "not judged", "Not judged", f"Trials differ in {unlike}.", "", {
            "suite": cell.suite.name, "ranks": cell.ranks, "question": "break_even",
            "verdict": "not judged"})
    # Of those that never pay, the one that comes nearest is told of.
    mine, theirs, found = min(crossed, key=lambda each: (
        each.found.trainings, by_trainings(each.tuned, MANY).value))
    interval = break_even_interval(mine.tuning, (theirs.spent, theirs.cost))
    label, other = mine.cell.label, theirs.cell.label
    said, text = sentence(label, found.verdict), (
        f"{label} is the first whose bill is no more than that of {other}, which is not tuned.")
    if found.verdict == "never":
        said, text = "tuning never pays", (
            f"No tuned optimizer's bill falls to that of {other}, which is not tuned; {label} "
            f"comes nearest over {MANY} trainings.")
    if interval:
        text += f" R* of {label}, 95 % interval: {span(interval)}."
    return Answer(_PAYS, "unclear", said[0].upper() + said[1:], text, "", {
        "suite": mine.cell.suite.name, "ranks": mine.cell.ranks, "question": "break_even",
        "verdict": found.verdict, "lowest": label, "runner_up": other,
        "value": found.trainings if math.isfinite(found.trainings) else None,
        "ratio_low": None, "ratio_high": None,
        "break_even_low": interval.low if interval else None,
        "break_even_high": interval.high if interval else None})


def _headline(group: Group, cells: Sequence[Cell], once: Contest,
              view: View) -> tuple[str, tuple[str, ...]]:
    if once.best is None:
        return _nobody(group, cells, view)
    label = once.best.cell.label
    cost = view.show(once.best.value)
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


def _nobody(group: Group, cells: Sequence[Cell], view: View) -> tuple[str, tuple[str, ...]]:
    if not cells:
        return "Nothing has been run yet.", ()
    target, budget = group.suite.target, group.suite.budget
    sentences = [f"The cap was {units.trim(units.count(budget.samples))} samples or "
                 f"{units.trim(units.seconds(budget.seconds))} of training in each trial."]
    for level in sorted((x for x in target.levels if x < 1), reverse=True):
        reached = [cell.label for cell in cells if cell.ert(view.currency, level).hits]
        if reached:
            sentences.append(f"The lower level of {units.goal(target, level)} was reached by "
                             f"{units.listing(reached)}.")
            break
    return "No optimizer reached the target.", tuple(sentences)


def _apts(once: Contest, cells: Sequence[Cell], view: View) -> list[str]:
    """Says plainly how APTS fared, the method that this harness was built to judge."""
    family = [cell for cell in cells if cell.optimizer == "apts"]
    if once.best is None or not family or len(cells) == 1:
        return []
    mine = min(family, key=lambda cell: (
        cell.ert(view.currency).cost, cell.ert(view.currency).total))
    if mine is once.best.cell or once.verdict == "not judged":
        return []
    expected = mine.ert(view.currency)
    if not once.best.value:  # the untrained model met the target
        return []
    if not expected.hits:
        return [f"{mine.label} loses here: more than "
                f"{view.show(expected.total)} spent, "
                f"{misses(0, expected.trials)}."]
    ratio = expected.cost / once.best.value
    if any(rival.entrant.cell is mine for rival in once.tied):
        return [f"{mine.label} is behind at {units.times(ratio)} the lowest cost, within the "
                "uncertainty of these few trials."]
    return [f"{mine.label} loses here: it costs {units.times(ratio)} as much as "
            f"{once.best.cell.label}."]
