"""Networks by name: those that come with the package, and the user's own."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from bench_apts.core import configuration
from bench_apts.core.errors import UserError, unknown
from bench_apts.stats.network_model import Fabric, Interconnect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def load_fabrics(own: Path | None = None) -> dict[str, Fabric]:
    """Return all fabrics; the user's replace shipped ones of the same name.

    Args:
        own: A TOML file in the form of fabrics.toml.

    Raises:
        UserError: The file cannot be read, is no TOML, or a key is missing, unknown or wrong.
    """
    return {**_shipped(), **(_read(own) if own else {})}


def networks(
    names: Sequence[str], known: Mapping[str, Fabric], node_ranks: int, node_fabric: str
) -> dict[str, Interconnect]:
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
