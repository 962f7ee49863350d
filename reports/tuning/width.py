"""How the cost of a search depends on the width of its range, from the recorded trials."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.stats.comparison import Bill, compare
from bench_apts.stats.ert_draws import ert_interval
from bench_apts.stats.tuning import ert
from bench_apts.stats.verdict import decide
from bench_apts.stats.widths import logarithmic, widths

from ..drawing.canvas import Figure, finish, heading, panel, scale
from ..table import Table, Value, mono, number
from .pays import limits
from .pool import opening, unlike
from .replay import tries_a_list
from .scene import SIZE, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.stats.bootstrap import Interval
    from bench_apts.stats.tuning import Ert
    from bench_apts.stats.widths import Width

    from .pool import Pool, View
    from .scene import Scene


class Narrowed(NamedTuple):
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

    @property
    def interval(self) -> Interval | None:
        """Its 95 % interval."""
        return ert_interval(self.bill.spent, self.bill.cost)


def narrowed(pools: Sequence[Pool]) -> list[Narrowed]:
    """Restrict every search that drew independently, one hyperparameter at a time.

    Searches of which no narrower range holds trials enough are left out.
    """
    found: list[Narrowed] = []
    for pool in pools:
        frozen = pool.cell.frozen
        searched = frozen.trial.searched if frozen else None
        if (frozen is None or searched is None or pool.cell.leader or not pool.ert.hits
                or not pool.ert.total or searched.sampler == "tpe" or tries_a_list(pool.cell)):
            continue
        for knob, (low, high) in logarithmic(searched.ranges).items():
            values = [_value(record.trial.hyperparameters[knob]) for record in pool.cell.tune]
            steps = widths(values, low, high, _value(frozen.trial.hyperparameters[knob]))
            if len(steps) > 1:
                found += [Narrowed(pool, knob, step, Bill(
                    [pool.spent[place] for place in step.inside],
                    [pool.cost[place] for place in step.inside])) for step in steps]
    return found


def _value(value: object) -> float:
    assert isinstance(value, int | float)  # what has a range is a number
    return float(value)


def table(found: Sequence[Narrowed], view: View, file: str = "bill-width",
          against: Pool | None = None) -> Table | None:
    """Expected cost of each search in narrower and narrower ranges; None without any."""
    if not found:
        return None
    return Table(
        file, "Expected cost by the width of the search range",
        "The recorded trials, restricted to those within a factor of the value that was frozen; "
        "of a range with fewer than 3 trials nothing is said. Whoever knows a value that closely "
        "would search that range. As the frozen value is known only afterwards, narrow ranges "
        "look a little too good.",
        (("Optimizer", ""), ("N", ""), ("Known within", "a factor of"), ("Range", ""),
         ("Hit", "trials inside"), ("Expected cost", "95 % interval")),
        (*(_row(each, view) for each in found),
         *([_level(against, view)] if against else [])))


def _row(each: Narrowed, view: View) -> tuple[Value, ...]:
    factor, low, high, inside = each.width
    cost, interval = each.ert, each.interval
    whole = math.isinf(factor)
    return (
        *opening(each.pool.cell, view),
        number("all" if whole else units.trim(units.digits(factor)),
               factor=None if whole else factor),
        mono(f"{each.knob} {_digits(low)} to {_digits(high)}", hyperparameter=each.knob,
             range_low=low, range_high=high),
        number(f"{cost.hits} of {cost.trials}", hits=cost.hits, trials=len(inside)),
        view.entry("ert", cost.cost, cost.bound,
                   limits(interval, view) if interval and cost.hits else ""))


def _level(against: Pool, view: View) -> tuple[Value, ...]:
    """The row of the optimizer without tuning, which searches nothing."""
    found, interval = against.ert, ert_interval(against.spent, against.cost)
    return (
        *opening(against.cell, view), number(units.NONE, factor=None),
        mono("not searched", hyperparameter=None, range_low=None, range_high=None),
        number(f"{found.hits} of {found.trials}", hits=found.hits, trials=found.trials),
        view.entry("ert", found.cost, found.bound,
                   limits(interval, view) if interval and found.hits else ""))


def _digits(value: float) -> str:
    return units.trim(units.digits(value))


def width(scene: Scene) -> Figure | None:
    """Draw the expected cost over how closely a value is known; None where nothing is narrowed."""
    found = [each for each in narrowed(scene.searches) if each.ert.hits]
    if not found:
        return None
    drawing, axes = panel(*SIZE)
    spans = [each.width.high / each.width.low for each in found]
    costs = []
    for (pool, _), steps in itertools.groupby(found, lambda each: (each.pool, each.knob)):
        line = [(each.width.high / each.width.low, each.ert.cost) for each in steps]
        costs += [cost for _, cost in line]
        look = scene.context.looks[pool.cell.label]
        axes.plot(*zip(*line, strict=True), color=look.color, linestyle=look.dashes,
                  marker=look.marker, markersize=5, markeredgewidth=0)
    against = reference(scene.pools)
    if against is not None:
        look = scene.context.looks[against.cell.label]
        axes.axhline(against.ert.cost, color=look.color, linestyle=look.dashes)
        costs.append(against.ert.cost)
    scale(axes, "x", units.count, log=True, limits=(min(spans) / 1.3, max(spans) * 1.3))
    scale(axes, "y", scene.axis, log=True, limits=(min(costs) / 1.5, max(costs) * 1.5))
    axes.set_xlabel("upper end of the range over its lower end")
    heading(axes, f"expected cost of searching a range{scene.unit}")
    shown = [*dict.fromkeys(each.pool for each in found), *([against] if against else [])]
    return finish(
        drawing, scene.slug("width"), scene.title("expected cost by the width of the range"),
        f"{sentence(found, against, scene.view)} Recorded trials within a factor of the frozen "
        "value, 3 at least; the right end of a line is the whole range.",
        scene.legend(shown), basis=scene.basis,
        data=table(found, scene.view, "width", against))


def sentence(found: Sequence[Narrowed], against: Pool | None, view: View) -> str:
    """Say how closely one has to know a hyperparameter for its search to be the cheaper way.

    Args:
        found: Narrowed searches of one N.
        against: The optimizer without tuning that they are held against.
        view: Currency, level and device.
    """
    if against is None:
        return "No optimizer without tuning reached the target."
    if apart := unlike([against, *(each.pool for each in found)], view):
        return f"Not judged: trials differ in {apart}."
    return " ".join(_said([*steps], against) for _, steps in itertools.groupby(
        found, lambda each: (each.pool, each.knob)))


def _said(steps: Sequence[Narrowed], against: Pool) -> str:
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
