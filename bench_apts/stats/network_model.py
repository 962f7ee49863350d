"""Modelled time at world sizes and on networks that were not measured: the α-β model.

``T = max_rank compute + Σ_collectives (hops · α + bytes sent / β)`` (docs/measurement.md, 2), as
in Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH"
(2005). Nothing overlaps and no link is shared, so that T is neither a bound nor a measurement.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple

from msgspec import Meta, Struct

from bench_apts.core.wire import MAX_SEGMENT
from bench_apts.stats.trial_costs import hit_bracket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench_apts.core.records import DistinctCall, Traffic, TrialRecord

class Algorithm(StrEnum):
    """How collectives are carried out.

    ``best`` is the fastest of ring, tree and hierarchical for each; ``gloo`` is what CPU ranks do.
    """

    best = "best"
    ring = "ring"
    tree = "tree"
    hierarchical = "hierarchical"
    gloo = "gloo"


class BatchScaling(StrEnum):
    """What stays as ranks are added: the global minibatch, or each rank's share of it."""

    strong = "strong"
    weak = "weak"


_SHARDED = ("all_gather", "reduce_scatter")
_PARTS = (*_SHARDED, "gather", "scatter")
_WHOLE = ("broadcast", "reduce")
_SHAPES = (Algorithm.ring, Algorithm.tree)

_SCALAR = 8
"""Bytes of the largest single element, which gloo cannot cut into segments."""

COLLECTIVES = frozenset(
    {"all_reduce", *_PARTS, *_WHOLE, "all_to_all", "send", "recv", "barrier"})
"""What the model knows, under the names of the records."""


class Fabric(Struct, frozen=True, forbid_unknown_fields=True):
    """A network: bytes a second that one rank sends, seconds of one hop, and who says so."""

    bytes_per_s: Annotated[float, Meta(gt=0)]
    latency_s: Annotated[float, Meta(ge=0)]
    source: str


class Interconnect(NamedTuple):
    """What connects the ranks.

    Attributes:
        outer: Between nodes.
        inner: Within a node, where nodes have several ranks.
        node_ranks: Ranks of a node; 1 where all talk through ``outer``.
    """

    outer: Fabric
    inner: Fabric | None = None
    node_ranks: int = 1


def collective_seconds(
    collective: str,
    payload: float,
    ranks: int,
    network: Interconnect,
    algorithm: Algorithm = Algorithm.best,
) -> float:
    """Return the modelled seconds of one collective among all ranks.

    Args:
        collective: As named in the records.
        payload: Bytes of the logical tensor, the full one for all-gather and reduce-scatter.
        ranks: World size.
        network: What connects them.
        algorithm: ``best`` takes the fastest that applies; infinite where the one does not.
            ``gloo`` knows no nodes and crosses the outer network.

    Raises:
        KeyError: The model does not know the collective.
    """
    if algorithm is Algorithm.best:
        return min(collective_seconds(collective, payload, ranks, network, one)
                   for one in (*_SHAPES, Algorithm.hierarchical))
    if algorithm is Algorithm.hierarchical:
        return _hierarchical(collective, payload, ranks, network)
    if algorithm is Algorithm.gloo:
        return _gloo(collective, payload, ranks, network.outer)
    return _flat(collective, payload, ranks, network.outer, algorithm)


def _flat(
    collective: str, payload: float, ranks: int, fabric: Fabric, shape: Algorithm
) -> float:
    """One level of links, all alike.

    Rings take N − 1 rounds, trees ⌈log2 N⌉: recursive doubling where every rank ends with a part,
    and two pipelined binary trees for the all-reduce, in which a rank sends twice the payload
    (Sanders, Speck, Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and
    scan", 2009; NCCL's tree).
    """
    if ranks == 1:
        return 0.0
    share = (ranks - 1) / ranks
    log = (ranks - 1).bit_length()
    ring = shape is Algorithm.ring
    rounds = ranks - 1 if ring else log
    if collective == "all_reduce":
        hops, sent = 2 * rounds, 2 * share if ring else 2.0
    elif collective in _PARTS:
        hops, sent = rounds, share
    elif collective in _WHOLE:
        hops, sent = rounds, 1.0
    else:
        hops, sent = {"all_to_all": (ranks - 1, share), "send": (1, 1.0), "barrier": (log, 0.0),
                      "recv": (0, 0.0)}[collective]  # receiving is billed to who sends
    return hops * fabric.latency_s + sent * payload / fabric.bytes_per_s


