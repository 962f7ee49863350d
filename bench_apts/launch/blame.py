"""Where an exception of a rank belongs: the plug-in's own line, if it passed there."""

from __future__ import annotations

import inspect
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench_apts.core.spec import Trial

_MARK = "where: "


def note(error: BaseException, trial: Trial) -> None:
    """Attach the place to an exception, for ``place`` to find in its printed traceback."""
    error.add_note(_MARK + _place(error, trial))


def place(callstack: str) -> str:
    """Return the place that ``note`` has attached; empty where it has not."""
    _, marked, rest = callstack.rpartition(f"\n{_MARK}")
    return rest.splitlines()[0] if marked and rest else ""


def _place(error: BaseException, trial: Trial) -> str:
    """Name the file and line in the plug-in, else the innermost ones outside torch."""
    own, name = _source(trial.plugin), trial.plugin.rpartition("/")[2].partition(":")[0]
    frames = [frame for link in _chain(error)
              for frame in traceback.extract_tb(link.__traceback__)[::-1]]
    for frame in frames:
        if _within(Path(frame.filename), own):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    # The harness asked an object of the plug-in for what it lacks.
    kind = type(getattr(error, "obj", None))
    with suppress(OSError, TypeError):
        if _within(Path(inspect.getfile(kind)), own):
            return f"{Path(inspect.getfile(kind)).name}:{inspect.getsourcelines(kind)[1]}"
    if type(error).__module__.startswith("bench_apts."):  # the harness judged the plug-in
        return name
    torch = Path(inspect.getfile(sys.modules["torch"])).parent
    return next((f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames
                 if torch not in Path(frame.filename).parents), name)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _source(plugin: str) -> Path:
    """Return the plug-in's file, or the folder of the package that it belongs to."""
    if plugin.endswith(".py"):
        return Path(plugin).resolve()
    module = sys.modules.get(plugin.partition(":")[0])
    file = Path(getattr(module, "__file__", None) or plugin)
    return file.parent if module is not None and module.__package__ else file


def _within(file: Path, own: Path) -> bool:
    return own in (file.resolve(), *file.resolve().parents)
