"""What a GPU's own sensors say of training: energy, power, temperature, clocks, memory.

They are read through ``nvidia-ml-py`` (module ``pynvml``) where it is installed, in a thread of
each rank, without CUDA and without waiting for the device. Energy is the driver's counter, read
where training begins and pauses; Volta and later have one.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from bench_apts.core.records import GpuReadings

if TYPE_CHECKING:
    import torch

INSTALL = "pip install nvidia-ml-py"

_EVERY_S = 0.5
"""Between two readings; power and temperature follow the load within tenths of a second."""

_SLOWDOWNS = {
    "hardware": 0x8, "heat (hardware)": 0x40, "power brake": 0x80, "heat (software)": 0x20,
    "power limit": 0x4}
"""Bits of NVML's reasons for clocks below what was asked for (nvmlClocksThrottleReasons)."""


class GpuSensors:
    """Reads the sensors of this rank's GPU while it trains; without any, ``missing`` says why.

    Args:
        device: The GPU.

    Attributes:
        missing: Why nothing is read; empty where something is.
    """

    def __init__(self, device: torch.device) -> None:
        self.missing = ""
        self._training, self._over = threading.Event(), threading.Event()
        self._joules, self._since = 0.0, math.nan
        self._rows: list[dict[str, float]] = []
        self._reasons = 0
        if device.type != "cuda":
            self.missing = "ranks run on the CPU"
            return
        try:
            self._nvml, self._handle = _open(device)
        except Exception as error:  # pynvml has classes of its own for what a driver lacks
            self.missing = f"{type(error).__name__}: {error}"
            return
        threading.Thread(target=self._sample, name="gpu sensors", daemon=True).start()

    def begin(self) -> None:
        """Training begins or goes on."""
        if not self.missing:
            self._since = self._counter()
            self._training.set()

    def pause(self) -> float:
        """Training pauses; return the joules of training so far, NaN where they are unknown."""
        if self.missing:
            return math.nan
        if self._training.is_set():
            self._training.clear()
            self._joules += self._counter() - self._since
        return self._joules

    def close(self) -> GpuReadings | None:
        """Stop reading; return what was read on this rank, None without a reading."""
        self._over.set()
        self._training.set()
        rows = list(self._rows)
        if not rows:
            return None

        def column(name: str) -> list[float]:
            return [row[name] for row in rows if name in row]

        def mean(values: list[float]) -> float | None:
            return sum(values) / len(values) if values else None

        slow = column("slow")
        return GpuReadings(
            readings=len(rows), power_w=mean(column("power")),
            temperature_c=max(column("temperature"), default=None),
            clock_mhz=mean(column("clock")),
            throttled=mean(slow),
            reasons=[name for name, bit in _SLOWDOWNS.items() if self._reasons & bit],
            memory_bytes=int(max(column("memory"), default=0)) or None)

    def state(self) -> float:
        """Return the joules so far, for a checkpoint."""
        return self._joules

    def resume(self, joules: float) -> None:
        """Add the joules of the attempt that is resumed."""
        self._joules += joules

    def _counter(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError:
            return math.nan

    def _sample(self) -> None:
        nvml, handle = self._nvml, self._handle
        readers = {
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(
                handle, nvml.NVML_TEMPERATURE_GPU),
            "clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "slow": self._slowed,
        }
        while self._training.wait() and not self._over.is_set():
            row = {}
            for name, read in list(readers.items()):
                try:
                    row[name] = float(read())
                except nvml.NVMLError:  # this GPU has no such sensor
                    del readers[name]
            self._rows.append(row)
            self._over.wait(_EVERY_S)

    def _slowed(self) -> bool:
        """Whether clocks are lower than asked for, for a reason other than an idle GPU."""
        # Drivers of before 2023 know no newer name of it.
        read = self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        found = int(read(self._handle)) & sum(_SLOWDOWNS.values())
        self._reasons |= found
        return bool(found)


def _open(device: torch.device) -> tuple[Any, Any]:
    """Return the module ``pynvml`` and its handle of a GPU."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(
        uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