def _gloo(collective: str, payload: float, ranks: int, fabric: Fabric) -> float:
    """What gloo does over TCP (github.com/pytorch/gloo, gloo/*.cc), all ranks beginning at once.

    A message leaves when word has come that its receiver is ready, so it costs two hops, unless
    the receiver said so while it waited for another. Rings keep two messages in flight, halves
    of a round or segments of it, so that each costs one hop beyond its bytes. An all-reduce of
    one element has a single message under way, which all receivers but the first await. The
    broadcast is a binomial tree whose root sends the payload ⌈log2 N⌉ times.
    """
    if ranks == 1:
        return 0.0
    peers = ranks - 1
    share, log = peers / ranks, peers.bit_length()
    messages = peers * max(2, math.ceil(payload / (ranks * MAX_SEGMENT)))
    hops, sent = {
        "all_reduce": (2 * peers + 1 if payload <= _SCALAR else 2 * messages, 2 * share),
        "reduce_scatter": (2 * messages, 2 * share),  # torch makes it an all-reduce
        "all_gather": (2 * peers, share),
        "reduce": (messages + 2, 1.0),  # a ring, then all parts go to the root at once
        "broadcast": (log + 1, float(log)),
        "gather": (2, share),
        "scatter": (2, share),
        "all_to_all": (2, share),
        "send": (2, 1.0),
        "recv": (0, 0.0),
        "barrier": (2 * log, 0.0),
    }[collective]
    return hops * fabric.latency_s + sent * payload / fabric.bytes_per_s


def _hierarchical(collective: str, payload: float, ranks: int, network: Interconnect) -> float:
    """Two levels: within each node, then between ranks of the same place in all nodes.

    All-reduce is a reduce-scatter inside, an all-reduce of each part outside and an all-gather
    inside. What has no such form, and a world that does not fill its nodes, is infinite.
    """
    inner, size = network.inner, network.node_ranks

    def best(name: str, part: float, members: int, fabric: Fabric) -> float:
        return min(_flat(name, part, members, fabric, shape) for shape in _SHAPES)

    if inner is None or size < 2:
        return math.inf
    if ranks <= size:
        return best(collective, payload, ranks, inner)
    if ranks % size:
        return math.inf
    nodes = ranks // size
    if collective == "all_reduce":
        return (2 * best("all_gather", payload, size, inner)
                + best("all_reduce", payload / size, nodes, network.outer))
    if collective in _SHARDED:
        return (best(collective, payload, size, inner)
                + best(collective, payload / size, nodes, network.outer))
    if collective in _WHOLE:
        return (best(collective, payload, size, inner)
                + best(collective, payload, nodes, network.outer))
    # The rest knows no hierarchy: it crosses the network as it would without nodes.
    return best(collective, payload, ranks, network.outer)


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
        """Yield collective, payload bytes and number of calls; their sizes as in all training.

        All calls are of the average size where the record does not tell them apart.
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
             for last in record.evals[-1:] if last.samples]
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
    """Modelled numbers of one training: seconds of a step, steps and seconds to the target."""

    compute_s: float
    communication_s: float
    steps: int
    to_target_s: float

    @property
    def step_s(self) -> float:
        """Seconds of one step."""
        return self.compute_s + self.communication_s


def project(
    done: RecordedWork,
    ranks: int,
    scaling: BatchScaling,
    network: Interconnect,
    algorithm: Algorithm = Algorithm.best,
    batch_size: int | None = None,
) -> Projection | None:
    """Move recorded work to another world; None where its minibatch cannot be shared out.

    Samples to the target stay as measured, which nobody knows to hold at another N. ``strong``:
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
    return Projection(compute, communication, steps, total)
