"""Modelled times of a study's optimizers at other world sizes and on other networks."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

from bench_apts.core import units
from bench_apts.core.errors import UserError
from bench_apts.plugins import registry
from bench_apts.reports import cells
from bench_apts.reports.table import Table, Value, grouped_table, name, number, words
from bench_apts.stats.modelled_training import (
    MOST_GROWTH,
    MOST_SHARE,
    BatchScaling,
    Projection,
    project,
    recorded_work,
    statistical_efficiency,
)
from bench_apts.stats.network_model import COLLECTIVES, Algorithm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench_apts.reports.cells import ReportCell
    from bench_apts.reports.gather import Gathered
    from bench_apts.reports.table import Plain
    from bench_apts.stats.modelled_training import KnownEfficiency, RecordedWork
    from bench_apts.stats.network_model import Interconnect

RANKS = (8, 64, 512, 4096)
"""World sizes that a report models; `bench-apts project` takes others."""


class ProjectedRow(NamedTuple):
    """One optimizer on one fabric at one N: medians over its report-stage seeds.

    Attributes:
        cell: What was measured.
        hits: Seeds that reached the target.
        scaling: What stays as ranks are added.
        fabric: The network's name.
        ranks: World size that is modelled.
        basis: Which record the computing was taken from.
        middle: Modelled numbers, None where the minibatch cannot be shared out. Time to the
            target is NaN where ``efficiency`` is unknown.
        efficiency: What is known of the samples that such a minibatch needs.
    """

    cell: ReportCell
    hits: int
    scaling: BatchScaling
    fabric: str
    ranks: int
    basis: str
    middle: Projection | None
    efficiency: KnownEfficiency = "measured"

    @property
    def to_target(self) -> str:
        """Time to the target in words."""
        if self.middle is None:
            return units.NONE
        if math.isnan(self.middle.to_target_s):
            return "not modelled"
        return (units.format_seconds(self.middle.to_target_s)
                if math.isfinite(self.middle.to_target_s) else "no hit")

    @property
    def text(self) -> str:
        """Step time / time to target, for a table."""
        if self.middle is None:
            return units.NONE
        shown = f"{units.format_seconds(self.middle.step_s)} / {self.to_target}"
        return (shown + " *" * (self.efficiency == "assumed")).replace(units.THIN, " ")

    @property
    def refusal(self) -> str:
        """Why there is no time to the target; "" where there is one."""
        if self.middle is None or self.efficiency != "unknown":
            return ""
        return f"a minibatch of {self.middle.batch_size:,} was never run"

    def numbers(self) -> dict[str, Plain]:
        """Return the row of the CSV file; what is infinite or unknown is left empty."""
        values = self.middle
        reached = values is not None and math.isfinite(values.to_target_s)
        return {
            "suite": self.cell.suite.name, "optimizer": self.cell.label,
            "recorded_ranks": self.cell.ranks, "seeds": len(self.cell.seeds), "hits": self.hits,
            "compute_basis": self.basis, "scaling": self.scaling, "fabric": self.fabric,
            "ranks": self.ranks, "batch_size": values.batch_size if values else None,
            "samples_to_target": self.efficiency,
            "modelled_compute_s": values.compute_s if values else None,
            "modelled_communication_s": values.communication_s if values else None,
            "modelled_step_s": values.step_s if values else None,
            "modelled_steps_to_target": values.steps if values and reached else None,
            "modelled_to_target_s": values.to_target_s if values and reached else None,
        }


def project_times(gathered: Gathered, ranks: Sequence[int], networks: Mapping[str, Interconnect],
                  scalings: Sequence[BatchScaling],
                  algorithm: Algorithm) -> tuple[list[ProjectedRow], list[str]]:
    """Project each optimizer from the largest N that it was recorded with.

    One rank alone sends nothing that could be projected, and a meter that saw nothing neither.

    Returns:
        The rows, with ``ranks`` varying fastest, and a note for each optimizer that has none.

    Raises:
        UserError: The algorithm needs nodes, and there are none or they are not filled.
    """
    if algorithm is Algorithm.hierarchical:
        size = min(network.node_ranks for network in networks.values())
        if size < 2:
            raise UserError("--algorithm hierarchical needs nodes of several ranks, for instance "
                            "--node-ranks 8")
        odd = [n for n in ranks if n > size and n % size]
        if odd:
            raise UserError(f"--ranks {odd[0]} does not fill nodes of {size}; choose a multiple, "
                            "or --algorithm best")
    found: list[ProjectedRow] = []
    notes: list[str] = []
    study = gathered.file.study
    for suite, entry in itertools.product(study.suites, study.entries):
        mine = [cell for group in gathered.groups if group.suite == suite
                for cell in group.cells if cell.label == entry.label]
        recorded = _recorded(mine)
        if isinstance(recorded, str):
            notes.append(f"{entry.label} on {suite.name} is not {recorded}")
            continue
        cell, done = recorded
        wish, note = _batches(cell)
        notes += note
        run = {other.batch for other in mine if other.batch}
        samples = max((r.start.train_samples for r in cell.seeds if r.start), default=0)
        for scaling, (fabric, network), n in itertools.product(
                scalings, networks.items(), ranks):
            middle = _median([project(w, n, scaling, network, algorithm, wish(scaling, n))
                              for w in done])
            known: KnownEfficiency = "unknown"
            if middle:
                known = statistical_efficiency(middle.batch_size, run, samples)
            if middle and known == "unknown" and math.isfinite(middle.to_target_s):
                middle = middle._replace(to_target_s=math.nan)
            found.append(ProjectedRow(cell, sum(w.hit for w in done), scaling, fabric, n,
                                      done[0].basis, middle, known))
    return found, [*notes, *refusals(found)]


def refusals(rows: Sequence[ProjectedRow]) -> list[str]:
    """Say of optimizers from which N on no time to the target is modelled, and why."""
    least: dict[tuple[str, str, str], ProjectedRow] = {}
    for row in rows:
        if row.refusal and row.hits:
            key = row.cell.suite.name, row.cell.label, row.scaling
            least[key] = min(least.get(key, row), row, key=lambda each: each.ranks)
    found: dict[str, list[str]] = {}
    for (suite, label, scaling), row in least.items():
        found.setdefault(f"on {suite} at N = {row.ranks:,} and more, {scaling} scaling: "
                         f"{row.refusal}", []).append(label)
    return [f"time to the target is not modelled for {units.listing(labels)} {where}"
            for where, labels in found.items()]


def _recorded(mine: Sequence[ReportCell]) -> tuple[ReportCell, list[RecordedWork]] | str:
    """Return what an optimizer's trials at its largest N did, or why there is no projection."""
    metered = [cell for cell in mine if cell.ranks > 1 and any(
        r.start and r.evals and r.evals[-1].step for r in cell.seeds)
        and not any(r.uncounted for r in cell.seeds)]
    if not metered:
        return "projected: no report-stage trial at N = 2 or more with its bytes counted"
    cell = max(metered, key=lambda cell: cell.ranks)
    alone = cells.computing(mine)
    if alone is None:
        return ("modelled: needs N = 1, whose trainings show what a rank computes without "
                "communication")
    done = [w for r in cell.seeds if (w := recorded_work(r, alone)) is not None]
    if not done:
        return "projected: it took no step before the target"
    strange = {name for w in done for name in w.traffic}.difference(COLLECTIVES)
    if strange:
        return ("projected: the model does not know the collective "
                f"{', '.join(sorted(strange))}")
    return cell, done


