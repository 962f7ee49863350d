"""Which hyperparameter of each optimizer was varied, and how configurations transfer between N."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import headline
from bench_apts.reports.table import Table, Value, grouped_table, mono, name, words
from bench_apts.reports.tuning_pools import CostView, Pool, read_pool
from bench_apts.stats.range_sensitivity import widest
from bench_apts.stats.world_sizes import transfer_regret

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.spec import Scalar
    from bench_apts.reports.cells import CellGroup, ReportCell
    from bench_apts.reports.section_parts import Context


class SweepPoint(NamedTuple):
    """One trial.

    Attributes:
        ranks: World size N.
        value: Of the hyperparameter, positive.
        cost: To the target in the headline's currency, infinite for a miss.
        core_seconds: To the target likewise.
        status: How the trial ended; "unfinished" without an end.
        chosen: Whether its configuration was frozen at this N.
    """

    ranks: int
    value: float
    cost: float
    core_seconds: float
    status: str
    chosen: bool

    @property
    def hit(self) -> bool:
        """Whether it reached the target."""
        return math.isfinite(self.cost)


class Sweep(NamedTuple):
    """One optimizer and the one hyperparameter that is shown of it.

    Attributes:
        label: The optimizer, under whose look it is drawn.
        name: The hyperparameter.
        low: Lower end of what was searched, or the smallest value given.
        high: Upper end.
        searched: Whether trials were drawn from the range; else a user gave single values.
        points: All trials, N ascending.
    """

    label: str
    name: str
    low: float
    high: float
    searched: bool
    points: tuple[SweepPoint, ...]

    def drawn(self, ranks: int | None = None) -> list[tuple[float, bool]]:
        """Return value and whether it hit, of the trials at one N or at all."""
        return [(p.value, p.hit) for p in self.points if ranks in (None, p.ranks)]


def find_sweeps(groups: Sequence[CellGroup]) -> list[Sweep]:
    """Find the sweeps of one suite: searches first, then what was varied by hand.

    Of a search this is the hyperparameter with the largest ratio between the ends of its range.
    An optimizer that shared another's search is left out: its trials are the other's.
    """
    labels = list(dict.fromkeys(cell.label for group in groups for cell in group.cells))
    found = [_searched([c for group in groups for c in group.cells if c.label == label])
             for label in labels]
    optimizers = dict.fromkeys(cell.optimizer for group in groups for cell in group.cells)
    found += [_by_hand([c for group in groups for c in group.cells if c.optimizer == name])
              for name in optimizers]
    return [sweep for sweep in found if sweep]


def _searched(cells: Sequence[ReportCell]) -> Sweep | None:
    cells = [cell for cell in cells if cell.tune and not cell.search_owner]
    ranges = next((r.trial.searched.ranges for cell in cells for r in cell.tune
                   if r.trial.searched), {})
    name = widest(ranges)
    if name is None:
        return None
    points = [point for cell in cells for point in _sweep_points(cell, name)]
    return Sweep(cells[0].label, name, *ranges[name], True, tuple(points)) if points else None


def _by_hand(cells: Sequence[ReportCell]) -> Sweep | None:
    """Find the only number in which untuned entries of one optimizer differ, if it is one."""
    cells = [cell for cell in cells if cell.seeds and not cell.tune]
    given = [cell.seeds[0].trial.hyperparameters for cell in cells]
    differing = {name for values in given for name in values
                 if any(other.get(name) != values[name] for other in given)}
    if len(differing) != 1:
        return None
    name = differing.pop()
    points = [point for cell in sorted(cells, key=lambda cell: cell.ranks)
              for point in _sweep_points(cell, name)]
    values = [point.value for point in points]
    if len(set(values)) < 2:
        return None
    return Sweep(cells[0].label, name, min(values), max(values), False, tuple(points))


def _sweep_points(cell: ReportCell, name: str) -> list[SweepPoint]:
    points = []
    for record, result in zip(cell.draws, cell.recorded, strict=True):
        value = record.trial.hyperparameters.get(name)
        # A value of 0 mostly means that the optimizer finds its own, and no log axis has it.
        if isinstance(value, bool | str) or value is None or value <= 0:
            continue
        points.append(SweepPoint(
            cell.ranks, float(value), result.cost[headline(record.trial.device)],
            result.cost["core_seconds"],
            record.end.status if record.end else "unfinished",
            cell.frozen is not None
            and record.trial.hyperparameters == cell.frozen.trial.hyperparameters))
    return points


def transfer_table(context: Context) -> Table | None:
    """Fill the transfer matrix of one suite; None for a single N or where no optimizer was tuned.

    Optimizers that took over another's search are left out: the matrix is the other's.
    """
    device = context.gathered.device
    view = CostView(headline(device), 1.0, device)
    sizes = [group.ranks for group in context.groups]
    pools = [found for group in context.groups for cell in group.cells
             if cell.tune and not cell.search_owner and cell.frozen is not None
             and (found := read_pool(cell, view))]
    labels = [label for label in context.looks
              if sum(found.cell.label == label for found in pools) > 1]
    if not labels:
        return None
    of_label = {label: {found.cell.ranks: found for found in pools if found.cell.label == label}
                for label in labels}
    return grouped_table(
        "transfer", "Transfer matrix",
        "Regret at each N: expected cost there with the configuration that was chosen at the "
        "row's N, over that with the one chosen there. 1: nothing lost by not tuning again. A "
        "configuration that was not chosen at N has been run once or a few times there, so that "
        "its cost is uncertain.",
        (("Optimizer", ""), ("Chosen at", "N"), ("Configuration", ""),
         *((f"N = {n}", "regret") for n in sizes)),
        ([_row(chosen, mine, sizes) for chosen in _alike(mine.values())]
         for mine in of_label.values()))


def _alike(pools: Iterable[Pool]) -> list[list[Pool]]:
    """Put those together that froze the same configuration."""
    found: list[list[Pool]] = []
    for one in pools:
        for group in found:
            if _values(group[0]) == _values(one):
                group.append(one)
                break
        else:
            found.append([one])
    return found


def _values(one: Pool) -> dict[str, Scalar]:
    assert one.cell.frozen is not None
    return one.cell.frozen.trial.hyperparameters


def _row(chosen: Sequence[Pool], mine: dict[int, Pool], sizes: Sequence[int]) -> tuple[Value, ...]:
    source = chosen[0]
    frozen = source.cell.frozen
    assert frozen is not None
    searched = frozen.trial.searched
    varied = {knob: frozen.trial.hyperparameters[knob] for knob in (
        searched.ranges if searched else {})} or frozen.trial.hyperparameters
    shown = ", ".join(
        f"{knob}={units.trim(units.digits(value)) if isinstance(value, float) else value}"
        for knob, value in varied.items())
    places = [str(one.cell.ranks) for one in chosen]
    return (name(source.cell.label, suite=source.cell.suite.name),
            words(units.listing(places), chosen_at=" ".join(places)),
            mono(shown, configuration=frozen.trial.configuration),
            *(_entry(source, mine.get(ranks), ranks) for ranks in sizes))


def _entry(source: Pool, there: Pool | None, ranks: int) -> Value:
    column, frozen = f"regret_{ranks}", source.cell.frozen
    native = there.trained(there.cell.frozen) if there and there.cell.frozen else None
    carried = there.trained(frozen) if there and frozen else None
    if native is None or carried is None:
        return Value("not run", numbers={column: None}, kind="number missed")
    runs = units.plural(carried.trials, "run")
    if native.hits and carried.hits:
        ratio = transfer_regret(carried.cost, native.cost)
        return Value(units.digits(ratio), runs, {column: ratio})
    if native.hits:
        least = transfer_regret(carried.bound, native.cost)
        return Value(f"more than {units.digits(least)}" if math.isfinite(least) else "no hit",
                     f"0 of {runs}", {column: None}, "number missed")
    return Value("only this hit" if carried.hits else "neither hit", runs, {column: None},
                 "number missed")
