"""Importing users' code: plug-in files with the modules in their folders, ``module:attribute``."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import UserError, unknown
from bench_apts.core.files import require_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

_INSTALLED = ("site-packages", "dist-packages")
"""Folders whose modules are installed, not a plug-in's own."""


class Loaded(NamedTuple):
    """An imported object.

    Attributes:
        value: The object.
        files: What its source hash is made of: the files of its module, and those in the same
            folder that the module imports.
        siblings: Makes the modules in its file's folder importable; None for an installed module.
    """

    value: Any
    files: tuple[Path, ...]
    siblings: SiblingModules | None

    def call(self, *arguments: Any, **options: Any) -> Any:
        """Call the object, with the modules in its file's folder importable."""
        with self.siblings.importable() if self.siblings else contextlib.nullcontext():
            return self.value(*arguments, **options)


def load(reference: str, folder: Path, what: str) -> Loaded:
    """Import what a suite names.

    Args:
        reference: ``module:attribute`` or ``file.py:attribute``.
        folder: Where relative files lie.
        what: What it is, for messages, for instance ``"[data] source"``.

    Raises:
        UserError: It has another form, or cannot be imported.
    """
    place, colon, attribute = reference.rpartition(":")
    if not colon or not place or not all(map(str.isidentifier, attribute.split("."))):
        raise UserError(f"{what} = {reference!r}: write module:attribute or file.py:attribute")
    siblings = None
    if place.endswith(".py"):
        path = folder / Path(place).expanduser()
        module, siblings = from_file(path, what.split()[0].strip("[]"))
        files = [path, *siblings.files()]
    else:
        try:
            module = importlib.import_module(place)
        except (Exception, SystemExit) as error:
            raise UserError(failure(f"{what} = {reference!r}: {place}", error)) from error
        files = [Path(origin)] if (origin := module.__file__) else []
    value: Any = module
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise unknown(f"attribute of {place} in {what}", attribute,
                          [each for each in vars(value) if not each.startswith("_")])
        value = getattr(value, name)
    if not callable(value):
        raise UserError(f"{what} = {reference!r} is a {type(value).__name__}; expected a "
                        "function or a class")
    # The file that defines the object, where that is another than its module's; an object
    # written in C, or one that is called itself, has none.
    with contextlib.suppress(TypeError, OSError):
        defined = Path(inspect.getfile(inspect.unwrap(value)))
        if defined.is_file() and defined not in files:
            files.append(defined)
    return Loaded(value, tuple(files), siblings)


def from_file(path: Path, what: str) -> tuple[ModuleType, SiblingModules]:
    """Import a Python file by its path.

    Args:
        path: The file.
        what: What it holds, for messages, for instance ``"optimizer"``.

    Raises:
        UserError: It is missing or cannot be imported.
    """
    try:
        exists = path.is_file()
    except OSError as error:  # the name is too long, for instance
        raise UserError(f"no {what} file {path}: {error.strerror}") from error
    if not exists:
        raise UserError(f"no {what} file {path}")
    whole = require_utf8(f"the {what} file", path.resolve())
    place = hashlib.sha256(whole.encode()).hexdigest()[:8]
    name = f"bench_apts_plugin_{path.stem}_{place}"
    spec = importlib.util.spec_from_file_location(
        name, path, loader=_SourceLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    siblings = SiblingModules(path)
    with siblings.importable():
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                     if frame.filename == str(path)]
            where = f"{path}:{lines[-1]}" if lines else str(path)
            raise UserError(failure(where, error)) from error
    return module, siblings


def failure(where: str, error: BaseException) -> str:
    """Say why a module cannot be imported; a UserError of its own needs no introduction."""
    if isinstance(error, UserError):
        return f"{where}: {error}"
    return f"{where} cannot be imported: {type(error).__name__}: {error}"


def sha256(loaded: tuple[Loaded, ...]) -> str:
    """Hash the source of objects; equal files give equal hashes wherever they lie."""
    total = hashlib.sha256()
    for path in dict.fromkeys(path for each in loaded for path in each.files):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


