"""What two cells are compared by: costs and rates with intervals, counts exactly."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.core import units
from bench_apts.core.currencies import CURRENCIES, format_cost, headline
from bench_apts.core.records import train_bytes
from bench_apts.reports.cells import memory
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.pairwise_comparison import Bill, compare, difference, success_p
from bench_apts.stats.trial_costs import outcome
from bench_apts.stats.verdict import Evidence, least_p

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.core.currencies import Currency
    from bench_apts.core.records import Eval, TrialRecord
    from bench_apts.reports.cells import ReportCell
    from bench_apts.stats.intervals import Interval
    from bench_apts.stats.timing_noise import Noise

Kind = Literal["ratio", "difference", "share", "exact"]


class Measure(NamedTuple):
    """One comparison of B with A.

    Attributes:
        name: What is compared.
        kind: ``ratio``: costs, B over A; ``difference``: a metric, B less A; ``share``: of trials
            that hit, B less A; ``exact``: counts that must not grow, B over A.
        values: That of A and of B, infinite where nothing hit.
        texts: The same, formatted.
        effect: B over A or B less A, see ``kind``; NaN where neither hit.
        interval: Its 95 % interval, where there is one.
        p: Uncorrected p-value of no difference; 1 for counts.
        least: Smallest p-value that these trials could give; None where nothing is to be tested.
        basis: How many trials it rests on, and whether they are pairs.
        verb: What B does, for a sentence: ``sends {} the bytes per step``.
        more_is_better: As for an accuracy.
        noise: Ratio by which means of as many equal trials differ on this machine; infinite where
            the numbers were not measured on one machine.
        points: Whether values are shares of one, whose differences are shown in points.
    """

    name: str
    kind: Kind
    values: tuple[float, float]
    texts: tuple[str, str]
    effect: float
    interval: Interval | None
    p: float
    least: float | None
    basis: str
    verb: str
    more_is_better: bool = False
    noise: float = 1.0
    points: bool = False

    @property
    def evidence(self) -> Evidence | None:
        """What is to be tested; None for counts, and where nothing can differ."""
        if self.least is None or math.isnan(self.effect) or math.isinf(self.noise):
            return None
        return Evidence(self.effect, self.interval, self.p, self.least, self.noise,
                        1.0 if self.kind == "ratio" else 0.0)


@dataclass(frozen=True)
class MeasureNoise:
    """What A/A pairs of either study say of training times and of peak memory.

    Attributes:
        time: None without a pair.
        memory: The same.
        unlike: Whether the two were measured in different environments, so that times and memory
            say nothing.
    """

    time: Noise | None = None
    memory: Noise | None = None
    unlike: bool = False

    def of_mean(self, noise: Noise | None, trials: ComparedTrials) -> float:
        """Return the ratio that means of as many equal trials differ by; 1 where unknown."""
        if self.unlike:
            return math.inf
        fewest = min(len(trials.first), len(trials.second))
        return noise.of_mean(fewest) if noise and fewest else 1.0


class ComparedTrials(NamedTuple):
    """The trials of A and of B; the k-th of both are a pair if ``paired``."""

    first: list[TrialRecord]
    second: list[TrialRecord]
    paired: bool

    @property
    def basis(self) -> str:
        """How many there are, in words."""
        one, two = len(self.first), len(self.second)
        return units.plural(one, "pair") if self.paired else f"{one} and {two} unpaired"

    @property
    def least(self) -> float:
        """Smallest p-value that they could give."""
        return least_p(len(self.first), len(self.second), paired=self.paired)


def completed_trials(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that came to an end of their own, be it a failure."""
    return [r for r in records if r.end and r.end.status != "interrupted"]


def pair_trials(first: Sequence[TrialRecord], second: Sequence[TrialRecord]) -> ComparedTrials:
    """Pair trials of equal stage, repetition and seeds.

    Pairs are used if there are two or more, or no trial is left over; trials without a partner
    then do not count. Otherwise all trials count, unpaired.
    """
    partners = {_key(r): r for r in completed_trials(second)}
    ours = [r for r in completed_trials(first) if _key(r) in partners]
    if ours and len(ours) >= min(2, max(len(completed_trials(first)), len(partners))):
        return ComparedTrials(ours, [partners[_key(r)] for r in ours], True)
    return ComparedTrials(completed_trials(first), completed_trials(second), False)


