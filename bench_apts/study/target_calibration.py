"""Sets a suite's target by one rule, from the final values of its trials.

The target is the better optimizer's median less one standard deviation, rounded towards easier.
"""

from __future__ import annotations

import math
import os
import site
import statistics
import sysconfig
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomlkit
from msgspec.structs import replace

from bench_apts import __version__
from bench_apts.core import configuration, units
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_bytes
from bench_apts.core.spec import Provenance
from bench_apts.plugins import registry
from bench_apts.stats.trial_costs import final_metric as final
from bench_apts.stats.trial_costs import select_best

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from bench_apts.core.records import TrialRecord
    from bench_apts.core.spec import Scalar, Study, Suite, Target
    from bench_apts.study.plan import Plan, StudyCell

    Direction = Literal["max", "min"]

TRIALS, SEEDS = 20, 5
"""What the rule asks for; a target from less is provisional."""

OPTIMIZERS = ("sgd", "adam")
"""Those that the rule compares; the latter is AdamW."""

NEUTRAL = 1.0
"""Target value that trials of a calibration are run with, whatever the suite's file says."""

_MIN_STEP_SHARE = Decimal("0.001")
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
    size = max(_decimal(std), _decimal(abs(median)) * _MIN_STEP_SHARE)
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


def _decimal(value: float) -> Decimal:
    """Return the shortest decimal that a float is written as: 0.3, not 0.299999999999999988898."""
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return Decimal(repr(float(value)))


@dataclass(frozen=True)
class Candidate:
    """The results of one optimizer.

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
    """Return the results of each optimizer of a plan, which has one suite and one N."""
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
    """Apply the rule to the results of the optimizers.

    Raises:
        UserError: No optimizer has all its final values, or the rule gives no usable target.
    """
    target = suite.target
    whole = [(each, each.bound) for each in candidates if each.bound]
    if not whole:
        raise UserError(f"{suite.name} cannot be calibrated: "
                        + "; ".join(f"{each.label}: {_missing(each)}" for each in candidates)
                        + f"; {_remedy(candidates)}")
    sign = 1 if target.direction == "max" else -1
    winner, found = max(whole, key=lambda pair: sign * pair[1].median)  # of equals the first
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


def provenance(outcome: CalibrationOutcome, study: Study, card: dict[str, Any], today: dt.date
               ) -> Provenance:
    """Return the provenance of a target, which ``study`` measured under an environment card."""
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


def missing_target(name: str) -> tuple[str, ...]:
    """Return values, as ``--set`` takes them, of what a suite's file need not say yet."""
    target = configuration.read_toml(registry.suite_path(name), "suite").get("target")
    if not isinstance(target, dict):
        return ()
    floor = target.get("floor")
    value = floor if isinstance(floor, int | float) and floor > 0 else 1.0
    return (*([] if "value" in target else [f"suite.target.value={value}"]),
            *([] if "provenance" in target else [
                "suite.target.provenance={optimizer = 'none', trials = 0, seeds = 0}"]))


def require_writable_file(name: str) -> Path:
    """Return the file of a suite in which a new target can be written.

    Raises:
        UserError: It belongs to an installed package, or cannot be written.
    """
    path = registry.suite_path(name).resolve()
    installed = {*site.getsitepackages(), site.getusersitepackages(),
                 sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if ".toml" not in name and any(path.is_relative_to(Path(place).resolve())
                                   for place in installed):
        raise UserError(f"suite {name} is part of an installed package; copy {path}, and "
                        "calibrate the copy by its path")
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write {path}; make it writable, or leave out --write")
    return path


def target_fragment(target: Target, variant: str = "") -> str:
    """Return a target as it stands in a suite's file, or in the table of its variant."""
    table = {"metric": target.metric, "direction": target.direction, "value": target.value,
             "provenance": _table(target.provenance)}
    whole = {"target": table}
    return tomlkit.dumps({"variant": {variant: whole}} if variant else whole).strip()


def write_target(path: Path, target: Target, variant: str = "") -> None:
    """Write value and provenance of a target into a suite's file; a new value is a new version.

    Comments and everything else stay as they are. ``variant`` names the variant of the suite that
    the target belongs to; "" is the suite itself.

    Raises:
        UserError: The file cannot be read or written.
    """
    try:
        document: Any = tomlkit.parse(path.read_bytes().decode())
        place = document["variant"][variant] if variant else document
        if variant and "target" not in place:
            place["target"] = {}
        table = place["target"]
        if table.get("value", target.value) != target.value:
            table["version"] = table.get("version", 1) + 1
        table["value"] = target.value
        if "provenance" in table:
            for key, value in _table(target.provenance).items():
                table["provenance"][key] = value
        else:
            table["provenance"] = _table(target.provenance)
        write_bytes(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; copy the target from above into "
                        "it") from error
    except (ValueError, KeyError) as error:  # it was changed while trials ran
        raise UserError(f"{path} is not a valid suite file: {error}; copy the target from above "
                        "into it") from error


def _table(provenance: Provenance) -> dict[str, Any]:
    return {"optimizer": provenance.optimizer, "trials": provenance.trials,
            "seeds": provenance.seeds, "note": provenance.note}
