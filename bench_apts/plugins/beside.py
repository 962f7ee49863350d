"""The modules beside a plug-in file: it can import them, and they are part of its hash."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_INSTALLED = ("site-packages", "dist-packages")
"""Folders whose modules belong to everybody."""


class Beside(MetaPathFinder):
    """Finds modules in a plug-in's folder that nothing else provides.

    The standard library and installed packages keep their names, whatever lies in the folder; the
    working directory, from which ranks do not import, counts for nothing. The modules of at most
    one plug-in can be imported at any time: those of the others are set aside, so that equal
    names in two folders do not meet.

    Args:
        file: The plug-in.
    """

    _active: Beside | None = None

    def __init__(self, file: Path) -> None:
        self._file = file.resolve()
        self._folder = self._file.parent
        self._names: set[str] = set()
        self._modules: dict[str, ModuleType] = {}

    def find_spec(self, fullname: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module or package of the folder; what lies in a package is found through it."""
        if path is not None or not self._own(fullname):
            return None
        self._names.add(fullname)
        return PathFinder.find_spec(fullname, [str(self._folder)], target)

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Let the folder's modules be imported while the block runs."""
        before = Beside._switch(self)
        try:
            yield
        finally:
            Beside._switch(before)

    def within(self, function: Callable[..., Any], stay: bool = False) -> Callable[..., Any]:
        """Return a function that can import the folder's modules whenever it is called.

        Args:
            function: The plug-in's.
            stay: Leave them importable for the rest of the process.
        """
        @functools.wraps(function, updated=())
        def wrapped(*arguments: Any) -> Any:
            if stay:
                Beside._switch(self)
                return function(*arguments)
            with self.importable():
                return function(*arguments)

        return wrapped

    def files(self) -> list[Path]:
        """Return the files of the folder and below that the plug-in imports, sorted.

        Found in the text of ``import`` statements, wherever these stand; nothing is executed. The
        plug-in itself is not among them.
        """
        found: dict[Path, None] = {}
        waiting: list[tuple[Path, tuple[str, ...]]] = [(self._file, ())]
        while waiting:
            path, package = waiting.pop()
            for parts in _imports(path, package):
                for place, around in self._located(parts):
                    if place not in found and place != self._file:
                        found[place] = None
                        waiting.append((place, around))
        return sorted(found)

    def _located(self, parts: tuple[str, ...]) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Yield the files that importing a dotted name runs, each with its package."""
        if not parts or not self._own(parts[0]):
            return
        for end in range(1, len(parts) + 1):
            base = self._folder.joinpath(*parts[:end])
            for place, package in ((base / "__init__.py", parts[:end]),
                                   (base.parent / f"{base.name}.py", parts[:end - 1])):
                if place.is_file():
                    yield place, package
                    break

    def _own(self, name: str) -> bool:
        """Say whether the folder alone provides a top-level module."""
        if self._folder.name in _INSTALLED or not (
                (self._folder / f"{name}.py").is_file() or (self._folder / name).is_dir()):
            return False
        elsewhere = [entry for entry in sys.path
                     if Path(entry).resolve() not in (self._folder, Path.cwd())]
        return not any(
            PathFinder.find_spec(name, elsewhere) if finder is PathFinder
            else finder.find_spec(name, None)
            for finder in sys.meta_path if not isinstance(finder, Beside))

    @staticmethod
    def _switch(to: Beside | None) -> Beside | None:
        """Make one plug-in's modules the ones that can be imported; return whose were before."""
        before = Beside._active
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
        Beside._active = to
        return before


def _imports(path: Path, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names, in parts, that a file imports; none if it cannot be read as Python.

    Args:
        path: The file.
        package: The package that it lies in.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # importing it tells why
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package[:len(package) + 1 - node.level] if node.level else ()
            base = (*around, *(node.module.split(".") if node.module else ()))
            yield base
            yield from ((*base, alias.name) for alias in node.names)
