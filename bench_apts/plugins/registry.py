"""Finding optimizers and suites: installed ones by their entry points, others by a file's path.

The harness imports no backend and no suite by name; what is built in is found like what others
install, through the groups ``bench_apts.optimizers`` and ``bench_apts.suites``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import UserError, unknown
from bench_apts.plugins import entry_points, suite_file, user_code
from bench_apts.plugins.backend import Backend, find_module
from bench_apts.plugins.entry_points import OPTIMIZERS, SUITES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import EntryPoint

    from bench_apts.core.spec import Suite


@dataclass(frozen=True)
class Plugin:
    """A backend with its origin: the distribution that installed it, or its file."""

    backend: Backend
    origin: str
    reference: str
    sha256: str


def optimizer_names() -> list[str]:
    """Return the names of the installed backends, sorted."""
    return sorted(entry_points.entries(OPTIMIZERS))


def optimizer_origin(name: str) -> str:
    """Return which distribution installed a backend."""
    return entry_points.origin(*entry_points.entries(OPTIMIZERS)[name])


def optimizer(name: str) -> Plugin:
    """Find a backend by its name, or by the path of a ``.py`` file that defines ``backend``.

    Raises:
        UserError: There is none, several packages offer it, or it cannot be imported.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    known = entry_points.entries(OPTIMIZERS)
    if name not in known:
        raise unknown("optimizer", name, known, "See `bench-apts list optimizers`.")
    entry = entry_points.only(OPTIMIZERS, name)
    try:
        backend = entry.load()
    except Exception as error:
        raise UserError(user_code.failure(f"optimizer '{name}' ({entry.value})", error)) from error
    plugin = _plugin(backend, entry_points.origin(entry), entry.value)
    if plugin.backend.name != name:
        raise UserError(f"the entry point '{name}' ({entry.value}) offers a backend that calls "
                        f"itself '{plugin.backend.name}'; the two names must be equal")
    return plugin


@functools.cache
def installed_backend(reference: str) -> Backend | None:
    """Return the installed backend that a trial names, for what reports say of its optimizer.

    Args:
        reference: ``Trial.plugin``, for instance ``"bench_apts.optimizers.sgd:backend"``. It
            decides, not the optimizer's name: what a user's file calls ``sgd`` may do anything.

    Returns:
        None where no installed package offers it, or it cannot be imported.
    """
    for name, offered in entry_points.entries(OPTIMIZERS).items():
        if any(entry.value == reference for entry in offered):
            with contextlib.suppress(UserError):
                return optimizer(name).backend
    return None


def _from_file(path: Path) -> Plugin:
    module, siblings = user_code.from_file(path, "optimizer")
    with siblings.importable():
        plugin = _plugin(getattr(module, "backend", None), str(path), str(path.resolve()), path,
                         *siblings.files())
    backend = plugin.backend
    return replace(plugin, backend=replace(
        backend,
        # A rank builds a single plug-in, and its steps may import more.
        build=siblings.within(backend.build, stay=True),
        batch_size=backend.batch_size and siblings.within(backend.batch_size),
        sampling=backend.sampling and siblings.within(backend.sampling)))


def _plugin(backend: object, origin: str, reference: str, *files: Path) -> Plugin:
    if not isinstance(backend, Backend):
        raise UserError(f"{reference} is no bench_apts.contract.Backend; a plug-in file defines "
                        "one under the name `backend`")
    return Plugin(backend, origin, reference, _source_hash(backend, *files))


def _source_hash(backend: Backend, *files: Path) -> str:
    """Hash the source that defines a backend: its files, and the modules that it declares."""
    build: Any = backend.build
    if isinstance(build, functools.partial):
        build = build.func
    if not (inspect.isroutine(build) or inspect.isclass(build)):
        build = type(build)  # an object that can be called
    try:
        paths = [*files, Path(inspect.getfile(build))]
    except (TypeError, OSError) as error:
        raise UserError(f"{backend.name}: build: expected a function or class that a file "
                        f"defines: {error}") from error
    for package in backend.sources:
        found = find_module(package)
        if found is None or found.origin is None:
            continue
        origin = Path(found.origin)
        paths += sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def suite_names() -> list[str]:
    """Return the names of the installed suites, sorted."""
    return sorted(_installed_suites().files)


def variant_names(name: str) -> list[str]:
    """Return the names of an installed suite's variants, as ``suite`` takes them."""
    return [f"{name}@{variant}" for variant in suite_file.variant_names(suite_path(name))]


def suite_origin(name: str) -> str:
    """Return which distribution installed a suite, or the path of its file."""
    known, found = suite_file.split(name)[0], _installed_suites().files
    return found[known][1] if known in found else known


def suite(name: str, overrides: tuple[str, ...] = ()) -> Suite:
    """Find a suite by its name or by the path of a TOML file, or its variant after an ``@``.

    Raises:
        UserError: There is none, or it is not valid.
    """
    return suite_file.load(suite_path(name), overrides, suite_file.split(name)[1])


def suite_path(name: str) -> Path:
    """Return the file of a suite, given what ``suite`` takes.

    Raises:
        UserError: There is none of the name, or several packages offer it.
    """
    name = suite_file.split(name)[0]
    if name.endswith(".toml"):
        return Path(name)
    found = _installed_suites()
    if name not in found.files:
        broken = "".join(f" Suites of {each.origin} are unavailable: {each.reason}."
                         for each in found.broken)
        raise unknown("suite", name, found.files,
                      f"A file's path ending in .toml works too.{broken}")
    if others := found.clashes.get(name):
        raise entry_points.several_offers(name, SUITES, others)
    return found.files[name][0]


class Unavailable(NamedTuple):
    """A package whose suites cannot be read: the name of its entry point, its own, and why."""

    entry: str
    origin: str
    reason: str


def unavailable_suites() -> list[Unavailable]:
    """Return the packages that offer suites and are broken; the others are not affected."""
    return _installed_suites().broken


class _InstalledSuites(NamedTuple):
    """Suites by name, as file and origin; names of several packages; and broken packages."""

    files: dict[str, tuple[Path, str]]
    clashes: dict[str, list[str]]
    broken: list[Unavailable]


@functools.cache
def _installed_suites() -> _InstalledSuites:
    found = _InstalledSuites({}, {}, [])
    owners: dict[str, str] = {}
    known = [entry for several in entry_points.entries(SUITES).values() for entry in several]
    for entry in sorted(known, key=lambda each: entry_points.origin(each) != "built in"):
        try:
            paths = list(_suites_of(entry))
        except (Exception, SystemExit) as error:
            found.broken.append(Unavailable(
                entry.name, entry_points.origin(entry), user_code.failure(entry.value, error)))
            continue
        for path in paths:
            before, _ = found.files.setdefault(path.stem, (path, entry_points.origin(entry)))
            owner = owners.setdefault(path.stem, entry_points.distribution(entry))
            if before != path:
                found.clashes.setdefault(path.stem, [owner]).append(
                    entry_points.distribution(entry))
    return found


def _suites_of(entry: EntryPoint) -> Iterator[Path]:
    """Yield the TOML files of a package, or of ``package:folder`` or ``package:file.toml``."""
    package, _, inner = entry.value.partition(":")
    path = Path(str(files(package.strip()) / inner.strip()))
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(path.glob("*.toml"))
    else:
        raise UserError(f"no file or folder {path}")


def forget() -> None:
    """Have the next call look at the installed packages again."""
    entry_points.forget()
    installed_backend.cache_clear()
    _installed_suites.cache_clear()
