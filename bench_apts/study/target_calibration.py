"""The arithmetic of the rule: median less one standard deviation, rounded towards easier.

What the trials of a calibration say: each optimizer's final values, and the target.

What a calibrated target's file says of where it comes from.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from bench_apts import __version__
from bench_apts.core import units
from bench_apts.core.errors import UserError
from bench_apts.core.spec import Provenance
from bench_apts.stats.trial_costs import final_metric as final
from bench_apts.stats.trial_costs import select_best

if TYPE_CHECKING:
    from collections.abc import Sequence
    Direction = Literal["max", "min"]
    import datetime as dt

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Scalar, Study, Suite, Target
    from bench_apts.study.plan import Plan, StudyCell

_LEAST_SHARE = Decimal("0.001")
"""Share of the median below which no step is finer: three significant digits."""

_EXACT = Context(prec=1_000)
"""Decimals of this context hold any quotient of a float and a step to its last digit before 1."""


@dataclass(frozen=True)
class Bound:
    """A target and the numbers that it is made of, all in the metric's unit.

    Attributes:
        value: The target.
        median: Of the final values.
        std: Their standard deviation, of a sample.
        step: The target is a multiple of it.
    """

    value: float
    median: float
    std: float
    step: float


def target_bound(values: Sequence[float], direction: Direction) -> Bound:
    """Return the target that the final values of one configuration give.

    It is the median moved by one standard deviation towards easier, and then to the next
    multiple of ``step`` in the same direction.

    Args:
        values: Final validation values over seeds, at least two.
        direction: Whether more (``"max"``) or less (``"min"``) of the metric is better.
    """
    median, std = statistics.median(values), statistics.stdev(values)
    unit = rounding_step(median, std)
    easier = median - std if direction == "max" else median + std
    return Bound(round_towards_easier(easier, unit, direction), median, std, float(unit))


def rounding_step(median: float, std: float) -> Decimal:
    """Return the largest number 1, 2 or 5 times a power of ten that does not exceed a size.

    The size is the standard deviation, or a thousandth of the median where that is more; a step
    of 1e-12 where both are 0.
    """
    size = max(_decimal(std), _decimal(abs(median)) * _LEAST_SHARE)
    if not size:
        return Decimal("1e-12")
    power = Decimal(1).scaleb(size.adjusted())
    return max(factor * power for factor in (1, 2, 5) if factor * power <= size)


def round_towards_easier(value: float, unit: Decimal, direction: Direction) -> float:
    """Return the nearest multiple of a step that is as easy to reach as ``value``, or easier.

    A value that is a multiple stays as it is.
    """
    towards = ROUND_FLOOR if direction == "max" else ROUND_CEILING
    multiples = _EXACT.divide(_decimal(value), unit).to_integral_value(towards)
    return float(_EXACT.multiply(multiples, unit))


def is_better(medians: Sequence[float], direction: Direction) -> int:
    """Return the place of the better median; of equals the first."""
    best = max(medians) if direction == "max" else min(medians)
    return list(medians).index(best)


def _decimal(value: float) -> Decimal:
    """Return the shortest decimal that a float is written as: 0.3, not 0.299999999999999988898."""
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return Decimal(repr(float(value)))


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
class CalibrationOutcome:
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


def read_candidates(plan: Plan, records: Sequence[TrialRecord]) -> tuple[Candidate, ...]:
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


def _candidate(plan: Plan, cell: StudyCell, records: Sequence[TrialRecord],
               reruns: Sequence[TrialRecord]) -> Candidate:
    mine = [record for record in records if plan.belongs(record, cell)]
    best = choose(mine)
    finals = tuple(value for record in reruns if (value := final(record)) is not None)
    target = cell.suite.target
    return Candidate(
        cell.entry.label, Counter(map(_how_it_ended, mine)), final(best) if best else None,
        plan.freeze(cell, records), Counter(map(_how_it_ended, reruns)), finals,
        target_bound(finals, target.direction) if len(finals) == plan.study.seeds else None,
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


def decide_target(suite: Suite, candidates: Sequence[Candidate]) -> CalibrationOutcome:
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
    winner, found = whole[is_better([bound.median for _, bound in whole], target.direction)]
    if not 0 < found.value < math.inf:
        raise UserError(f"{suite.name} cannot be calibrated: the rule gives a {target.metric} of "
                        f"{found.value:g}, and a target must be above 0; raise budget.samples, or "
                        "choose another target.metric")
    return CalibrationOutcome(replace(target, value=found.value), found, winner, tuple(candidates))


def _missing(candidate: Candidate) -> str:
    if candidate.configuration is None:
        return f"no tuning trial ran to the end of the budget ({count_trials(candidate.tuned)})"
    return f"reruns: {count_trials(candidate.statuses)}"


def _remedy(candidates: Sequence[Candidate]) -> str:
    total = sum((each.tuned + each.statuses for each in candidates), Counter[str]())
    if total["out of time"]:
        return "raise budget.seconds, or lower budget.samples"
    if total["diverged"]:
        return "check data, model and task with `bench-apts test`"
    return "`bench-apts report` of the results folder says why"


def count_trials(statuses: Counter[str]) -> str:
    """Return statuses in words, for instance ``18 to the end, 2 diverged``."""
    return ", ".join(f"{number} {status}" for status, number in statuses.most_common()) or "none"


TRIALS, SEEDS = 20, 5
"""What the rule asks for; a target from less is provisional."""

OPTIMIZERS = ("sgd", "adam")
"""Those that the rule compares; the latter is AdamW."""


def provenance(outcome: CalibrationOutcome, study: Study, card: dict[str, Any], today: dt.date
               ) -> Provenance:
    """Return the provenance of a target.

    Args:
        outcome: The target, and what it is made of.
        study: The study that measured it.
        card: The environment card.
        today: The date.
    """
    target, found, winner = outcome.target, outcome.bound, outcome.winner
    up = target.direction == "min"

    def shown(value: float) -> str:
        return units.format_metric(target, target.metric, value).replace(units.THIN, " ")

    step = (f"{100 * found.step:g} %" if units.is_share(target, target.metric)
            else f"{found.step:g} {target.unit or ''}".strip())
    others = "".join(
        f"; {each.label}: " + (shown(each.bound.median) if each.bound
                               else "not all reruns ran to the end")
        for each in outcome.candidates if each is not winner)
    machine = ", ".join(dict.fromkeys(card["gpus"])) if study.device == "cuda" else "a CPU"
    note = (
        f"{_provisional(outcome, study)}median final validation {target.metric} of {winner.label} "
        f"over {study.seeds} seeds ({shown(found.median)}) {'plus' if up else 'less'} one "
        f"standard deviation ({shown(found.std)}), rounded {'up' if up else 'down'} to a "
        f"multiple of {step}{others}; each tuned by {study.trials} trials at "
        f"N = {study.ranks[0]}; base seed {study.base_seed}, bench-apts {__version__}, "
        f"torch {card['versions']['torch'].partition('+')[0]} on {machine}, {today:%B %Y}")
    return Provenance(winner.label, study.trials, study.seeds, note)


def _provisional(outcome: CalibrationOutcome, study: Study) -> str:
    """Return a clause that says how the rule was not followed; "" if it was."""
    less = []
    if study.trials < TRIALS:
        less.append(f"{units.plural(study.trials, 'trial')} instead of {TRIALS}")
    if study.seeds < SEEDS:
        less.append(f"{units.plural(study.seeds, 'seed')} instead of {SEEDS}")
    complete = {each.label for each in outcome.candidates if each.bound}
    missing = [name for name in OPTIMIZERS if name not in complete]
    if missing:
        less.append(f"without {units.listing(missing)}")
    return f"provisional, {', '.join(less)}: " if less else ""
