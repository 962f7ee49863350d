"""What trust-region methods told of their steps, one row per evaluation, and sums over seeds."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from ..cells import Cell, Group

STUCK = 0.5
"""Share of the judged steps with the radius at a bound from which on it counts as stuck."""

TOLD = ("radius", "rho", "best_length", "predicted_reduction", "actual_reduction", "accepted",
        "global_accepted", "at_bound", "judged", "local_passes")
"""Diagnostics that are read; an optimizer reports those that it has."""


class Tally(NamedTuple):
    """The steps of one optimizer at one N, over all seeds.

    Attributes:
        steps: Training steps.
        judged: Steps that were judged; None if the records do not tell how many.
        accepted: Those that were kept; None likewise.
        share: Share of judged steps that were kept.
        at_bound: Share of judged steps after which the radius lay at a bound, None if not told.
        radius: At the end, median over seeds.
        ratio: ρ of the latest judged step before an evaluation, median over all; NaN if none.
        local: Passes of steps that a rank takes alone, None if not told.
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


def frame(group: Group) -> pd.DataFrame:
    """Returns every evaluation of every seed of the optimizers that judge their steps.

    Columns are those of ``TOLD`` (NaN where not told), ``optimizer``, ``run_id``,
    ``evaluation``, ``samples``, ``steps`` since the evaluation before, and ``passes`` of both
    kinds so far, those of the busiest rank.
    """
    rows = []
    for cell in group.cells:
        if not judges(cell):
            continue
        for record in cell.seeds:
            before = 0
            for index, event in enumerate(record.evals):
                rows.append({
                    "optimizer": cell.label, "run_id": record.header.run_id,
                    "evaluation": index, "samples": event.samples,
                    "steps": event.step - before, "passes": event.forwards + event.backwards,
                    **{name: event.diagnostics.get(name, math.nan) for name in TOLD}})
                before = event.step
    return pd.DataFrame(rows, columns=[
        "optimizer", "run_id", "evaluation", "samples", "steps", "passes", *TOLD])


def judges(cell: Cell) -> bool:
    """Says whether any seed told that it accepted or rejected steps."""
    return any("accepted" in event.diagnostics for r in cell.seeds for event in r.evals)


def tally(rows: pd.DataFrame) -> Tally:
    """Sums the rows of one optimizer at one N."""
    told = rows.dropna(subset=["accepted"])
    known = not told["judged"].isna().any()
    # Shares of whole steps: rounding takes away what the division left.
    judged = (told["judged"].where(told["judged"].notna(), 1.0) * told["steps"]).round()
    accepted = (told["accepted"] * judged).round()
    total = float(judged.sum())
    bounded = told.dropna(subset=["at_bound"])
    weights = judged.loc[bounded.index]
    last = rows.dropna(subset=["radius"]).groupby("run_id")["radius"].last()
    local = rows.groupby("run_id")["local_passes"].last()
    return Tally(
        steps=int(rows["steps"].sum()), judged=int(total) if known else None,
        accepted=int(accepted.sum()) if known else None,
        share=float(accepted.sum()) / total if total else math.nan,
        at_bound=(float((bounded["at_bound"] * weights).sum() / weights.sum())
                  if len(bounded) and weights.sum() else None),
        radius=statistics.median(last) if len(last) else math.nan,
        ratio=float(rows["rho"].median()),
        local=None if local.isna().any() else int(local.sum()),
        passes=int(rows.groupby("run_id")["passes"].last().sum()),
        seeds=rows["run_id"].nunique(), idle=_idle(rows))


def _idle(rows: pd.DataFrame) -> int:
    """Counts trainings whose last quarter's steps were all refused, as far as is told."""
    ends = rows.groupby("run_id")["evaluation"].transform("max")
    late = rows[rows["evaluation"] > 0.75 * ends].dropna(subset=["accepted"])
    return int((~late.groupby("run_id")["accepted"].any()).sum())
