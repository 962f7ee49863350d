"""Modules that a rank imports while it trains, for the fork server to import before it forks.

Some packages import their largest parts when an optimizer is built: DeepSpeed has torch's compiler
imported by its first engine, 700 modules. Every rank of every trial would do so again.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_FILE = "imports.json"

_PACKAGES = {"site-packages", "dist-packages"}

_MANY = 200
"""Fewer modules take less time in a rank than starting another server does."""


@contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Write the names of the installed modules that the block imports to a file in ``folder``."""
    before = set(sys.modules)
    yield
    # Copied, as a thread of an optimizer may be importing.
    found = [name for name, module in list(sys.modules.items())
             if name not in before and _is_installed(module)]
    (folder / _FILE).write_text(json.dumps(found), encoding="utf-8")


def _is_installed(module: ModuleType) -> bool:
    """Whether a module belongs to Python or a package, and not to a file that may change."""
    path = str(getattr(module, "__file__", None) or "")
    return path.startswith(sysconfig.get_path("stdlib")) or not _PACKAGES.isdisjoint(
        Path(path).parts)


def read(folder: Path) -> list[str]:
    """Return what ``recorded`` wrote, in the order of import; nothing where it is not worth it."""
    try:
        found: list[str] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except OSError:
        return []
    return found if len(found) >= _MANY else []
