"""What asv reads from a benchmark, set by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Marked = TypeVar("Marked", bound="Callable[..., Any]")


def marked(
    *, version: str, timeout: float = 60, **attributes: object
) -> Callable[[Marked], Marked]:
    """Marks a benchmark; raise ``version`` when its number's meaning changes: a new line begins.

    Args:
        version: asv compares numbers of the same version alone.
        timeout: Seconds after which it counts as failed.
        attributes: Whatever else asv knows, for instance ``unit``.
    """

    def mark(benchmark: Marked) -> Marked:
        for name, value in (attributes | {"version": version, "timeout": timeout}).items():
            setattr(benchmark, name, value)
        return benchmark

    return mark
