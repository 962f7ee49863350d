"""Finds optimizers and suites: installed ones by their entry points, others by a file's path.

The harness imports no backend and no suite by name; what is built in is found like what others
install, through the groups ``bench_apts.optimizers`` and ``bench_apts.suites``.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts import sources, suite_file, variants
from bench_apts.contract import Backend, installed
from bench_apts.errors import UserError, unknown

if TYPE_CHECKING:
    from bench_apts.spec import Suite

OPTIMIZERS = "bench_apts.optimizers"
SUITES = "bench_apts.suites"


@dataclass(frozen=True)
class Plugin:
    """A backend with its origin: the distribution that installed it, or its file."""

    backend: Backend
    origin: str
    reference: str
    sha256: str


def optimizer_names() -> list[str]:
    """Returns the names of the installed backends, sorted."""
    return sorted(_entries(OPTIMIZERS))


def optimizer_origin(name: str) -> str:
    """Returns which distribution installed a backend."""
    return _origin(_entries(OPTIMIZERS)[name])


def optimizer(name: str) -> Plugin:
    """Finds a backend by its name, or by the path of a ``.py`` file that defines ``backend``.

    Raises:
        UserError: There is none, or it cannot be imported.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    entries = _entries(OPTIMIZERS)
    if name not in entries:
        raise unknown("optimizer", name, entries, "See `bench-apts list optimizers`.")
    entry = entries[name]
    try:
        backend = entry.load()
    except Exception as error:
        raise UserError(sources.failure(f"optimizer '{name}' ({entry.value})", error)) from error
    plugin = _plugin(backend, _origin(entry), entry.value)
    if plugin.backend.name != name:
        raise UserError(f"the entry point '{name}' ({entry.value}) offers a backend that calls "
                        f"itself '{plugin.backend.name}'; the two names must be equal")
    return plugin


def _from_file(path: Path) -> Plugin:
    module, beside = sources.from_file(path, "optimizer")
    with beside.importable():
        plugin = _plugin(getattr(module, "backend", None), str(path), str(path.resolve()), path,
                         *beside.files())
    backend = plugin.backend
    return replace(plugin, backend=replace(
        backend,
        # A rank builds a single plug-in, and its steps may import more.
        build=beside.within(backend.build, stay=True),
        batch_size=backend.batch_size and beside.within(backend.batch_size),
        sampling=backend.sampling and beside.within(backend.sampling)))


def _plugin(backend: object, origin: str, reference: str, *files: Path) -> Plugin:
    if not isinstance(backend, Backend):
        raise UserError(f"{reference} is no bench_apts.contract.Backend; a plug-in file defines "
                        "one under the name `backend`")
    return Plugin(backend, origin, reference, _source_hash(backend, *files))


def _source_hash(backend: Backend, *files: Path) -> str:
    """Hash the source that defines a backend: its files, and the modules that it declares."""
    build: Any = backend.build.func if isinstance(
        backend.build, functools.partial) else backend.build
    if not (inspect.isroutine(build) or inspect.isclass(build)):
        build = type(build)  # an object that can be called
    try:
        paths = [*files, Path(inspect.getfile(build))]
    except (TypeError, OSError) as error:
        raise UserError(f"{backend.name}: build: expected a function or class that a file "
                        f"defines: {error}") from error
    for package in backend.sources:
        found = importlib.util.find_spec(package) if installed(package) else None
        if found is None or found.origin is None:
            continue
        origin = Path(found.origin)
        paths += sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def suite_names() -> list[str]:
    """Returns the names of the installed suites, sorted."""
    return sorted(_suite_files())


def variant_names(name: str) -> list[str]:
    """Return the names of an installed suite's variants, as ``suite`` takes them."""
    return [f"{name}@{variant}" for variant in suite_file.variant_names(suite_path(name))]


def suite_origin(name: str) -> str:
    """Returns which distribution installed a suite, or the path of its file."""
    known, found = variants.split(name)[0], _suite_files()
    return found[known][1] if known in found else known


def suite(name: str, overrides: tuple[str, ...] = ()) -> Suite:
    """Finds a suite by its name or by the path of a TOML file, or its variant after an ``@``.

    Raises:
        UserError: There is none, or it is not valid.
    """
    return suite_file.load(suite_path(name), overrides, variants.split(name)[1])


def suite_path(name: str) -> Path:
    """Return the file of a suite, given what ``suite`` takes.

    Raises:
        UserError: There is none of the name.
    """
    name = variants.split(name)[0]
    if name.endswith(".toml"):
        return Path(name)
    found = _suite_files()
    if name not in found:
        raise unknown("suite", name, found, "A file's path ending in .toml works too.")
    return found[name][0]


@functools.cache
def _suite_files() -> dict[str, tuple[Path, str]]:
    found: dict[str, tuple[Path, str]] = {}
    for entry in _entries(SUITES).values():
        for resource in files(entry.value).iterdir():
            if resource.name.endswith(".toml"):
                found[resource.name.removesuffix(".toml")] = (Path(str(resource)), _origin(entry))
    return found


@functools.cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """Collects a group's entry points; two distributions must not offer the same name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise UserError(f"'{entry.name}' is offered twice in {group}, by {_origin(other)} "
                            f"and {_origin(entry)}: uninstall one")
    return found


def _origin(entry: EntryPoint) -> str:
    distribution = entry.dist.name if entry.dist else "unknown"
    return "built in" if distribution == "bench-apts" else distribution
