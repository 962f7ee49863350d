"""What happens in the course of training: every evaluation, and every judged step.

Curves are thinned, and sums taken over the seeds of one optimizer at one N. Optimizers that judge
their steps report how, as diagnostics of each evaluation: shares of the steps since the evaluation
before, and numbers of the last judged step.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bench_apts.core.currencies import CURRENCIES, TIME_CURRENCIES
from bench_apts.stats.learning_curves import thinned_points, thinning_stride
from bench_apts.stats.trial_costs import costs_along, hit_bracket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.reports.cells import CellGroup


class CurveAxis(NamedTuple):
    """A currency as the horizontal axis of curves; see ``currencies.AxisText``."""

    currency: Currency
    label: str
    form: Callable[[float], str]
    column: str
    slug: str
    words: str
    noun: str
    head: tuple[str, str]


AXES = sorted((CurveAxis(currency, row.words, row.form, *row.axis)
               for currency, row in CURRENCIES.items() if row.axis),
              key=lambda axis: axis.currency not in TIME_CURRENCIES)  # times first

_COLUMNS = ("suite", "ranks", "optimizer", "seed", "run_id", "evaluation", "step", "samples",
            "train_s", "wire_bytes", "forwards", "backwards", "train_loss", "validation", "hit",
            "radius", "accepted")
"""Columns of ``curves.csv``; those of axes that are not among them follow."""

SINGLE = 5
"""Seeds of an optimizer that are drawn one by one; the band and the median are of all."""


@dataclass(frozen=True)
class CurveBand:
    """One optimizer's seeds over the evaluations of a thinned curve.

    Attributes:
        label: The optimizer.
        runs: The evaluations of the first ``SINGLE`` seeds, rows of ``curve_frame``.
        shared: By column, values at the evaluations that all seeds have, shape
            ``(evaluations, seeds)``; beyond, a median would say more about who is left.
    """

    label: str
    runs: tuple[pd.DataFrame, ...]
    shared: dict[str, np.ndarray[Any, np.dtype[np.float64]]]


def curve_frame(groups: tuple[CellGroup, ...]) -> pd.DataFrame:
    """Return every evaluation of every seed, one row each: the data of all curves."""
    columns: dict[str, list[Any]] = {
        name: [] for name in (*_COLUMNS, *(axis.column for axis in AXES))}
    for group in groups:
        metric = group.suite.target.metric
        for cell in group.cells:
            for record in cell.seeds:
                events, found = record.evals, hit_bracket(record)
                _add(columns, len(events), {
                    **{axis.column: costs_along(record, axis.currency) for axis in AXES},
                    "suite": group.suite.name, "ranks": group.ranks, "optimizer": cell.label,
                    "seed": record.trial.repetition, "run_id": record.header.run_id,
                    "evaluation": range(len(events)), "step": [e.step for e in events],
                    "samples": [e.samples for e in events],
                    "forwards": [e.forwards for e in events],
                    "backwards": [e.backwards for e in events],
                    "train_loss": [e.train_loss for e in events],
                    "validation": [e.validation.get(metric) for e in events],
                    "hit": [found is not None and found[1] == index
                            for index in range(len(events))],
                    "radius": [e.diagnostics.get("radius") for e in events],
                    "accepted": [e.diagnostics.get("accepted") for e in events]})
    return _frame(columns)


def _add(columns: Mapping[str, list[Any]], count: int, values: Mapping[str, Any]) -> None:
    """Add a trial's rows to columns; a single number or text is that of each of its rows."""
    for name, value in values.items():
        columns[name] += [value] * count if isinstance(value, str | int) else value