def _key(record: TrialRecord) -> tuple[object, ...]:
    trial = record.trial
    return trial.stage, trial.repetition, trial.seeds.data, trial.seeds.init


def measures(one: ReportCell, two: ReportCell, noise: MeasureNoise,
             device: str) -> tuple[list[Measure], list[str]]:
    """Compare all that two cells have.

    Args:
        one: A.
        two: B, on the same suite and as many ranks.
        noise: How far equal trials are apart.
        device: ``cpu`` or ``cuda``.

    Returns:
        The measures, and notes on what could not be compared.
    """
    found: list[Measure | None] = []
    notes: list[str] = []
    draws, seeds = pair_trials(one.draws, two.draws), pair_trials(one.seeds, two.seeds)
    if owner := one.search_owner or two.search_owner:
        notes.append(f"its search was that of {owner}, whose trials tell what searching costs")
    elif draws.first and draws.second:
        found.append(_cost("expected cost, with tuning", headline(device), draws, noise,
                           "costs {} as much with tuning", device))
    rated = seeds if seeds.first and seeds.second else draws
    if rated.first and rated.second:
        found.append(_success(rated))
    if not (seeds.first and seeds.second):
        notes.append("there are no final trainings to compare on both sides")
        return [measure for measure in found if measure], notes
    both = (*seeds.first, *seeds.second)
    for currency, row in reversed(CURRENCIES.items()):  # the machine's costs first
        if row.compared and all(map(row.measured, both)):
            name, verb = row.compared
            found.append(_cost(f"{name} to target", currency, seeds, noise, f"{verb} to target",
                               device))
    found += [_memory(seeds, noise), _test(one, two)]
    blind = any(r.uncounted for r in both)
    counts, why = _counts(seeds, blind)
    found += counts
    notes += [why] if why else []
    if blind:
        notes.append("its bytes were not counted, and are not compared")
    return [measure for measure in found if measure], notes


def _cost(name: str, currency: Currency, trials: ComparedTrials, noise: MeasureNoise, verb: str,
          device: str) -> Measure | None:
    """Compare expected costs; None where nothing was spent, like bytes of a single rank."""
    drawn = [[outcome(r) for r in records] for records in (trials.first, trials.second)]
    bills = [Bill([o.spent[currency] for o in side], [o.cost[currency] for o in side])
             for side in drawn]
    if not any(any(bill.spent) for bill in bills):
        return None
    row = CURRENCIES[currency]
    form = row.form if currency == "samples" else partial(format_cost, currency, device=device)
    return _ratio(name, trials, bills, form, verb,
                  noise.of_mean(noise.time, trials) if row.is_time else 1.0)


def _memory(trials: ComparedTrials, noise: MeasureNoise) -> Measure | None:
    """Compare mean memory; None where a trial did not measure it."""
    sides = [[float(memory(r)) for r in records] for records in (trials.first, trials.second)]
    if not all(map(all, sides)):
        return None
    return _ratio("peak memory", trials, [Bill(peaks, peaks) for peaks in sides],
                  units.format_size, "uses {} the peak memory",
                  noise.of_mean(noise.memory, trials))


def _ratio(name: str, trials: ComparedTrials, bills: Sequence[Bill], form: Callable[[float], str],
           verb: str, noise: float) -> Measure:
    """Compare the expected costs of A and of B."""
    costs = [ert(bill.spent, bill.cost) for bill in bills]
    first, second = (form(c.cost) if c.hits else f"more than {form(c.bound)}" for c in costs)
    found = compare(bills[1], bills[0], paired=trials.paired)
    idle = (trials.paired and bills[0] == bills[1]) or not any(c.hits for c in costs)
    return Measure(name, "ratio", (costs[0].cost, costs[1].cost), (first, second), found.ratio,
                   found.interval, found.p, None if idle else trials.least, trials.basis, verb,
                   noise=noise)


