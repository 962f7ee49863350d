"""What all nodes of a study must have in common, and in what two of them differ."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from bench_apts.core import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.study.plan import Plan

_CODE = ("bench_apts", "bench_apts.optimizers", "bench_apts.suites")
_HERE_ALONE = ("bench_apts.reports", "bench_apts.cli")
"""Runs on one node and tells the others nothing."""

_SHOWN = 3
"""How many differences a message names."""


def agreement(plan: Plan) -> dict[str, Any]:
    """Returns what must be equal on all nodes, as plain values for JSON.

    Keys: ``bench-apts code`` (sha256 of its source files), ``python``, ``versions`` by package,
    ``study`` (as resolved from the command's options), ``plug-ins`` and ``data`` (sha256 by name).
    """
    card = environment.card()
    # Through JSON and back: as another node's comes.
    return cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode({
        "bench-apts code": _code(),
        "python": card["python"],
        "versions": card["versions"],
        # Folders may lie elsewhere; what suites take from them is in their code_sha256.
        "study": msgspec.structs.replace(plan.study, folders=msgspec.UNSET),
        "plug-ins": {label: plugin.sha256 for label, plugin in plan.plugins.items()},
        "data": {name: data.sha256 for name, data in plan.prepared.items()},
    })))


def machine() -> dict[str, Any]:
    """Returns what records say of a node: host name, processor, cores and GPUs."""
    card = environment.card()
    return {key: card[key] for key in ("hostname", "cpu", "cores", "gpus")}


def differences(ours: dict[str, Any], theirs: dict[str, Any], us: str, them: str) -> str:
    """Says in what two agreements differ; empty if in nothing.

    Args:
        ours: Our agreement.
        theirs: Another node's.
        us: What to call us.
        them: What to call the other.
    """
    found = [f"{key} is {_short(mine)} on {us} and {_short(other)} on {them}"
             for key, mine, other in _unequal("", ours, theirs)]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _unequal(key: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in (*ours, *(name for name in theirs if name not in ours)):
            yield from _unequal(f"{key}.{name}" if key else name, ours.get(name, "missing"),
                                theirs.get(name, "missing"))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _unequal(f"{key}[{number}]", mine, other)
    elif ours != theirs:
        yield key, ours, theirs


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:12]}…"


def _code() -> str:
    """Hashes the sources that ranks run, the same for a checkout and an installed package."""
    sources: dict[str, bytes] = {}
    for package in _CODE:
        spec = find_spec(package)
        assert spec is not None
        for folder in map(Path, spec.submodule_search_locations or ()):
            for path in (*folder.rglob("*.py"), *folder.rglob("*.cpp")):
                name = ".".join((package, *path.relative_to(folder).parts))
                if not name.startswith(_HERE_ALONE):
                    sources[name] = path.read_bytes()
    total = hashlib.sha256()
    for name in sorted(sources):
        total.update(f"{name} {len(sources[name])} ".encode() + sources[name])
    return total.hexdigest()
