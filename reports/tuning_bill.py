"""The tuning bill of a study, for ``bench-apts cost`` and the report; costs of narrower ranges."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import TIME_CURRENCIES, headline
from bench_apts.core.errors import UserError
from bench_apts.reports import tuning_pools
from bench_apts.reports.bills_by_trainings import interval_words, payoff_table, trainings_table
from bench_apts.reports.canvas import Figure, heading, panel, scale
from bench_apts.reports.replayed_searches import replay_table, replayed_policies, tries_a_list
from bench_apts.reports.search_costs import search_cost_table, search_spread_table
from bench_apts.reports.section_parts import FIGURE_SIZE
from bench_apts.reports.table import ENOUGH, Table, Value, mono, number, unstable_winner
from bench_apts.reports.tuning_scene import untuned_reference
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.intervals import ert_interval
from bench_apts.stats.pairwise_comparison import Bill, compare
from bench_apts.stats.range_sensitivity import logarithmic, widths
from bench_apts.stats.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

    from bench_apts.core.currencies import Currency
    from bench_apts.core.spec import Study, Suite
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.gather import Gathered
    from bench_apts.reports.replayed_searches import ReplayedPolicy
    from bench_apts.reports.tuning_pools import Pool
    from bench_apts.reports.tuning_scene import TuningScene
    from bench_apts.stats.expected_cost import Ert
    from bench_apts.stats.range_sensitivity import Width


class StudyBill(NamedTuple):
    """What ``bench-apts cost`` shows.

    Attributes:
        warnings: What has to be read before any number.
        tables: Tables of each suite in the study's order; those of several suites share names.
        notes: What the numbers rest on, and what is missing.
    """

    warnings: list[str]
    tables: list[tuple[Suite, list[Table]]]
    notes: list[str]


class SuiteBill(NamedTuple):
    """The bill of one suite.

    Attributes:
        pools: Trials of all optimizers with known costs, N by N.
        policies: Replayed tuning policies.
        tables: All of its tables.
        notes: What is missing in them.
    """

    pools: list[Pool]
    policies: list[ReplayedPolicy]
    tables: list[Table]
    notes: list[str]


def study_bill(gathered: Gathered, currency: Currency | None = None, level: float = 1.0, *,
               replay: bool = True) -> StudyBill:
    """Work out what tuning cost in a study, and when it pays.

    Args:
        gathered: The study.
        currency: What the main columns count; None for the headline of the study's device.
        level: Level of the target, the full one or one of the suites' own.
        replay: Whether tuning policies are replayed.

    Raises:
        UserError: A suite's target has no such level, or a trial's file is corrupt.
    """
    currency = currency or headline(gathered.device)
    view = tuning_pools.CostView(currency, level, gathered.device)
    suites, groups = gathered.file.study.suites, gathered.groups
    for suite in suites:
        levels = suite.target.every_level
        if level not in levels:
            raise UserError(f"--level {level:g}: the target of {suite.name} has the levels "
                            f"{units.listing([f'{each:g}' for each in levels])}")
    warnings = [gathered.copies] if gathered.copies else []
    warnings += [f"{group.suite.name} at N = {group.ranks}: times are not judged, as trials "
                 f"differ in {group.unlike}" for group in groups
                 if currency in TIME_CURRENCIES and group.unlike]
    warnings += [line for group in groups if (line := unstable_winner(group, currency))]
    found = [suite_bill([group for group in groups if group.suite == suite], view, replay=replay)
             for suite in suites]
    notes = [note for each in found for note in each.notes]
    notes += remarks(gathered.file.study, groups, [pool for each in found for pool in each.pools])
    return StudyBill(warnings, [(suite, each.tables)
                                for suite, each in zip(suites, found, strict=True)], notes)


def suite_bill(groups: Sequence[CellGroup], view: tuning_pools.CostView, *,
               replay: bool = True) -> SuiteBill:
    """Work out the bill of one suite.

    Args:
        groups: Its optimizers at each N, N ascending.
        view: Currency, level and device.
        replay: Whether tuning policies are replayed.

    Raises:
        UserError: A trial's file is corrupt.
    """
    pools = tuning_pools.read_pools(groups, view)
    totals, notes = tuning_pools.transfer_bills(pools, view)
    tables = [search_cost_table(groups, view), search_spread_table(pools, view),
              trainings_table(pools, view), payoff_table(pools, view),
              width_table(narrow_searches(pools), view), totals]
    policies, unplayed = replayed_policies(pools, view) if replay else ([], [])
    tables.append(replay_table(policies, view))
    known = {pool.cell for pool in pools}
    uncounted = [cell for group in groups for cell in group.cells
                 if cell.draws and cell not in known]
    if uncounted:
        notes = [f"no {view.currency} were counted for {_names(uncounted)} on "
                 f"{groups[0].suite.name}", *notes]
    return SuiteBill(pools, policies, [table for table in tables if table], [*notes, *unplayed])


def remarks(study: Study, groups: Sequence[CellGroup], pools: Sequence[Pool]) -> list[str]:
    """Say what the bills of these groups rest on."""
    notes = []
    tuned = [pool for pool in pools if pool.cell.tune]
    if not tuned:
        notes.append("nothing was tuned in this study, so that there is no bill of tuning and no "
                     "break-even; trials are the report-stage seeds")
    if lacking := [pool.cell for pool in tuned if not pool.again and pool.ert.hits]:
        notes.append(f"no bill of several trainings and no break-even of {_names(lacking)}: the "
                     "frozen configuration was not run on fresh seeds, and a tuning trial's own "
                     "cost was chosen for being low")
    if tuned and study.sampler != "random":
        notes.append(f"configurations were drawn by {study.sampler}, not independently: the "
                     "study, not the trial, is the unit, and intervals of its trials mislead")
    if listed := [pool.cell for pool in tuned if tries_a_list(pool.cell)]:
        notes.append(f"trials of {_names(listed)} are a list that is tried in its order, not "
                     "draws; but for the replay, all numbers are those of a random order")
    if any(pool.cell.seeds and not pool.cell.search_owner for pool in tuned):
        notes.append("seconds of tuning trials are their samples times the seconds per sample of "
                     "the same optimizer's final trainings, as tuning ran earlier, perhaps while "
                     "other trials ran too (--jobs)")
    if pruned := sum(record.end is not None and record.end.status == "pruned"
                     for pool in tuned for record in pool.cell.tune):
        notes.append(f"{units.plural(pruned, 'pruned trial')} "
                     f"{'counts' if pruned == 1 else 'count'} as misses, though some might have "
                     "hit")
    if followers := [pool.cell for pool in tuned if pool.cell.search_owner]:
        notes.append(f"another optimizer's search served {_names(followers)}: its bill is that "
                     "search's trials at its own cost of a sample, and it is not ranked by cost")
    if tuning_pools.with_few_trials([cell for group in groups for cell in group.cells]):
        notes.append(f"few trials: fewer than {ENOUGH}; do not rely on their intervals or "
                     "on a ranking")
    return notes


def _names(cells: Sequence[ReportCell]) -> str:
    """Name optimizers, each with all its N."""
    sizes: dict[str, list[str]] = {}
    for cell in cells:
        sizes.setdefault(cell.label, []).append(str(cell.ranks))
    return units.listing([f"{label} at N = {units.listing([*dict.fromkeys(there)])}"
                          for label, there in sizes.items()])


class NarrowedSearch(NamedTuple):
    """The search of one optimizer in one range.

    Attributes:
        pool: Its trials.
        knob: The hyperparameter whose range is narrowed; others keep theirs.
        width: The range.
        bill: Of the trials inside.
    """

    pool: Pool
    knob: str
    width: Width
    bill: Bill

    @property
    def ert(self) -> Ert:
        """Expected cost of searching this range."""
        return ert(self.bill.spent, self.bill.cost)


def narrow_searches(pools: Sequence[Pool]) -> list[NarrowedSearch]:
    """Restrict every search that drew independently, one hyperparameter at a time.

    Searches of which no narrower range holds trials enough are left out.
    """
    found: list[NarrowedSearch] = []
    for pool in pools:
        frozen = pool.cell.frozen
        searched = frozen.trial.searched if frozen else None
        if (frozen is None or searched is None or pool.cell.search_owner or not pool.ert.hits
                or not pool.ert.total or searched.sampler == "tpe" or tries_a_list(pool.cell)):
            continue
        for knob, (low, high) in logarithmic(searched.ranges).items():
            tried = [_number(record.trial.hyperparameters[knob]) for record in pool.cell.tune]
            steps = widths(tried, low, high, _number(frozen.trial.hyperparameters[knob]))
            if len(steps) > 1:
                found += [NarrowedSearch(pool, knob, step, Bill(
                    [pool.spent[place] for place in step.inside],
                    [pool.cost[place] for place in step.inside])) for step in steps]
    return found


def _number(value: object) -> float:
    assert isinstance(value, int | float)  # what has a range is a number
    return float(value)


def width_table(found: Sequence[NarrowedSearch], view: tuning_pools.CostView,
                file: str = "bill-width", against: Pool | None = None) -> Table | None:
    """Return the expected cost of searches in narrower and narrower ranges; None without any.

    The optimizer without tuning ``against`` which they are compared gets the last row.
    """
    if not found:
        return None
    rows = [_width_row(each, view) for each in found]
    if against:
        rows.append((
            *tuning_pools.opening_entries(against.cell, view), number(units.NONE, factor=None),
            mono("not searched", hyperparameter=None, range_low=None, range_high=None),
            *_expected(Bill(against.spent, against.cost), view)))
    return Table(
        file, "Expected cost by the width of the search range",
        "The recorded trials, restricted to those within a factor of the value that was frozen; "
        "of a range with fewer than 3 trials nothing is said. A user who knows a value that "
        "closely would search that range. As the frozen value is known only afterwards, narrow "
        "ranges look a little too good.",
        (("Optimizer", ""), ("N", ""), ("Known within", "a factor of"), ("Range", ""),
         ("Hit", "trials inside"), ("Expected cost", "95 % interval")), tuple(rows))


def _width_row(each: NarrowedSearch, view: tuning_pools.CostView) -> tuple[Value, ...]:
    factor, low, high, _ = each.width
    whole = math.isinf(factor)
    return (
        *tuning_pools.opening_entries(each.pool.cell, view),
        number("all" if whole else _digits(factor), factor=None if whole else factor),
        mono(f"{each.knob} {_digits(low)} to {_digits(high)}", hyperparameter=each.knob,
             range_low=low, range_high=high),
        *_expected(each.bill, view))


def _expected(bill: Bill, view: tuning_pools.CostView) -> tuple[Value, Value]:
    found, interval = ert(bill.spent, bill.cost), ert_interval(bill.spent, bill.cost)
    return (number(f"{found.hits} of {found.trials}", hits=found.hits, trials=found.trials),
            view.entry("ert", found.cost, found.bound,
                       interval_words(interval, view) if interval and found.hits else ""))


def _digits(value: float) -> str:
    return units.trim(units.digits(value))


def width_figure(scene: TuningScene) -> Figure | None:
    """Draw the expected cost over how closely a value is known; None where nothing is narrowed."""
    found = [each for each in narrow_searches(scene.searches) if each.ert.hits]
    if not found:
        return None
    against = untuned_reference(scene.pools)

    def draw() -> Drawing:
        drawing, axes = panel(*FIGURE_SIZE)
        spans = [each.width.high / each.width.low for each in found]
        costs = [each.ert.cost for each in found]
        for (pool, _), steps in itertools.groupby(found, lambda each: (each.pool, each.knob)):
            line = [(each.width.high / each.width.low, each.ert.cost) for each in steps]
            look = scene.context.looks[pool.cell.label]
            axes.plot(*zip(*line, strict=True), color=look.color, linestyle=look.dashes,
                      marker=look.marker, markersize=5, markeredgewidth=0)
        if against is not None:
            look = scene.context.looks[against.cell.label]
            axes.axhline(against.ert.cost, color=look.color, linestyle=look.dashes)
            costs.append(against.ert.cost)
        scale(axes, "x", units.format_count, log=True, limits=(min(spans) / 1.3, max(spans) * 1.3))
        scale(axes, "y", scene.axis, log=True, limits=(min(costs) / 1.5, max(costs) * 1.5))
        axes.set_xlabel("upper end of the range over its lower end")
        heading(axes, f"expected cost of searching a range{scene.unit}")
        return drawing

    shown = [*dict.fromkeys(each.pool for each in found), *([against] if against else [])]
    return Figure(
        draw, scene.slug("width"), scene.title("expected cost by the width of the range"),
        f"{width_sentence(found, against, scene.view)} Recorded trials within a factor of the "
        "frozen value, 3 at least; the right end of a line is the whole range.",
        scene.legend(shown), basis=scene.basis,
        data=width_table(found, scene.view, "width", against))


def width_sentence(found: Sequence[NarrowedSearch], against: Pool | None,
                   view: tuning_pools.CostView) -> str:
    """Say how closely one has to know a hyperparameter for its search to be the cheaper way.

    Args:
        found: Narrowed searches of one N.
        against: The optimizer without tuning that they are compared with.
        view: Currency, level and device.
    """
    if against is None:
        return "No optimizer without tuning reached the target."
    if apart := tuning_pools.unlike_environments([against, *(each.pool for each in found)], view):
        return f"Not judged: trials differ in {apart}."
    return " ".join(_width_words([*steps], against) for _, steps in itertools.groupby(
        found, lambda each: (each.pool, each.knob)))


def _width_words(steps: Sequence[NarrowedSearch], against: Pool) -> str:
    whole, *narrow = steps
    label, other, knob = whole.pool.cell.label, against.cell.label, whole.knob
    if whole.ert.cost <= against.ert.cost:
        return f"Searched over all of {knob}, {label} costs no more than {other}."
    cheaper = [each for each in narrow if each.ert.cost <= against.ert.cost]
    if not cheaper:
        return f"In none of these ranges of {knob} does {label} cost less than {other}."
    widest = max(cheaper, key=lambda each: each.width.factor)
    paid = Bill(against.spent, against.cost)
    verdicts = [decision.verdict for decision in decide([
        compare(each.bill, paid, paired=False).evidence() for each in (whole, widest)])]
    known = (f"the {knob} of {label} within a factor of {_digits(widest.width.factor)} "
             f"({units.plural(len(widest.width.inside), 'trial')})")
    if verdicts == ["more", "less"]:
        return f"{other} pays unless you already know {known}."
    return (f"{other} costs less unless you already know {known}; but so few trials do not tell "
            "the two apart.")
