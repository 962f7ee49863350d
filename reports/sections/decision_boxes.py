"""Which optimizer to take: four situations at each N, each with its best and how sure that is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, TIME_CURRENCIES, headline
from bench_apts.reports import (
    bills_by_trainings,
    decision_answers,
    search_costs,
    section_parts,
    tuning_scene,
)
from bench_apts.reports.cells import computing
from bench_apts.reports.expected_costs import expected_figure
from bench_apts.reports.sections import decision_contest, decision_remarks
from bench_apts.reports.table import shared_search_sentence
from bench_apts.reports.tuning_pools import CostView, read_pool
from bench_apts.stats import network_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context
    from bench_apts.reports.table import Plain
    from bench_apts.reports.tuning_pools import Pool
    from bench_apts.stats.network_model import Fabric

_HOW = ("Ratios are to the lowest expected value and come with their 95 % interval, in pairs "
        "where trials share their seeds. Somebody wins only where the interval of every other "
        "excludes 1, exchanging the labels of the trials seldom makes so large a difference (at "
        "most 5 % for all questions of a box together), and the ratio exceeds what means of equal "
        "trials differ by. Costs of one and of ten trainings count the tuning; ten are all "
        "tuning trials and nine trainings on fresh seeds. Memory is that of a rank, a mean over "
        "the final trainings, of those whose median seed reached the target: on CUDA the device's "
        "peak, on CPUs what the tensors of model and optimizer take (parameters, gradients, "
        "state, buffers).")

_PAYS = "When tuning pays (R*)"

_NAMED = 4
"""Optimizers whose bytes are given one by one."""

_SLOW = 2
"""Named networks that count as slow: those of the least bandwidth."""


class _Question(NamedTuple):
    """What is asked, and who competes.

    Attributes:
        title: As the page words it.
        slug: Its name in tables.
        show: Formats a value.
        contest: Not yet judged.
        section: Anchor of the section that shows more.
    """

    title: str
    slug: str
    show: Callable[[float], str]
    contest: decision_contest.Contest
    section: str


def part(context: Context) -> section_parts.Part:
    """Build a decision box for each N of a suite, and draw the expected costs behind them."""
    boxes = tuple(_box(context, group) for group in context.groups)
    finding = " ".join(f"{box.heading}: {box.headline}" for box in boxes)
    ratios = search_costs.relative_costs_table(context.groups, context.gathered.device)
    drawn = expected_figure(context)
    return section_parts.Part(
        "decision", "Which optimizer to take", finding,
        (decision_answers.Boxes(boxes), *([section_parts.Pictures((drawn,))] if drawn else [])),
        more=(section_parts.Prose(_HOW), *section_parts.tables(ratios, folded=False)))


def _box(context: Context, group: CellGroup) -> decision_answers.Box:
    device = context.gathered.device
    cells = [cell for cell in group.cells if cell.draws]
    view = CostView(headline(device), 1.0, device)
    rivals = [cell for cell in cells if not cell.search_owner]
    pools = [found for cell in rivals if (found := read_pool(cell, view))]
    timed = view.currency in TIME_CURRENCIES
    unlike = group.unlike if timed else ""
    questions = [
        _Question(question, slug, view.show, decision_contest.contest(
            _by_trainings(pools, trainings), group.noise if timed else None, unlike), section)
        for question, slug, trainings, section in (
            ("Training once", "train_once", 1, "main"),
            ("Training ten times", "train_ten_times", bills_by_trainings.MANY, "tuning"))]
    if group.ranks > 1:
        questions += _networks(context, group, rivals)
    remembered = [cell for cell in cells if cell.seeds]
    if all(cell.memory for cell in remembered):  # older records on CPUs lack it
        questions.append(_Question(
            "When memory is short", "memory", units.format_size, decision_contest.contest(
                [decision_contest.by_memory(cell) for cell in remembered], group.memory_noise,
                group.unlike), "pareto"))
    settled = decision_contest.judge_contests([each.contest for each in questions])
    once = settled[0]
    answers = [_answer(group, each, found, view.currency)
               for each, found in zip(questions, settled, strict=True)]
    lacking = [found.cell.label for found in pools if not found.bill]
    if lacking:
        answers[1] = replace(answers[1], detail=(
            f"{answers[1].detail} Left out, as not run on fresh seeds: {units.listing(lacking)}."))
    said = decision_remarks.headline(cells, once, view)
    depends = search_costs.order_sentence(group, device)
    if depends:
        answers[0] = replace(answers[0], brief=f"{answers[0].brief}. {depends}")
    remarks = decision_remarks.missed(group, cells, view) if cells and once.best is None else []
    shared = shared_search_sentence(cells, view.currency, device)
    answers += [answer for answer in (
        _sent(cells), _spent(pools, view), _pays(pools, unlike)) if answer]
    return decision_answers.Box(
        (f"{context.suite.name}, " if len(context.gathered.file.study.suites) > 1 else "")
        + f"N = {group.ranks}", once.verdict, f"{said} {depends}".rstrip(), tuple(answers),
        (*remarks, *decision_remarks.families(once, rivals, view), *([shared] if shared else [])),
        "† more ranks than cores" if context.crowded[group.ranks] else "")


def _by_trainings(pools: Sequence[Pool], trainings: int) -> list[decision_contest.Entrant]:
    """Return the entrants with the bills of this many trainings that are known."""
    return [entrant for pool in pools
            if (entrant := decision_contest.by_trainings(pool, trainings))]


def _answer(group: CellGroup, asked: _Question, found: decision_contest.Contest,
            currency: Currency) -> decision_answers.Answer:
    choice, detail = decision_contest.contest_words(found, asked.show)
    brief = decision_contest.brief_words(found, asked.show)
    best, second = found.best, found.rivals[0] if found.rivals else None
    interval = second.comparison.interval if second else None
    numbers: dict[str, Plain] = {
        "suite": group.suite.name, "ranks": group.ranks, "question": asked.slug,
        "verdict": found.verdict,
        "currency": currency if asked.slug.startswith("train_") else asked.slug,
        "lowest": best.cell.label if best else None,
        "value": best.value if best else None,
        "runner_up": second.entrant.cell.label if second else None,
        "ratio": second.comparison.ratio if second else None,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "not_told_apart": ", ".join(rival.entrant.cell.label for rival in found.tied)}
    label = best.cell.label if best and found.verdict == "clear" else ""
    return decision_answers.Answer(
        asked.title, found.verdict, choice, detail, label, numbers, brief, asked.section)


def _networks(context: Context, group: CellGroup, cells: Sequence[ReportCell]) -> list[_Question]:
    """Ask by modelled time on the slowest networks; by bytes where it cannot be modelled."""
    alone = {cell.label: seconds for cell in cells if (seconds := computing(
        other for there in context.groups for other in there.cells
        if other.label == cell.label)) is not None}
    missing = [cell.label for cell in cells if cell.label not in alone]
    if missing or not all(decision_contest.projectable(cell) for cell in cells):
        view = CostView("wire_bytes", 1.0, "")
        pools = [found for cell in cells if (found := read_pool(cell, view))]
        title = "When the network is slow: fewest bytes"
        if missing:
            title += f" (time is not modelled: needs N = 1 of {units.listing(missing)})"
        return [_Question(title, "bytes", units.format_size,
                          decision_contest.contest(_by_trainings(pools, 1)), "budget")]
    slow = sorted(network_model.load_fabrics().items(),
                  key=lambda pair: -pair[1].bytes_per_s)[-_SLOW:]
    return [
        _Question(
            f"On {_speed(fabric)} (modelled)", f"network_{name}", units.format_seconds,
            decision_contest.contest(
                [decision_contest.by_network(cell, fabric, alone[cell.label]) for cell in cells],
                unlike=group.unlike), "scaling")
        for name, fabric in slow]


def _speed(fabric: Fabric) -> str:
    return (f"{units.trim(units.digits(8 * fabric.bytes_per_s / 1e9))}{units.THIN}Gb/s, "
            f"{units.trim(units.format_seconds(fabric.latency_s))}")


def _sent(cells: Sequence[ReportCell]) -> decision_answers.Answer | None:
    """Say what one rank sends until the target is reached; None where no rank sends anything."""
    medians = [(cell.to_target("wire_bytes").median, cell) for cell in cells if cell.seeds]
    found = sorted([(value, cell.label) for value, cell in medians if math.isfinite(value)])
    if not found or not found[-1][0]:
        return None
    show = CURRENCIES["wire_bytes"].form
    said = [f"{label} {show(value)}" for value, label in found[:_NAMED]]
    if len(found) > _NAMED:
        said.append(f"{len(found) - _NAMED} more up to {show(found[-1][0])}")
    missed = [cell.label for value, cell in medians if not math.isfinite(value)]
    brief = "sent by one rank in one training (median seed)"
    if missed:
        brief += f"; target not reached: {units.listing(missed)}"
    return decision_answers.Answer(
        "Bytes to the target", "not told apart", units.listing(said),
        f"{units.capitalized(brief)}.", "", {
            "suite": cells[0].suite.name, "ranks": cells[0].ranks, "question": "bytes_to_target",
            "verdict": "counted", "currency": "wire_bytes", "lowest": found[0][1],
            "value": found[0][0], "runner_up": None}, brief, "main")


def _spent(pools: Sequence[Pool], view: CostView) -> decision_answers.Answer | None:
    """Say what tuning cost, of each optimizer that was tuned; None where none was."""
    tuned = [pool for pool in pools if pool.cell.tune]
    if not tuned:
        return None
    bills = [f"{pool.cell.label} {view.show(pool.ert.total)}" for pool in tuned]
    trials = sorted({len(pool.cell.tune) for pool in tuned})
    most = units.plural(trials[-1], "trial")
    each = most if len(trials) == 1 else f"{trials[0]} to {most}"
    cell = tuned[0].cell
    return decision_answers.Answer(
        "What tuning cost", "not told apart", units.listing(bills), f"For {each} each.", "", {
            "suite": cell.suite.name, "ranks": cell.ranks, "question": "tuning_cost",
            "verdict": "counted", "currency": view.currency, "lowest": None,
            "value": sum(pool.ert.total for pool in tuned), "runner_up": None},
        f"for {each} each; all others: nothing", "tuning")


def _pays(pools: Sequence[Pool], unlike: str) -> decision_answers.Answer | None:
    """Say from how many trainings on the first tuned optimizer costs no more than an untuned one.

    Args:
        pools: Trials of all optimizers that have a search of their own, or need none.
        unlike: In what their environments differ, so that this is not judged; or "".
    """
    against = tuning_scene.untuned_reference(pools)
    first = bills_by_trainings.first_to_pay(
        bills_by_trainings.crossings(pools, [against] if against else []))
    if first is None:
        return None
    mine, theirs, found = first
    numbers: dict[str, Plain] = {
        "suite": mine.cell.suite.name, "ranks": mine.cell.ranks, "question": "break_even"}
    if unlike:
        return decision_answers.Answer(
            _PAYS, "not judged", "Not judged", f"Trials differ in {unlike}.",
            numbers=numbers | {"verdict": "not judged"})
    label, other = mine.cell.label, theirs.cell.label
    said = units.capitalized(bills_by_trainings.payoff_sentence(label, found))
    if found.never:
        choice, text = "Tuning never pays", (
            f"However often one trains, no tuned optimizer's bill falls to that of {other}, which "
            f"is not tuned; {label} comes nearest over {bills_by_trainings.MANY} trainings.")
    else:
        choice = (said if found.is_known else "No break-even within the data"
                  if math.isinf(found.interval.high) else "Not determined")
        text = (f"Against {other}, which is not tuned." if found.is_known else
                f"{said}, against {other}, which is not tuned.")
    brief = f"{label} against {other}, which is not tuned"
    if not (found.is_known or found.never):
        brief += f"; 95 % interval: {bills_by_trainings.payoff_span(found.interval)}"
    return decision_answers.Answer(_PAYS, "not told apart", choice, text, "", numbers | {
        "verdict": bills_by_trainings.payoff_words(found), "lowest": label, "runner_up": other,
        "value": found.trainings if found.is_known else None,
        "ratio_low": None, "ratio_high": None,
        "break_even_low": found.interval.low, "break_even_high": found.interval.high},
        brief, "tuning")