def _batches(cell: ReportCell) -> tuple[Callable[[BatchScaling, int], int | None], list[str]]:
    """Return the global minibatch that an optimizer wants at another N, None for the suite's.

    A plug-in that is gone, or has other settings now, cannot be asked, and one that is a file is
    not: a record must not decide which code runs. The note then says so.
    """
    trial, notes = cell.seeds[0].trial, []
    wish, values = None, trial.hyperparameters
    try:
        if trial.plugin.endswith(".py"):
            raise UserError(f"{trial.portable.plugin} is not run to ask for another")
        backend = registry.optimizer(trial.optimizer).backend
        if backend.batch_size:
            values, wish = backend.configure(values), backend.minibatch
    except UserError as error:
        notes = [f"{cell.label} on {cell.suite.name} is modelled with the suite's minibatch: "
                 f"{error}"]

    def wanted(scaling: BatchScaling, ranks: int) -> int | None:
        given = cell.suite.global_batch(cell.ranks)
        if scaling is BatchScaling.weak:
            given = round(given * ranks / cell.ranks)
        return wish(given, values, ranks) if wish else None

    return wanted, notes


def _median(projections: Sequence[Projection | None]) -> Projection | None:
    """Return the medians over seeds, each number by itself; a miss is infinite."""
    known = [p for p in projections if p is not None]
    if not known:
        return None
    reached = [p.steps for p in known if math.isfinite(p.to_target_s)]
    return Projection(
        statistics.median(p.compute_s for p in known),
        statistics.median(p.communication_s for p in known),
        round(statistics.median(reached)) if reached else known[0].steps,
        statistics.median(p.to_target_s for p in known), known[0].batch_size)


def modelled_table(rows: Sequence[ProjectedRow]) -> Table | None:
    """Return modelled step and time to target of each optimizer; None if nothing was modelled."""
    ordered = sorted((row for row in rows if row.middle is not None),
                     key=lambda row: row.scaling is not BatchScaling.strong)
    if not ordered:
        return None
    return grouped_table(
        "modelled", "Modelled time on other networks",
        "Modelled, not measured: computing as recorded, plus hops times latency and bytes over "
        "bandwidth of each collective; nothing overlaps and no link is shared. Strong: the global "
        "minibatch stays; weak: each rank's share of it. A time to the target is given where such "
        f"a minibatch was run; as if the method needed no more samples (*) up to {MOST_GROWTH} "
        f"times one that was and {units.format_percent(MOST_SHARE, 0)} of the training set. "
        "`bench-apts project` takes other networks and N.",
        (("Optimizer", ""), ("Scaling", ""), ("Network", ""), ("N", "ranks, modelled"),
         ("Minibatch", "samples"), ("Computing", "of a step"), ("Sending", "in a step"),
         ("Step", "modelled"), ("To target", "modelled")),
        (map(_row, group) for _, group in itertools.groupby(
            ordered, lambda row: (row.scaling, row.fabric))))


def _row(row: ProjectedRow) -> tuple[Value, ...]:
    middle = row.middle
    assert middle is not None
    reached = math.isfinite(middle.to_target_s)
    return (name(row.cell.label, suite=row.cell.suite.name), words(row.scaling),
            words(row.fabric), number(f"{row.ranks:,}"), number(f"{middle.batch_size:,}"),
            *(number(units.format_seconds(seconds))
              for seconds in (middle.compute_s, middle.communication_s, middle.step_s)),
            Value(row.to_target + " *" * (reached and row.efficiency == "assumed"), row.refusal,
                  row.numbers(), "number" if reached else "number missed"))
