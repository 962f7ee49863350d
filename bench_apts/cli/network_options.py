"""The options by which commands choose modelled networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from bench_apts.stats.network_model import Algorithm

if TYPE_CHECKING:
    from bench_apts.stats.network_model import Interconnect

Names = Annotated[str | None, Option(
    help="Networks by name, for instance ib-ndr,eth10g.  [default: all that are known]",
    show_default=False)]
File = Annotated[Path | None, Option(
    help="TOML file with networks of your own, see docs/projection.md.", show_default=False)]
Collectives = Annotated[Algorithm, Option(
    help="Of the collectives; best takes the fastest for each, gloo is what CPU ranks do.")]
NodeRanks = Annotated[int, Option(
    min=1, help="Ranks of a node, joined by --node-fabric; 1: every rank is alone.")]
NodeFabric = Annotated[str, Option(help="Network within a node.")]


def chosen_networks(names: str | None, file: Path | None, node_ranks: int, node_fabric: str,
                    ) -> dict[str, Interconnect]:
    """Return the networks that the options choose, by name.

    Raises:
        UserError: A network is unknown, or the file is broken.
    """
    from bench_apts.stats import network_model

    fabrics = network_model.load_fabrics(file)
    chosen = list(fabrics) if names is None else [name.strip() for name in names.split(",")]
    return network_model.networks(chosen, fabrics, node_ranks, node_fabric)
