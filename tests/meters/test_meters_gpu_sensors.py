"""Sensors of a GPU by way of a stand-in for nvidia-ml-py's module, whose numbers are known."""

import math
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench_apts.meters import gpu_sensors
from bench_apts.meters.gpu_sensors import GpuSensors

CUDA = torch.device("cuda", 0)
HEAT = 0x40


class FakeNvml(ModuleType):
    """Counts 250 W while ``now`` goes on, at 80 °C; heat holds it down in its first reading."""

    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = 0

    class NVMLError(Exception):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.now, self.asked, self.slow = 0.0, "", [HEAT, 0x1]

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked = uuid
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return int(250_000 * self.now)

    def nvmlDeviceGetPowerUsage(self, handle):
        return 250_000

    def nvmlDeviceGetTemperature(self, handle, kind):
        return 80

    def nvmlDeviceGetClockInfo(self, handle, kind):
        raise self.NVMLError("no such sensor")

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=5_000)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.slow.pop(0) if len(self.slow) > 1 else self.slow[0]


@pytest.fixture
def nvml(monkeypatch):
    found = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    monkeypatch.setattr(gpu_sensors, "_EVERY_S", 0.001)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda device: SimpleNamespace(uuid="aa-bb"))
    return found


def wait_for_readings(sensors, number):
    deadline = time.monotonic() + 60
    while len(sensors._rows) < number:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_energy_is_that_of_training_alone(nvml):
    sensors = GpuSensors(CUDA)
    assert nvml.asked == "GPU-aa-bb"
    assert sensors.pause() == 0  # nothing was trained yet
    for trained, paused in ((2, 10), (3, 10)):
        sensors.begin()
        nvml.now += trained
        sensors.pause()
        nvml.now += paused
    assert sensors.pause() == 5 * 250
    later = GpuSensors(CUDA)
    later.resume(sensors.state())
    assert later.pause() == 5 * 250
    sensors.close()
    later.close()


def test_readings_are_summed_up_and_a_sensor_that_is_missing_is_left_out(nvml):
    sensors = GpuSensors(CUDA)
    sensors.begin()
    wait_for_readings(sensors, 4)
    found = sensors.close()
    assert (found.power_w, found.temperature_c, found.memory_bytes) == (250, 80, 5_000)
    assert found.clock_mhz is None
    assert found.reasons == ["heat (hardware)"]
    assert found.throttled == pytest.approx(1 / found.readings)


def test_what_reads_nothing_says_why(monkeypatch):
    assert "CPU" in GpuSensors(torch.device("cpu")).missing
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sensors = GpuSensors(CUDA)
    assert "pynvml" in sensors.missing
    sensors.begin()
    assert math.isnan(sensors.pause())
    assert sensors.close() is None
