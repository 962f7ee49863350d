"""Peak memory of the process."""

from pathlib import Path

import numpy as np
import pytest

from bench_apts.core import environment
from bench_apts.meters import memory_use

MIB = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(),
                           reason="the peak cannot be reset on this system")


@linux
def test_the_peak_holds_what_was_freed_until_it_is_reset():
    memory_use.reset_peak("cpu")
    before = memory_use.peak_bytes("cpu")
    block = np.ones(256 * MIB, dtype=np.uint8)
    peak = memory_use.peak_bytes("cpu")
    assert peak - before > 200 * MIB
    del block
    assert memory_use.peak_bytes("cpu") > peak - 16 * MIB  # the kernel counts in batches
    memory_use.reset_peak("cpu")
    assert memory_use.peak_bytes("cpu") < peak - 200 * MIB


@linux
def test_a_read_only_proc_is_no_reason_to_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_use, "_CLEAR_REFS", tmp_path)  # cannot be written: it is a folder
    before = memory_use.peak_bytes("cpu")
    memory_use.reset_peak("cpu")
    assert memory_use.peak_bytes("cpu") >= before


def test_without_proc_the_peak_since_the_start_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_use, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory_use, "_CLEAR_REFS", tmp_path / "none")
    memory_use.reset_peak("cpu")
    assert memory_use.peak_bytes("cpu") > 10 * MIB


@pytest.mark.gpu
def test_the_device_tells_its_own_peak():
    if not environment.gpu_count():
        pytest.skip("no CUDA device")
    import torch

    block = torch.ones(64 * MIB, dtype=torch.uint8, device="cuda")
    del block
    assert memory_use.peak_bytes("cuda") >= 64 * MIB
    memory_use.reset_peak("cuda")
    assert memory_use.peak_bytes("cuda") < 64 * MIB
