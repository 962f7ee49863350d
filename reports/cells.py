"""One optimizer on one suite at one N, and the numbers that the report shows of it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.records import train_bytes
from bench_apts.plugins import registry
from bench_apts.stats import modelled_training, shared_search, trial_origins
from bench_apts.stats.expected_cost import ert
from bench_apts.stats.intervals import ert_interval
from bench_apts.stats.rankings import stability
from bench_apts.stats.timing_noise import noise
from bench_apts.stats.trial_costs import all_known, hit_bracket, outcome, outcomes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench_apts.core.currencies import Currency
    from bench_apts.core.records import Communication, TrialRecord
    from bench_apts.core.spec import Suite
    from bench_apts.plugins.backend import Backend
    from bench_apts.stats.expected_cost import Ert
    from bench_apts.stats.intervals import Interval
    from bench_apts.stats.rankings import Stability
    from bench_apts.stats.timing_noise import Noise
    from bench_apts.stats.trial_costs import TargetOutcome


class MedianCost(NamedTuple):
    """A cost to the target over seeds.

    Attributes:
        median: Infinite where half of the seeds or more missed; NaN, like the others, where the
            cost of a seed is not known.
        after: Median cost at the last evaluation before the hit: the bracket's open end.
        low: Smallest over seeds.
        high: Largest over seeds, infinite with a miss.
        hits: Seeds that reached the target.
        seeds: All seeds.
    """

    median: float
    after: float
    low: float
    high: float
    hits: int
    seeds: int


@dataclass(frozen=True, eq=False)
class ReportCell:
    """One optimizer on one suite at one N.

    Attributes:
        suite: The training problem.
        label: The optimizer as the user wrote it.
        optimizer: The backend's name.
        ranks: World size N.
        tuning_free: The optimizer claims that its defaults serve everywhere.
        tune: Tuning trials, by repetition.
        frozen: The tuning trial that was fastest to the target, if tuning ran. Costs are those
            of its configuration.
        seeds: Report-stage trials of that (or the only) configuration, by repetition.
        twins: The same once more, if it was repeated to learn how far times scatter.
        search_owner: Label of the optimizer whose search served this one too, whose trials are
            in ``tune``; "" for a search of its own. With another owner it is not ranked by cost.
        checks: Its own tuning trials, which showed that it takes the same course as the owner.
        best: The tuning trial that was best at the end of the budget, if tuning ran. Accuracies
            are those of its configuration.
        best_seeds: Report-stage trials of that, if it is another configuration than ``frozen``
            and was rerun.
        varies: Its configuration is not the same at all N and on all suites of the study.
    """

    suite: Suite
    label: str
    optimizer: str
    ranks: int
    tuning_free: bool
    tune: tuple[TrialRecord, ...]
    frozen: TrialRecord | None
    seeds: tuple[TrialRecord, ...]
    twins: tuple[TrialRecord, ...] = ()
    search_owner: str = ""
    checks: tuple[TrialRecord, ...] = ()
    best: TrialRecord | None = None
    best_seeds: tuple[TrialRecord, ...] = ()
    varies: bool = False

    @cached_property
    def backend(self) -> Backend | None:
        """What its optimizer declares; None where no installed package offers it any more."""
        return next((registry.installed_backend(record.trial.plugin) for record in self.own), None)

    @property
    def family(self) -> str:
        """The method that its optimizer stands for, for instance ``APTS``; "" for none."""
        return self.backend.family if self.backend else ""

    @property
    def configuration(self) -> str:
        """Hash of the optimizer's configuration in its final trainings; "" without any."""
        return next((r.trial.configuration for r in self.seeds), "")

    @property
    def batch(self) -> int | None:
        """Samples of a global minibatch in its final trainings, else in its draws."""
        return next((r.trial.batch_size for r in (*self.seeds, *self.draws)
                     if r.measures("samples")), None)

    @property
    def badge(self) -> str:
        """What the tables say of its tuning: none is claimed by one configuration alone."""
        if self.tuning_free:
            return "" if self.varies else "no tuning"
        return f"tuned as {self.search_owner}" if self.search_owner else ""

    @property
    def pairs(self) -> list[tuple[TrialRecord, TrialRecord]]:
        """A/A pairs: a finished seed and its finished twin, of one environment."""
        twins = {r.trial.repetition: r for r in self.twins if r.finished}
        found = [(r, twins[r.trial.repetition]) for r in self.seeds
                 if r.finished and r.trial.repetition in twins]
        return [pair for pair in found if not trial_origins.unlike(pair)]

    @property
    def draws(self) -> tuple[TrialRecord, ...]:
        """The trials that the expected cost is made of: tuning trials, else the seeds.

        Of an optimizer that follows another these are the trials of that search.
        """
        return self.tune or self.seeds

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials that its numbers rest on: of ``draws`` and of ``seeds``."""
        return (*self.draws, *self.seeds)

    @property
    def own(self) -> tuple[TrialRecord, ...]:
        """All trials that the optimizer ran itself, its twins apart."""
        return (*(self.checks if self.search_owner else self.tune), *self.seeds)

    @cached_property
    def _recorded(self) -> list[dict[float, TargetOutcome]]:
        return [outcomes(record) for record in self.draws]

    @property
    def recorded(self) -> list[TargetOutcome]:
        """What ``draws`` cost to the full target, as each was recorded."""
        return [each[1.0] for each in self._recorded]

    @cached_property
    def _outcomes(self) -> dict[float, list[TargetOutcome]]:
        found = self._recorded
        if self.search_owner:
            price = shared_search.sample_price(self.own)
            found = [{level: shared_search.reprice_for_follower(one, price)
                      for level, one in each.items()} for each in found]
        elif self.tune and self.seeds:
            price = shared_search.sample_price(self.seeds)
            found = [{level: shared_search.retime_tuning_outcome(one, price)
                      for level, one in each.items()} for each in found]
        return {level: [one[level] for one in found] for level in self.suite.target.every_level}

    def outcomes(self, level: float = 1.0) -> list[TargetOutcome]:
        """Return the outcomes of ``draws`` at one of the target's levels.

        Times of tuning trials are their samples at the pace of the final trainings, if there are
        any: optimizers without tuning were timed then, too.
        Trials of another owner are priced at what a sample costs this optimizer itself.
        """
        return self._outcomes[level]

    def ert(self, currency: Currency, level: float = 1.0) -> Ert:
        """Return the expected cost to the target including tuning."""
        key = currency, level
        if key not in self._erts:
            self._erts[key] = ert(*self._bills(currency, level))
        return self._erts[key]

    def interval(self, currency: Currency, level: float = 1.0) -> Interval | None:
        """Return the bootstrap interval of ``ert``; None for fewer than two trials."""
        key = currency, level
        if key not in self._intervals:
            self._intervals[key] = ert_interval(*self._bills(currency, level))
        return self._intervals[key]

    def _bills(self, currency: Currency, level: float) -> tuple[list[float], list[float]]:
        drawn = self.outcomes(level)
        return [o.spent[currency] for o in drawn], [o.cost[currency] for o in drawn]

    @cached_property
    def _erts(self) -> dict[tuple[Currency, float], Ert]:
        return {}

    @cached_property
    def _intervals(self) -> dict[tuple[Currency, float], Interval | None]:
        return {}

    @cached_property
    def finals(self) -> list[TargetOutcome]:
        """Outcomes of the report-stage seeds at the full target."""
        return [outcome(record) for record in self.seeds] if self.tune else self.outcomes()

    def to_target(self, currency: Currency) -> MedianCost:
        """Return the cost of one training with the frozen configuration to the full target."""
        finals = self.finals
        costs = [o.cost[currency] for o in finals]
        hits = sum(map(math.isfinite, costs))
        if any(map(math.isnan, costs)):
            return MedianCost(math.nan, math.nan, math.nan, math.nan, hits, len(costs))
        before = [o.last_miss[currency] if o.last_miss else math.inf for o in finals]
        known = costs or [math.inf]
        return MedianCost(statistics.median(known), statistics.median(before or [math.inf]),
                          min(known), max(known), hits, len(costs))

    @property
    def forwards_to_target(self) -> float:
        """Median forward passes of the busiest rank to the full target; infinite for a miss.

        NaN where a trial did not count them.
        """
        if not all(record.measures("forwards") for record in self.seeds):
            return math.nan
        found = [(record, hit_bracket(record)) for record in self.seeds]
        return statistics.median([float(record.evals[bracket[1]].forwards) if bracket else math.inf
                                  for record, bracket in found] or [math.inf])

    @property
    def bytes_per_step(self) -> float | None:
        """Ideal wire bytes sent per rank and training step, median over seeds; None if unknown."""
        found = [train_bytes(r.evals[-1].comm) / r.evals[-1].step
                 for r in self.seeds if r.evals and r.evals[-1].step]
        return (None if not found or any(r.uncounted for r in self.seeds)
                else statistics.median(found))

    @property
    def peak_memory(self) -> int | None:
        """Largest peak memory of any rank and any seed, in bytes."""
        return max(map(peak_memory, self.seeds), default=0) or None

    @property
    def baseline_memory(self) -> int | None:
        """What was in use before the optimizer was built, in bytes; None if it is not known."""
        found = [r.start.baseline_memory_bytes or 0 for r in self.seeds if r.start]
        return max(found, default=0) or None

    @property
    def memory(self) -> int | None:
        """Largest memory of a rank over the seeds, see ``memory``; None if it is not known."""
        found = [memory(record) for record in self.seeds]
        return max(found) if found and all(found) else None

    @property
    def two_configurations(self) -> bool:
        """Whether the fastest configuration and the best are different ones."""
        return (self.frozen is not None and self.best is not None
                and self.frozen.trial.hyperparameters != self.best.trial.hyperparameters)

    @property
    def accuracy_seeds(self) -> tuple[TrialRecord, ...]:
        """The final trainings whose accuracies count: of the configuration that ends best.

        Studies of before there were two did not rerun it; then those of the fastest.
        """
        return self.best_seeds if self.two_configurations and self.best_seeds else self.seeds

    @property
    def test_metric(self) -> str:
        """Name of the test metric shown: the target's, or accuracy where that is the loss."""
        names = {name for r in self.accuracy_seeds if r.end and r.end.test for name in r.end.test}
        metric = self.suite.target.metric
        return "accuracy" if metric == "loss" and "accuracy" in names else metric

    @property
    def test(self) -> list[float]:
        """Test metric after the full budget, one for each seed that got there."""
        metric = self.test_metric
        return [r.end.test[metric] for r in self.accuracy_seeds
                if r.end and r.end.test and metric in r.end.test]

    @property
    def tuning_bill(self) -> dict[Currency, float]:
        """Cost spent by all tuning trials, each up to its hit; empty without tuning."""
        if not self.tune:
            return {}
        drawn = self.outcomes()
        return {currency: math.fsum(o.spent[currency] for o in drawn)
                for currency in drawn[0].spent}

    @property
    def communication(self) -> tuple[TrialRecord, Communication] | None:
        """The traffic of the first seed (else draw) that recorded any, and whose it is."""
        for record in (*self.seeds, *self.own):
            comm = record.end.comm if record.end and record.end.comm else (
                record.evals[-1].comm if record.evals else {})
            if comm:
                return record, comm
        return None