class _SourceLoader(SourceFileLoader):
    """Loads what a file says now, which is what records have the hash of.

    Python's own loader takes bytecode of an earlier version for the file's where both have the
    same size and the same second of their last change.
    """

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source."""
        return self.source_to_code(self.get_data(self.path), self.path)


class SiblingModules(MetaPathFinder):
    """Finds modules in a plug-in's folder that nothing else provides.

    The standard library and installed packages keep their names, whatever lies in the folder; the
    working directory, from which ranks do not import, counts for nothing. The modules of at most
    one plug-in can be imported at any time: those of the others are set aside, so that equal
    names in two folders do not meet.

    Args:
        file: The plug-in.
    """

    _active: SiblingModules | None = None

    def __init__(self, file: Path) -> None:
        self._file = file.resolve()
        self._folder = self._file.parent
        self._names: set[str] = set()
        self._modules: dict[str, ModuleType] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module or package of the folder, or what lies in such a package."""
        if path is None:
            if not self._provides(fullname):
                return None
            self._names.add(fullname)
            path = [str(self._folder)]
        elif fullname.partition(".")[0] not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(spec.loader.name, spec.loader.path)
        return spec

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Let the folder's modules be imported while the block runs."""
        before = SiblingModules._switch(self)
        try:
            yield
        finally:
            SiblingModules._switch(before)

    def within(self, function: Callable[..., Any], stay: bool = False) -> Callable[..., Any]:
        """Return a function that can import the folder's modules whenever it is called.

        Args:
            function: The plug-in's.
            stay: Leave them importable for the rest of the process.
        """
        @functools.wraps(function, updated=())
        def wrapped(*arguments: Any) -> Any:
            if stay:
                SiblingModules._switch(self)
                return function(*arguments)
            with self.importable():
                return function(*arguments)

        return wrapped

    def files(self) -> list[Path]:
        """Return the files of the folder and below that the plug-in imports, sorted.

        Found in the text of ``import`` statements, wherever these stand; nothing is executed. The
        plug-in itself is not among them.
        """
        found: set[Path] = set()
        waiting: list[tuple[Path, tuple[str, ...]]] = [(self._file, ())]
        while waiting:
            for parts in _imported_names(*waiting.pop()):
                for path, package in self._files_of(parts):
                    if path not in found and path != self._file:
                        found.add(path)
                        waiting.append((path, package))
        return sorted(found)

    def _files_of(self, parts: tuple[str, ...]) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Yield the files that importing a dotted name runs, each with its package."""
        if not parts or not self._provides(parts[0]):
            return
        for end in range(1, len(parts) + 1):
            base = self._folder.joinpath(*parts[:end])
            if (base / "__init__.py").is_file():
                yield base / "__init__.py", parts[:end]
            elif (module := base.parent / f"{base.name}.py").is_file():
                yield module, parts[:end - 1]

    def _provides(self, name: str) -> bool:
        """Say whether the folder alone provides a top-level module."""
        if self._folder.name in _INSTALLED or not (
                (self._folder / f"{name}.py").is_file() or (self._folder / name).is_dir()):
            return False
        elsewhere = [entry for entry in sys.path
                     if Path(entry).resolve() not in (self._folder, Path.cwd())]
        return not any(
            PathFinder.find_spec(name, elsewhere) if finder is PathFinder
            else finder.find_spec(name, None)
            for finder in sys.meta_path if not isinstance(finder, SiblingModules))

    @staticmethod
    def _switch(to: SiblingModules | None) -> SiblingModules | None:
        """Make one plug-in's modules the ones that can be imported; return whose were before."""
        before = SiblingModules._active
        if before is to:
            return before
        if before is not None:
            sys.meta_path.remove(before)
            before._modules = {name: sys.modules.pop(name) for name in [*sys.modules]
                               if name.partition(".")[0] in before._names}
        if to is not None:
            importlib.invalidate_caches()  # a file may be newer than the last look at its folder
            sys.meta_path.insert(0, to)
            sys.modules.update(to._modules)
        SiblingModules._active = to
        return before


def _imported_names(path: Path, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names, in parts, that a file of a package imports."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # importing it says what is wrong
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[:len(package) + 1 - node.level] if node.level else ()
            base = (*around, *(node.module.split(".") if node.module else ()))
            yield base
            yield from ((*base, alias.name) for alias in node.names)