def _success(trials: ComparedTrials) -> Measure:
    """Compare shares of trials that hit, by Fisher's exact test."""
    hits = [[outcome(r).hit for r in records] for records in (trials.first, trials.second)]
    rates = [statistics.fmean(side) for side in hits]
    # With all hits or none the test can say nothing, whichever trial is whose.
    idle = len({*hits[0], *hits[1]}) == 1
    return Measure(
        "trials that hit", "share", (rates[0], rates[1]),
        (f"{sum(hits[0])} of {len(hits[0])}", f"{sum(hits[1])} of {len(hits[1])}"),
        rates[1] - rates[0], None,
        success_p((sum(hits[0]), len(hits[0])), (sum(hits[1]), len(hits[1]))),
        None if idle else least_p(len(hits[0]), len(hits[1]), paired=False),
        f"{len(hits[0])} and {len(hits[1])}", "reaches the target in {}", True)


def _test(one: ReportCell, two: ReportCell) -> Measure | None:
    """Compare the test metric after the full budget, of those that got there."""
    metric, target = one.test_metric, one.suite.target
    trials = pair_trials(one.accuracy_seeds, two.accuracy_seeds)
    kept = [[r for r in records if r.end and r.end.test and metric in r.end.test]
            for records in (trials.first, trials.second)]
    if metric != two.test_metric or not kept[0] or not kept[1]:
        return None
    tested = pair_trials(*kept)
    first, second = [[r.end.test[metric] for r in side if r.end and r.end.test]
                     for side in (tested.first, tested.second)]
    change = difference(second, first, paired=tested.paired)
    means = statistics.fmean(first), statistics.fmean(second)
    return Measure(
        f"test {units.metric_title(metric)}", "difference", means,
        (units.format_metric(target, metric, means[0]),
         units.format_metric(target, metric, means[1])),
        change.value, change.interval, change.p,
        None if tested.paired and first == second else tested.least, tested.basis,
        f"ends at a test {units.metric_title(metric)} of {{}}",
        target.direction == "max" if metric == target.metric else metric == "accuracy",
        points=units.is_share(target, metric))


def _counts(trials: ComparedTrials, blind: bool) -> tuple[list[Measure], str]:
    """Compare counts per step, up to the last evaluation at equal steps and samples.

    Pairs are met at the last one that both have; without pairs all trials at the last that all
    have, where the seed must not matter.

    Returns:
        The measures, and why there are none, or "".
    """
    sides: list[list[Eval]] = [[], []]
    for group in (zip(trials.first, trials.second, strict=True) if trials.paired
                  else [(*trials.first, *trials.second)]):
        shared = set.intersection(*(set(_points(r)) for r in group))
        if shared:
            met = [_points(r)[max(shared)] for r in group]
            half = 1 if trials.paired else len(trials.first)
            sides[0] += met[:half]
            sides[1] += met[half:]
    if not sides[0]:
        return [], ("no evaluation is at equal steps and samples, so that counts per step are "
                    "not compared")
    found = []
    steps = sum(event.step for event in sides[0])
    for name, verb, count in _PER_STEP:
        if blind and name.startswith(("wire", "collectives")):
            continue
        if not trials.paired and any(len({count(e) for e in side}) > 1 for side in sides):
            return [], "counts per step depend on the seed, and there are no pairs to compare"
        one, two = (sum(map(count, side)) / sum(e.step for e in side) for side in sides)
        if not one and not two:
            continue
        form = units.format_size if name.startswith("wire") else units.digits
        found.append(Measure(
            name, "exact", (one, two), (units.trim(form(one)), units.trim(form(two))),
            two / one if one else math.inf, None, 1.0, None, f"exact, {steps:,} steps", verb))
    return found, ""


def _points(record: TrialRecord) -> dict[tuple[int, int], Eval]:
    """Return the evaluations after step 0 by step and samples."""
    return {(event.step, event.samples): event for event in record.evals if event.step}


def _calls(event: Eval) -> float:
    return float(sum(traffic.calls for traffic in event.comm.get("train", {}).values()))


_PER_STEP: tuple[tuple[str, str, Callable[[Eval], float]], ...] = (
    ("wire bytes per step", "sends {} the bytes per step", lambda e: train_bytes(e.comm)),
    ("collectives per step", "issues {} the collectives per step", _calls),
    ("forward passes per step", "makes {} the forward passes per step",
     lambda e: float(e.forwards)),
    ("backward passes per step", "makes {} the backward passes per step",
     lambda e: float(e.backwards)),
)
