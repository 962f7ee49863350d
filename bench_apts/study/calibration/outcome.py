"""What the trials of a calibration say: each optimizer's final values, and the target."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench_apts.core.errors import UserError
from bench_apts.core.spec import Provenance
from bench_apts.stats.selection import final_metric as final
from bench_apts.stats.selection import select_best
from bench_apts.study.calibration import rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Scalar, Suite, Target
    from bench_apts.study.calibration.rule import Bound
    from bench_apts.study.plan import Cell, Plan

NEUTRAL = 1.0
"""Target value that trials of a calibration are run with, whatever the suite's file says."""


@dataclass(frozen=True)
class Candidate:
    """What one optimizer came to.

    Attributes:
        label: Its name.
        tuned: Statuses of its tuning trials, and how often.
        best: Final validation value of the best of them; None if it is not tuned.
        configuration: The hyperparameters of the best; None if no trial ran to its end.
        statuses: Statuses of its reruns.
        finals: Final validation values of those that ran to their end.
        bound: The target that these give; None unless all reruns ran to their end.
        untrained: Validation values of the reruns before the first step.
    """

    label: str
    tuned: Counter[str]
    best: float | None
    configuration: dict[str, Scalar] | None
    statuses: Counter[str]
    finals: tuple[float, ...]
    bound: Bound | None
    untrained: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """The target that a calibration found, and from what: the winner's bound."""

    target: Target
    bound: Bound
    winner: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def trivial(self) -> bool:
        """Whether an untrained network reached the target."""
        return any(map(self.target.reached, self.winner.untrained))


def neutral(suite: Suite) -> Suite:
    """Return a suite whose target says nothing but the metric and its direction.

    So that the trials of a calibration are the same whatever target was there before.
    """
    return replace(suite, target=replace(
        suite.target, value=NEUTRAL, version=1, levels=(1.0,),
        provenance=Provenance("none", 0, 0, "to be calibrated")))


def choose(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """Choose the tuning trial of the best final value; of equals the first, None without any."""
    return select_best([record for record in trials if final(record) is not None])


def read(plan: Plan, records: Sequence[TrialRecord]) -> tuple[Candidate, ...]:
    """Return what each optimizer of a plan came to.

    Args:
        plan: The calibration's; one suite, one N.
        records: Those of its folder.
    """
    known = {record.header.run_id: record for record in records}
    reported = [known[trial.run_id] for trial in plan.reporting(records) if trial.run_id in known]
    return tuple(_candidate(plan, cell, records, [
        record for record in reported if record.trial.label == cell.entry.label])
        for cell in plan.cells)


def _candidate(plan: Plan, cell: Cell, records: Sequence[TrialRecord],
               reruns: Sequence[TrialRecord]) -> Candidate:
    mine = [record for record in records if plan.belongs(record, cell)]
    best = choose(mine)
    finals = tuple(value for record in reruns if (value := final(record)) is not None)
    target = cell.suite.target
    return Candidate(
        cell.entry.label, Counter(map(_how_it_ended, mine)), final(best) if best else None,
        plan.freeze(cell, records), Counter(map(_how_it_ended, reruns)), finals,
        rule.bound(finals, target.direction) if len(finals) == plan.study.seeds else None,
        tuple(record.evals[0].validation.get(target.metric, math.nan) for record in reruns
              if record.evals))


def _how_it_ended(record: TrialRecord) -> str:
    if final(record) is not None:
        return "to the end"
    if record.end is None:
        return "unfinished"
    if record.end.status in ("hit", "miss", "timeout"):
        return "out of time"
    return record.end.status


def decide(suite: Suite, candidates: Sequence[Candidate]) -> Outcome:
    """Apply the rule to what the optimizers came to.

    Args:
        suite: The suite, with its metric.
        candidates: What ``read`` returns.

    Raises:
        UserError: No optimizer has all its final values, or the rule gives no usable target.
    """
    target = suite.target
    whole = [(each, each.bound) for each in candidates if each.bound]
    if not whole:
        raise UserError(f"{suite.name} cannot be calibrated: "
                        + "; ".join(f"{each.label}: {_missing(each)}" for each in candidates)
                        + f"; {_remedy(candidates)}")
    winner, found = whole[rule.better([bound.median for _, bound in whole], target.direction)]
    if not 0 < found.value < math.inf:
        raise UserError(f"{suite.name} cannot be calibrated: the rule gives a {target.metric} of "
                        f"{found.value:g}, and a target must be above 0; raise budget.samples, or "
                        "choose another target.metric")
    return Outcome(replace(target, value=found.value), found, winner, tuple(candidates))


def _missing(candidate: Candidate) -> str:
    if candidate.configuration is None:
        return f"no tuning trial ran to the end of the budget ({counted(candidate.tuned)})"
    return f"reruns: {counted(candidate.statuses)}"


def _remedy(candidates: Sequence[Candidate]) -> str:
    total = sum((each.tuned + each.statuses for each in candidates), Counter[str]())
    if total["out of time"]:
        return "raise budget.seconds, or lower budget.samples"
    if total["diverged"]:
        return "check data, model and task with `bench-apts test`"
    return "`bench-apts report` of the results folder says why"


def counted(statuses: Counter[str]) -> str:
    """Return statuses in words, for instance ``18 to the end, 2 diverged``."""
    return ", ".join(f"{number} {status}" for status, number in statuses.most_common()) or "none"
