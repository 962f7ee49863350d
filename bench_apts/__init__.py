"""bench-apts: which optimizer reaches the accuracy you need for the smallest total bill?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench_apts.meters.comm_meter import CommMeter as CommMeter

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the meter where it is used: the command line has no need of it."""
    if name == "CommMeter":
        from bench_apts.meters.comm_meter import CommMeter

        return CommMeter
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