@dataclass(frozen=True)
class CellGroup:
    """All optimizers on one suite at one N, in the study's order."""

    suite: Suite
    ranks: int
    cells: tuple[ReportCell, ...]

    @property
    def records(self) -> list[TrialRecord]:
        """The trials of all cells."""
        return [record for cell in self.cells for record in cell.records]

    @property
    def validation_samples(self) -> int:
        """Samples of the validation split, at least 1."""
        return self.suite.data.validation or max(
            [1, *(r.start.validation_samples for r in self.records if r.start)])

    @cached_property
    def unlike(self) -> str:
        """In what the environments of its trials differ, so that times do not compare, or ""."""
        return trial_origins.unlike(self.records)

    @cached_property
    def crowded(self) -> bool:
        """Whether its ranks on CPUs shared fewer cores, so that times measure the machine."""
        records = self.records
        have = cores(r.header.environment for r in records)
        return (have is not None and self.ranks > have
                and any(r.trial.device == "cpu" for r in records))

    @cached_property
    def noise(self) -> Noise | None:
        """How far the times of its A/A pairs are apart, whole or to the target.

        Of a pair the more distant ones count: a short time to the target scatters more.
        """
        found = [[times for times in ((pace(first), pace(twin)), (reached(first), reached(twin)))
                  if min(times) > 0] for cell in self.cells for first, twin in cell.pairs]
        return noise([max(times, key=lambda pair: abs(math.log(pair[1] / pair[0])))
                      for times in found if times])

    @cached_property
    def memory_noise(self) -> Noise | None:
        """How far the memory of its A/A pairs is apart; a trial that did not measure it has none.

        See ``memory``.
        """
        peaks = [(float(memory(first)), float(memory(twin)))
                 for cell in self.cells for first, twin in cell.pairs]
        return noise([pair for pair in peaks if all(pair)])

    def level_stability(self, currency: Currency) -> Stability | None:
        """Compare the orders of expected costs that the levels of the target give.

        Of the optimizers with a search of their own and known costs at each level; None without
        any.
        """
        levels = self.suite.target.every_level
        cells = [cell for cell in self.cells if cell.draws and not cell.search_owner and all(
            all_known(cell.outcomes(level), currency) for level in levels)]
        return stability({level: {cell.label: cell.ert(currency, level).cost for cell in cells}
                          for level in levels}) if cells else None


