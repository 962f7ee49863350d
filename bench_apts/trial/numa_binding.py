"""Ranks on the cores next to their GPU, as ``torchrun --numa-binding node`` places them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts.core import process_limits
from bench_apts.core.files import read_text

if TYPE_CHECKING:
    import torch

SYSTEM = Path("/sys")


def bind_near_gpu(device: torch.device) -> str:
    """Let this process run only on those of its cores that lie at its GPU's NUMA node.

    Where OpenMP's variables bind threads already, the node is not known, or none of its cores is
    allowed, nothing changes.

    Args:
        device: The rank's GPU.

    Returns:
        The cores, as taskset writes them; empty where nothing changed.
    """
    if any(name in os.environ for name in process_limits.BINDING_VARIABLES):
        return ""
    allowed = process_limits.allowed_cores()
    near = allowed & _cores_near(_pci_address(device))
    if not near or near == allowed:
        return ""
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(int(thread), near)
    return process_limits.format_core_ranges(near)


def _pci_address(device: torch.device) -> str:
    """Return a GPU's address as sysfs names its folder."""
    import torch

    found: Any = torch.cuda.get_device_properties(device)  # torch's annotations lack these
    return f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"


def _cores_near(address: str) -> frozenset[int]:
    """Return the cores of the NUMA node of a PCI device; none if it belongs to no node."""
    node = read_text(SYSTEM / "bus/pci/devices" / address / "numa_node")
    listed = read_text(SYSTEM / f"devices/system/node/node{node}/cpulist") if node else ""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", listed):
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
