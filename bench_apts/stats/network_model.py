"""Networks by name, and the modelled seconds of a collective on them: the α-β model.

``hops · α + bytes sent / β``, as in Thakur, Rabenseifner and Gropp, "Optimization of Collective
Communication Operations in MPICH" (2005). No link is shared by two messages at a time.
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from bench_apts.core import configuration
from bench_apts.core.errors import UserError, unknown
from bench_apts.core.wire import MAX_SEGMENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Algorithm(StrEnum):
    """How collectives are carried out.

    ``best`` is the fastest of ring, tree and hierarchical for each; ``gloo`` is what CPU ranks do.
    """

    best = "best"
    ring = "ring"
    tree = "tree"
    hierarchical = "hierarchical"
    gloo = "gloo"


_SHARDED = ("all_gather", "reduce_scatter")
_PARTS = (*_SHARDED, "gather", "scatter")
_WHOLE = ("broadcast", "reduce")
_SHAPES = (Algorithm.ring, Algorithm.tree)

_SCALAR = 8  # bytes of the largest single element, which gloo cannot cut into segments

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


def load_fabrics(own: Path | None = None) -> dict[str, Fabric]:
    """Return all fabrics; the user's replace shipped ones of the same name.

    Args:
        own: A TOML file in the form of fabrics.toml.

    Raises:
        UserError: The file cannot be read, is no TOML, or a key is missing, unknown or wrong.
    """
    return {**_shipped(), **(_read(own) if own else {})}


def networks(names: Sequence[str], known: Mapping[str, Fabric], node_ranks: int,
             node_fabric: str) -> dict[str, Interconnect]:
    """Return the named fabrics, each between nodes of ``node_ranks`` joined by ``node_fabric``.

    Raises:
        UserError: There is no fabric of one of the names.
    """
    for name in (*names, node_fabric):
        if name not in known:
            raise unknown("fabric", name, known, "Own ones come from --fabrics my.toml.")
    inner = known[node_fabric] if node_ranks > 1 else None
    return {name: Interconnect(known[name], inner, node_ranks) for name in names}


@cache
def _shipped() -> dict[str, Fabric]:
    with resources.as_file(resources.files(__package__) / "fabrics.toml") as path:
        return _read(path)


def _read(where: Path) -> dict[str, Fabric]:
    found = {}
    for name, table in configuration.read_toml(where, "fabrics").items():
        try:
            fabric = msgspec.convert(table, Fabric)
        except msgspec.ValidationError as error:
            raise UserError(f"{where}: fabric '{name}': {error}") from error
        for key in ("bytes_per_s", "latency_s"):
            if not math.isfinite(getattr(fabric, key)):
                raise UserError(f"{where}: fabric '{name}': {key}: expected a finite number")
        found[name] = fabric
    return found


@lru_cache(maxsize=4096)
def collective_seconds(collective: str, payload: float, ranks: int, network: Interconnect,
                       algorithm: Algorithm = Algorithm.best) -> float:
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


def _flat(collective: str, payload: float, ranks: int, fabric: Fabric,
          shape: Algorithm) -> float:
    """Return the seconds over one level of links, all alike.

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
    """Return the seconds of gloo over TCP (github.com/pytorch/gloo), all ranks starting at once.

    A message is sent once its receiver has announced that it is ready, so it costs two hops,
    unless the receiver announced it while it waited for another. Rings keep two messages in
    flight, halves of a round or segments of it, so that each costs one hop beyond its bytes. An
    all-reduce of one element has a single message in flight, which all receivers but the first
    await. The broadcast is a binomial tree whose root sends the payload ⌈log2 N⌉ times.
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
    """Return the seconds over two levels: within nodes, then between the same ranks of all nodes.

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
