"""Networks by name: those that come with the package, and the user's own."""

from __future__ import annotations

import math
import tomllib
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from bench_apts.errors import UserError, unknown
from bench_apts.stats.projection import Fabric, Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def load(own: Path | None = None) -> dict[str, Fabric]:
    """Returns all fabrics; the user's replace shipped ones of the same name.

    Args:
        own: A TOML file in the form of fabrics.toml.

    Raises:
        UserError: The file cannot be read, is no TOML, or a key is missing, unknown or wrong.
    """
    shipped = (resources.files(__package__) / "fabrics.toml").read_text(encoding="utf-8")
    found = _parse(shipped, "fabrics.toml")
    if own is not None:
        try:
            text = own.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read fabrics {own}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{own} is not valid TOML: {error}") from error
        found |= _parse(text, str(own))
    return found


def networks(
    names: Sequence[str], known: Mapping[str, Fabric], node_ranks: int, node_fabric: str
) -> dict[str, Network]:
    """Returns the named fabrics, each between nodes of ``node_ranks`` joined by ``node_fabric``.

    Raises:
        UserError: There is no fabric of one of the names.
    """
    for name in (*names, node_fabric):
        if name not in known:
            raise unknown("fabric", name, known, "Own ones come from --fabrics my.toml.")
    inner = known[node_fabric] if node_ranks > 1 else None
    return {name: Network(known[name], inner, node_ranks) for name in names}


def _parse(text: str, where: str) -> dict[str, Fabric]:
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid TOML: {error}") from error
    found = {}
    for name, table in tables.items():
        try:
            fabric = msgspec.convert(table, Fabric)
        except msgspec.ValidationError as error:
            raise UserError(f"{where}: fabric '{name}': {error}") from error
        for key in ("bytes_per_s", "latency_s"):
            if not math.isfinite(getattr(fabric, key)):
                raise UserError(f"{where}: fabric '{name}': {key}: expected a finite number")
        found[name] = fabric
    return found
