"""Imported by every Python that ``bench-apts meter`` starts: its folder leads PYTHONPATH.

It waits for a process group, imports nothing until then, and runs the user's own sitecustomize.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

TYPE_CHECKING = False  # typing takes its time to import, in every Python that starts
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

_MODULE = "torch.distributed.distributed_c10d"

_REGISTERING = ("_register_pg_in_world", "_register_process_group")
"""Functions of that module, one of which each new process group passes; torch 2.11 lacks the
first."""


class _Waiting:
    """Finds ``distributed_c10d`` as Python would, and has a function called after its import."""

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_prepare(module: ModuleType) -> None:
                execute(module)
                _await_first_group(module)

            setattr(spec.loader, execute.__name__, execute_and_prepare)
        return spec


def _await_first_group(c10d: Any) -> None:
    """Have the meter begin with the first process group of this process."""
    name = next((name for name in _REGISTERING if hasattr(c10d, name)), None)
    if name is None:
        print("bench-apts meter: this torch registers no process groups; nothing is counted",
              file=sys.stderr)
        return
    register = getattr(c10d, name)

    def register_and_begin(*args: Any, **kwargs: Any) -> None:
        setattr(c10d, name, register)
        register(*args, **kwargs)
        try:
            from bench_apts.meters import metered_process

            metered_process.begin(lambda: _await_first_group(c10d))
        except Exception as error:  # the training goes on
            print(f"bench-apts meter: nothing is counted: {type(error).__name__}: {error}",
                  file=sys.stderr)

    setattr(c10d, name, register_and_begin)


def _run_next(here: str) -> None:
    """Run the sitecustomize that would have been imported without this one."""
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.meta_path.insert(0, _Waiting())
_run_next(os.path.dirname(os.path.realpath(__file__)))