def _frame(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    # Texts as they are: pandas' own strings are made anew whenever they are read.
    return pd.DataFrame({
        name: pd.Series(values, dtype=object) if name in ("suite", "optimizer", "run_id")
        else values for name, values in columns.items()})


def curve_bands(data: pd.DataFrame, labels: Iterable[str], metric: str,
                columns: Sequence[str]) -> tuple[list[CurveBand], int]:
    """Thin the curves of one suite and N, and find what all seeds of an optimizer have.

    Args:
        data: Rows of ``curve_frame``.
        labels: Optimizers, in order.
        metric: Column that must be known; evaluations without it are left out.
        columns: What ``shared`` is to hold.

    Returns:
        A band of each optimizer with data, and the k of every k-th evaluation that was kept,
        besides first hits and ends; 1 where curves are whole.
    """
    data = data.dropna(subset=[metric])
    # Places in arrays: a data frame for each seed would take a second of a large study.
    seeds = pd.factorize(data["run_id"])[0]
    runs = np.split(np.argsort(seeds, kind="stable"), np.flatnonzero(np.diff(np.sort(seeds))) + 1)
    step = thinning_stride(max(map(len, runs)))
    optimizers, evaluations = data["optimizer"].to_numpy(), data["evaluation"].to_numpy(int)
    hits, values = data["hit"].to_numpy(bool), {c: data[c].to_numpy(float) for c in columns}
    found = []
    for label in labels:
        mine = [run for run in runs if len(run) and optimizers[run[0]] == label]
        if not mine:
            continue
        common = functools.reduce(np.intersect1d, [evaluations[run] for run in mine])
        grid = common[(common % step == 0) | (common == common[-1:])]
        aligned = [run[np.searchsorted(evaluations[run], grid)] for run in mine]
        found.append(CurveBand(
            label,
            tuple(data.iloc[run[thinned_points(evaluations[run], hits[run], step)]]
                  for run in mine[:SINGLE]),
            {column: np.column_stack([values[column][rows] for rows in aligned])
             for column in columns}))
    return found, step


STEP_NUMBERS = ("radius", "rho", "best_length", "predicted_reduction", "actual_reduction",
                "accepted", "global_accepted", "at_bound", "judged", "local_passes")
"""Diagnostics of steps that are read; an optimizer reports those that it has."""


class StepTally(NamedTuple):
    """The steps of one optimizer at one N, over all seeds.

    Attributes:
        steps: Training steps.
        judged: Steps that were judged; None if the records do not tell how many.
        accepted: Those that were kept; None likewise.
        share: Share of judged steps that were kept.
        at_bound: Share of judged steps after which the radius lay at a bound; None if unknown.
        radius: At the end, median over seeds.
        ratio: ρ of the latest judged step before an evaluation, median over all; NaN if none.
        local: Passes of steps that a rank takes alone; None if unknown.
        passes: All forward and backward passes.
        seeds: Trainings.
        idle: Seeds that kept no step between any two evaluations of their last quarter.
    """

    steps: int
    judged: int | None
    accepted: int | None
    share: float
    at_bound: float | None
    radius: float
    ratio: float
    local: int | None
    passes: int
    seeds: int
    idle: int


def step_frame(group: CellGroup) -> pd.DataFrame:
    """Return every evaluation of every seed of the optimizers that judge their steps.

    Columns are those of ``STEP_NUMBERS`` (NaN where not reported), ``optimizer``, ``run_id``,
    ``evaluation``, ``samples``, ``steps`` since the evaluation before, and ``passes`` of both
    kinds so far, those of the busiest rank.
    """
    columns: dict[str, list[Any]] = {name: [] for name in (
        "optimizer", "run_id", "evaluation", "samples", "steps", "passes", *STEP_NUMBERS)}
    for cell in group.cells:
        if not any("accepted" in event.diagnostics for r in cell.seeds for event in r.evals):
            continue
        for record in cell.seeds:
            events = record.evals
            steps = [0, *(event.step for event in events)]
            _add(columns, len(events), {
                "optimizer": cell.label, "run_id": record.header.run_id,
                "evaluation": range(len(events)), "samples": [e.samples for e in events],
                "steps": [now - before for before, now in itertools.pairwise(steps)],
                "passes": [e.forwards + e.backwards for e in events],
                **{name: [e.diagnostics.get(name, math.nan) for e in events]
                   for name in STEP_NUMBERS}})
    return _frame(columns)


def tally_steps(rows: pd.DataFrame) -> StepTally:
    """Sum the rows of one optimizer at one N."""
    reported = rows.dropna(subset=["accepted"])
    counted = not reported["judged"].isna().any()
    # Shares of whole steps: rounding takes away what the division left.
    judged = (reported["judged"].fillna(1.0) * reported["steps"]).round()
    accepted, total = (reported["accepted"] * judged).round(), float(judged.sum())
    bounded = reported.dropna(subset=["at_bound"])
    weights = judged.loc[bounded.index]
    last = rows.dropna(subset=["radius"]).groupby("run_id")["radius"].last()
    local = rows.groupby("run_id")["local_passes"].last()
    # Trainings whose steps of the last quarter were all rejected, as far as is known.
    ends = rows.groupby("run_id")["evaluation"].transform("max")
    late = rows[rows["evaluation"] > 0.75 * ends].dropna(subset=["accepted"])
    return StepTally(
        steps=int(rows["steps"].sum()), judged=int(total) if counted else None,
        accepted=int(accepted.sum()) if counted else None,
        share=float(accepted.sum()) / total if total else math.nan,
        at_bound=(float((bounded["at_bound"] * weights).sum() / weights.sum())
                  if len(bounded) and weights.sum() else None),
        radius=statistics.median(last) if len(last) else math.nan,
        ratio=float(rows["rho"].median()),
        local=None if local.isna().any() else int(local.sum()),
        passes=int(rows.groupby("run_id")["passes"].last().sum()),
        seeds=rows["run_id"].nunique(),
        idle=int((~late.groupby("run_id")["accepted"].any()).sum()))