def cores(cards: Iterable[Mapping[str, Any]]) -> float | None:
    """Return how many cores the smallest machine has; None if no environment card says so.

    As far as quotas and binding let ranks use them.
    """
    found = [card.get("effective_cores", card.get("cores")) for card in cards]
    return min((have for have in found if isinstance(have, int | float) and have > 0),
               default=None)


def peak_memory(record: TrialRecord) -> int:
    """Return the largest peak memory of any rank of a trial in bytes; 0 if it measured none."""
    return max([e.peak_memory_bytes for e in record.evals]
               + ([record.end.peak_memory_bytes] if record.end else []), default=0)


def memory(record: TrialRecord) -> int:
    """Return the memory that compares methods, in bytes; 0 if it was not measured.

    On CUDA the peak of a device. On CPUs the tensors of model and optimizer: the rest of a
    process, Python and its libraries, is the same for all and much larger.
    """
    if record.trial.device == "cuda":
        return peak_memory(record)
    return max((event.tensor_bytes or 0 for event in record.evals), default=0)


def computing(cells: Iterable[ReportCell]) -> float | None:
    """Return the seconds in which one rank alone computes a sample; None without N = 1.

    Args:
        cells: One optimizer on one suite, at any N.
    """
    alone = [cell for cell in cells if cell.ranks == 1]
    return modelled_training.computing([r for cell in alone for r in cell.seeds]) or (
        modelled_training.computing([r for cell in alone for r in cell.draws]))


def pace(record: TrialRecord) -> float:
    """Return the training seconds of a sample over the whole trial; 0 if it took no step."""
    last = record.evals[-1] if record.evals else None
    return last.train_s / last.samples if last and last.samples else 0.0


def reached(record: TrialRecord) -> float:
    """Return the training seconds to the target; 0 if the trial missed it."""
    hit = hit_bracket(record)
    return record.evals[hit[1]].train_s if hit else 0.0
