"""Modelled time of a training at world sizes and on networks that were not measured.

``T = max_rank compute + Σ_collectives (hops · α + bytes sent / β)`` (docs/measurement.md, 2).
Nothing overlaps, so that T is neither a bound nor a measurement.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench_apts.stats.network_model import Algorithm, collective_seconds
from bench_apts.stats.trial_costs import hit_bracket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from bench_apts.core.records import DistinctCall, Traffic, TrialRecord
    from bench_apts.stats.network_model import Interconnect


class BatchScaling(StrEnum):
    """What stays as ranks are added: the global minibatch, or each rank's share of it."""

    strong = "strong"
    weak = "weak"


@dataclass(frozen=True)
class RecordedWork:
    """What a recorded training did up to its hit, or to its end if it missed.

    Attributes:
        ranks: World size it ran with.
        steps: Optimizer iterations.
        batch_size: Samples of a global minibatch.
        compute_s: Seconds of the busiest rank.
        basis: Which record ``compute_s`` is.
        traffic: What the training phase moved, by collective.
        hit: Whether the target was reached.
        listed: The distinct calls of the whole trial, where the record lists them.
    """

    ranks: int
    steps: int
    batch_size: int
    compute_s: float
    basis: str
    traffic: Mapping[str, Traffic]
    hit: bool
    listed: Sequence[DistinctCall] = ()

    def messages(self) -> Iterator[tuple[str, float, float]]:
        """Yield collective, payload bytes and number of calls.

        Calls are of the average size where the record does not list them.
        """
        for name, sums in self.traffic.items():
            kinds = [call for call in self.listed
                     if (call.phase, call.collective) == ("train", name)]
            listed = sum(call.calls for call in kinds)
            for call in kinds:
                size = call.payload_bytes / (call.calls if call.folded else 1)
                yield name, size, sums.calls * call.calls / listed
            if sums.calls and not kinds:
                yield name, sums.payload_bytes / sums.calls, sums.calls


def computing(records: Sequence[TrialRecord]) -> float | None:
    """Return the seconds in which one rank alone computes a sample; None without such a trial.

    On CPUs these are CPU seconds, since the wall clock measures what else runs there. Trials of
    several ranks are left out: their seconds hold communication, gloo's CPU time included.

    Args:
        records: Trials of one optimizer on one suite, at any N.

    Returns:
        The median over trials at N = 1 that took a step.
    """
    found = [(last.cpu_s if record.trial.device == "cpu" else last.train_s) / last.samples
             for record in records if record.trial.ranks == 1
             for last in record.evals[-1:] if last.samples and record.measures("samples")]
    return statistics.median(found) if found else None


def recorded_work(record: TrialRecord, alone: float) -> RecordedWork | None:
    """Read the work off a record; None if it holds no step.

    Computing time is that of the same samples on a single rank, which has no communication.

    Args:
        record: A trial.
        alone: Seconds in which one rank alone computes a sample, see ``computing``.
    """
    found = hit_bracket(record)
    event = record.evals[found[1] if found else -1] if record.evals else None
    if event is None or not event.step:
        return None
    trial = record.trial
    compute = alone * event.samples / trial.ranks
    basis = f"{'cpu_s' if trial.device == 'cpu' else 'train_s'} at N = 1"
    return RecordedWork(trial.ranks, event.step, trial.batch_size, compute, basis,
                event.comm.get("train", {}), found is not None,
                (record.end and record.end.calls) or ())


class Projection(NamedTuple):
    """Modelled numbers of one training: seconds of a step, steps and seconds to the target.

    ``batch_size`` is the global minibatch, in samples.
    """

    compute_s: float
    communication_s: float
    steps: int
    to_target_s: float
    batch_size: int = 0

    @property
    def step_s(self) -> float:
        """Seconds of one step."""
        return self.compute_s + self.communication_s


def project(done: RecordedWork, ranks: int, scaling: BatchScaling, network: Interconnect,
            algorithm: Algorithm = Algorithm.best,
            batch_size: int | None = None) -> Projection | None:
    """Move recorded work to another world; None where its minibatch cannot be shared out.

    Samples to the target stay as measured, which need not hold at another N. ``strong``:
    the global minibatch stays, each rank computes on less of it. ``weak``: each rank's share
    stays, and the larger minibatches make fewer steps.

    Args:
        done: What was recorded.
        ranks: World size.
        scaling: Which of the two.
        network: What connects the ranks.
        algorithm: Of the collectives.
        batch_size: Samples of the global minibatch there, if the optimizer chooses its own.
    """
    growth = ranks / done.ranks
    usual = done.batch_size * (growth if scaling is BatchScaling.weak else 1)
    batch = usual if batch_size is None else batch_size
    if ranks > batch:
        return None
    compute = done.compute_s / done.steps * batch / done.batch_size / growth
    steps = math.ceil(done.steps * done.batch_size / batch)
    communication = sum(number * collective_seconds(name, payload, ranks, network, algorithm)
                        for name, payload, number in done.messages()) / done.steps
    total = steps * (compute + communication) if done.hit else math.inf
    return Projection(compute, communication, steps, total, round(batch))


MOST_GROWTH, MOST_SHARE = 4, 0.1
"""How far a minibatch that was never run may be from one that was, as a multiple, and the share of
the training set that it may be."""

KnownEfficiency = Literal["measured", "assumed", "unknown"]


def statistical_efficiency(batch: float, run: Collection[int], samples: int) -> KnownEfficiency:
    """Say what is known of how many samples a minibatch needs to the target.

    Args:
        batch: Samples of the global minibatch.
        run: Minibatches that were run.
        samples: Of the training set.

    Returns:
        ``measured`` for a minibatch that was run; ``assumed`` where one so near was that it may
        be modelled as if no more samples were needed; else ``unknown``.
    """
    if batch in run:
        return "measured"
    near = run and batch <= MOST_GROWTH * max(run) and batch <= MOST_SHARE * samples
    return "assumed" if near else "unknown"
