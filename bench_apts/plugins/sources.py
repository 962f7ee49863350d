"""Python objects that users name: ``module:attribute``, or ``file.py:attribute``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench_apts.core.errors import UserError, told, unknown
from bench_apts.plugins.beside import Beside

if TYPE_CHECKING:
    from types import ModuleType


class Loaded(NamedTuple):
    """An imported object.

    Attributes:
        value: The object.
        files: What its source hash is made of: its module's files and those beside that the
            module imports.
        beside: What makes modules beside its file importable; None for an installed module.
    """

    value: Any
    files: tuple[Path, ...]
    beside: Beside | None

    def call(self, *arguments: Any, **options: Any) -> Any:
        """Call the object, with the modules beside its file importable."""
        if self.beside is None:
            return self.value(*arguments, **options)
        with self.beside.importable():
            return self.value(*arguments, **options)


def from_file(path: Path, what: str) -> tuple[ModuleType, Beside]:
    """Import a Python file by its path.

    Args:
        path: The file.
        what: What it holds, for messages, for instance ``"optimizer"``.

    Raises:
        UserError: It is missing or cannot be imported.
    """
    try:
        there = path.is_file()
    except OSError as error:  # the name is too long, for instance
        raise UserError(f"no {what} file {path}: {error.strerror}") from error
    if not there:
        raise UserError(f"no {what} file {path}")
    whole = told(f"the {what} file", path.resolve())
    place = hashlib.sha256(whole.encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"bench_apts_plugin_{path.stem}_{place}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    beside = Beside(path)
    with beside.importable():
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise UserError(failure(f"{path}{_line(error, path)}", error)) from error
    return module, beside


def failure(where: str, error: BaseException) -> str:
    """Say why a module cannot be imported; a UserError of its own needs no introduction."""
    if isinstance(error, UserError):
        return f"{where}: {error}"
    return f"{where} cannot be imported: {type(error).__name__}: {error}"


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
    beside = None
    if place.endswith(".py"):
        path = folder / Path(place).expanduser()
        module, beside = from_file(path, what.split()[0].strip("[]"))
        files = [path, *beside.files()]
    else:
        try:
            module = importlib.import_module(place)
        except (Exception, SystemExit) as error:
            raise UserError(failure(f"{what} = {reference!r}: {place}", error)) from error
        files = [Path(origin)] if (origin := module.__file__) else []
    value: Any = module
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise unknown(f"attribute of {place} in {what}", attribute, _public(value))
        value = getattr(value, name)
    if not callable(value):
        raise UserError(f"{what} = {reference!r} is a {type(value).__name__}; expected a "
                        "function or a class")
    return Loaded(value, (*files, *_defining(value, files)), beside)


def sha256(loaded: tuple[Loaded, ...]) -> str:
    """Hash the source of objects; equal files give equal hashes wherever they lie."""
    total = hashlib.sha256()
    for path in dict.fromkeys(path for each in loaded for path in each.files):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _public(holder: Any) -> list[str]:
    return [name for name in vars(holder) if not name.startswith("_")]


def _defining(value: Any, known: list[Path]) -> list[Path]:
    """Return the file that defines an object, where it is another than its module's."""
    try:
        path = Path(inspect.getfile(inspect.unwrap(value)))
    except (TypeError, OSError):  # written in C, or an object that can be called
        return []
    return [path] if path.is_file() and path not in known else []


def _line(error: BaseException, path: Path) -> str:
    """Return where in a file an exception passed last, as ``:3``; "" if nowhere."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""
